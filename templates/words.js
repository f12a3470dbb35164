// Small tools of the chat page: names, times, texts, elements.

export const $ = (id) => document.getElementById(id);

export function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** One of the drawings in client.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// ---- names

const letters = new Intl.Segmenter();

/** The first letter as a reader sees it, which may be several characters. */
const initial = (name) => [...letters.segment(name.trim())][0]?.segment.slice(0, 12).toUpperCase() ?? "?";

/** A name always gets the same of six colours. */
export function tone(name) {
  let sum = 0;
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)) % 9973;
  return `tone-${sum % 6}`;
}

export function paintAvatar(node, name, room) {
  node.className = `${node.className.replace(/ ?(tone-\d|room)/g, "")} ${tone(name)}${room ? " room" : ""}`;
  node.firstElementChild.textContent = room ? "#" : initial(name);
}

// ---- times

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const longDate = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });
const shortDate = new Intl.DateTimeFormat(undefined, { dateStyle: "short" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "short" });

const daysAgo = (millis) => {
  const midnight = (time) => new Date(time).setHours(0, 0, 0, 0);
  return Math.round((midnight(Date.now()) - midnight(millis)) / 86_400_000);
};

export const hour = (millis) => clock.format(millis);
export const fullTime = (millis) => `${longDate.format(millis)}, ${clock.format(millis)}`;
export const dayName = (millis) => ["Today", "Yesterday"][daysAgo(millis)] ?? longDate.format(millis);

/** As short as a list wants it. */
export function shortTime(millis) {
  const days = daysAgo(millis);
  if (days < 1) return hour(millis);
  return days < 7 ? weekday.format(millis) : shortDate.format(millis);
}

export function lastSeen(millis) {
  const minutes = Math.round((Date.now() - millis) / 60_000);
  if (minutes < 1) return "last seen just now";
  if (minutes < 60) return `last seen ${plural(minutes, "minute")} ago`;
  return `last seen ${daysAgo(millis) < 1 ? "at" : "on"} ${shortTime(millis)}`;
}

// ---- texts

const EMOJI_ONLY = /^(?:\p{Emoji_Presentation}|\p{Extended_Pictographic}\uFE0F|[\p{Emoji_Modifier}\u200D\uFE0F])+$/u;

export const isEmoji = (text) => text.length <= 16 && EMOJI_ONLY.test(text);

const LINK = /\bhttps?:\/\/[^\s<>"'\u2028\u2029]*[^\s<>"'\u2028\u2029.,:;!?)\]]/gi;

/** The text, with what looks like an address as a link. Never HTML. */
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
