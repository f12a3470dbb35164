// Elements, avatars and message texts; the edge view uses them, too.

export const $ = (id) => document.getElementById(id);

export function make(tag, className, ...content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...content);
  return node;
}

/** Rewriting the same text would disturb selections, and make screen readers repeat it. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Size and path of each icon.
const ICONS = {
  clock: [16, "M8 2.5a5.5 5.5 0 1 0 .01 0M8 5v3.2l2 1.3"],
  check: [16, "M3 8.5l3.2 3.2L13 5"],
  checks: [16, "M.8 8.5L4 11.7 10.3 5M7.5 11.2l.6.5L14.9 5"],
  disc: [16, "M8 1.5a6.5 6.5 0 0 0 0 13 6.5 6.5 0 0 0 0-13zM4 8.8l3 3 5-5.4-1.2-1.1L7 9.4 5.2 7.6z"],
  alert: [16, "M8 2a6 6 0 1 0 .01 0M8 4.8v3.9M8 11.1v.1"],
  back: [24, "M15 5l-7 7 7 7"],
  plus: [24, "M12 5v14M5 12h14"],
  bell: [24, "M6 17v-6a6 6 0 0 1 12 0v6l1.5 1.5h-15zM10.5 21.5h3"],
  search: [24, "M11 4.5a6.5 6.5 0 1 0 .01 0M16 16l4.5 4.5"],
  up: [24, "M12 19V6M6 12l6-6 6 6"],
  logo: [24, "M8.5 12h7M2.5 12a3 3 0 1 0 6 0a3 3 0 1 0-6 0M15.5 12a3 3 0 1 0 6 0a3 3 0 1 0-6 0"],
  down: [24, "M12 5v13M6 12l6 6 6-6"],
};

export function icon(name) {
  const [size, path] = ICONS[name];
  const [svg, shape] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("viewBox", `0 0 ${size} ${size}`);
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

// ---- avatars

/** Maps a name to one of six colours. */
export function tone(name) {
  let sum = 0;
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)) % 9973;
  return `tone-${sum % 6}`;
}

const letters = new Intl.Segmenter();

/** The first grapheme, which may be several characters. */
const initial = (name) => [...letters.segment(name.trim())][0]?.segment.slice(0, 12).toUpperCase() ?? "?";

export function paintAvatar(node, name, room) {
  node.className = `${node.className.replace(/ ?(tone-\d|room)/g, "")} ${tone(name)}${room ? " room" : ""}`;
  node.firstElementChild.textContent = room ? "#" : initial(name);
}

// ---- message texts

const EMOJI_ONLY = /^(?:\p{Emoji_Presentation}|\p{Extended_Pictographic}\uFE0F|[\p{Emoji_Modifier}\u200D\uFE0F])+$/u;

export const isEmoji = (text) => text.length <= 16 && EMOJI_ONLY.test(text);

const LINK = /\bhttps?:\/\/[^\s<>"'\u2028\u2029]*[^\s<>"'\u2028\u2029.,:;!?)\]]/gi;

/** The text with links for addresses. Never HTML. */
export function withLinks(text) {
  const parts = [];
  let end = 0;
  for (const { 0: address, index } of text.matchAll(LINK)) {
    const link = make("a", "", address);
    link.href = address;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    parts.push(text.slice(end, index), link);
    end = index + address.length;
  }
  return [...parts, text.slice(end)];
}

/** As one line of a list. */
export const preview = (text) => text.slice(0, 120).replace(/\s+/gu, " ");
