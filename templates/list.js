// The list of conversations, with presence and typing.

import { number, shortTime, t } from "./texts.js";
import { $, make, paintAvatar, preview, setText } from "./words.js";

// Values rendered by the host application.
export const given = document.querySelector(".app").dataset;

export const people = new Map(); // conv → conversation, as history.js has it
export const presence = new Map(); // user → { on, last }
export const typing = new Set(); // users who type

/** The conversation that is shown. */
export const shown = { conv: undefined };

/** A conversation is named `u/` and a user, or `r/` and a room. */
export const convOf = ({ room, mine, from, to }) => (room ? `r/${room}` : `u/${mine === false ? from : to}`);
export const isRoom = (conv) => conv.startsWith("r/");
export const nameOf = (conv) => conv.slice(2);

/** The name that the page shows for the id of a user or a room. */
export let displayName = (id) => id;

/** Replaces `displayName(id, isRoom)`; call it again when names have changed. */
export function setDisplayName(hook) {
  displayName = hook;
  dispatchEvent(new Event("names"));
}

export const titleOf = (conv) => displayName(nameOf(conv), isRoom(conv));
export const addressOf = (conv) => `#${conv.slice(0, 2)}${encodeURIComponent(nameOf(conv))}`;

/** The conversation in the page's URL. */
export function fromAddress() {
  const [, kind, name] = /^#([ur])\/(.+)$/.exec(location.hash) ?? [];
  if (!name) return null;
  try {
    return `${kind}/${decodeURIComponent(name)}`;
  } catch {
    return null;
  }
}

export const isWatched = () => !document.hidden && document.hasFocus();

const MANY = 99; // unread messages; larger numbers show as this and a plus

function build(conv) {
  const row = make("li");
  const link = make("a");
  link.href = addressOf(conv);
  const avatar = make("span", "avatar");
  avatar.append(make("span"), make("i", "dot"));
  avatar.setAttribute("aria-hidden", "true");
  const top = make("span", "row-top");
  top.append(make("bdi", "row-name"), make("time"));
  const bottom = make("span", "row-bottom");
  bottom.append(make("bdi", "row-text"), make("span", "badge"));
  link.append(avatar, top, bottom, make("span", "sr online"));
  row.append(link);
  return row;
}

/** The last message as one line. */
export function lastWords({ room, last }) {
  if (!last) return t("noMessages");
  const who = last.mine ? t("you") : room && displayName(last.from, false);
  return (who ? `${who}: ` : "") + preview(last.text);
}

/** All conversations, the newest first. */
export const newestFirst = () => [...people.values()].sort((a, b) => b.at - a.at);

export class List {
  #rows = new Map(); // conv → element
  #isPlanned = false;

  /** `isLookedAt(conv)`: it is about to be read, so a count would only flicker. */
  constructor({ isLookedAt }) {
    this.isLookedAt = isLookedAt;
    $("search").addEventListener("input", () => this.soon());
    addEventListener("names", () => this.soon());
    addEventListener("keydown", (event) => this.#onShortcut(event));
    document.querySelector(".side").addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** Renders all changes with the next frame. */
  soon() {
    if (this.#isPlanned) return;
    this.#isPlanned = true;
    const paint = () => {
      this.#isPlanned = false;
      this.paint();
    };
    // A hidden page has no frames, but a title.
    if (document.hidden) setTimeout(paint);
    else requestAnimationFrame(paint);
  }

  paint() {
    const wanted = $("search").value.trim().toLowerCase();
    const all = newestFirst();
    const found = all.filter(({ conv, name }) => `${titleOf(conv)}\n${name}`.toLowerCase().includes(wanted));
    this.#place(found.map((record) => this.#row(record)));
    $("list-hint").hidden = found.length > 0;
    setText($("list-hint"), t(wanted ? "nobody" : "start"));
    const unread = all.reduce((sum, record) => sum + this.#unread(record), 0);
    document.title = `${unread ? `(${unread}) ` : ""}${shown.conv ? `${titleOf(shown.conv)} · ` : ""}kschat`;
  }

  // Moving an element that is in place would lose its focus.
  #place(rows) {
    const list = $("list");
    for (const row of [...list.children]) if (!rows.includes(row)) row.remove();
    rows.forEach((row, index) => row === list.children[index] || list.insertBefore(row, list.children[index] ?? null));
  }

  #unread({ conv, unread }) {
    return this.isLookedAt(conv) ? 0 : unread;
  }

  #row(record) {
    const { conv, last, name, room } = record;
    if (!this.#rows.has(conv)) this.#rows.set(conv, build(conv));
    const row = this.#rows.get(conv);
    const part = (selector) => row.querySelector(selector);
    const unread = this.#unread(record);
    const isHere = !room && Boolean(presence.get(name)?.on);
    const isTyping = !room && typing.has(name);
    this.#rename(part, conv);
    row.classList.toggle("here", isHere);
    row.classList.toggle("unread", unread > 0);
    row.classList.toggle("typing", isTyping);
    setText(part(".online"), isHere ? t("online") : "");
    setText(part("time"), last ? shortTime(last.time) : "");
    setText(part(".row-text"), isTyping ? t("typing") : lastWords(record));
    setText(part(".badge"), unread > MANY ? `${MANY}+` : unread ? number(unread) : "");
    if (unread) part(".badge").setAttribute("aria-label", t("unread", { n: unread }));
    if (conv === shown.conv) part("a").setAttribute("aria-current", "page");
    else part("a").removeAttribute("aria-current");
    return row;
  }

  #rename(part, conv) {
    const title = titleOf(conv);
    if (part(".row-name").textContent === title) return;
    part(".row-name").textContent = title;
    paintAvatar(part(".avatar"), title, isRoom(conv));
  }

  // Ctrl+K, on Apple's keyboards ⌘K.
  #onShortcut(event) {
    const { key, ctrlKey, metaKey, shiftKey, altKey } = event;
    const isOurs = /Mac|iP/.test(navigator.platform) ? metaKey && !ctrlKey : ctrlKey && !metaKey;
    if (!/^k$/i.test(key) || !isOurs || shiftKey || altKey) return;
    event.preventDefault();
    // A narrow screen shows the list or a conversation.
    if (shown.conv && !$("search").offsetParent) {
      given.view = "list";
      location.hash = "";
    }
    $("search").focus();
    $("search").select();
  }

  // Arrow keys navigate the list like a menu; Enter in the search opens the first.
  #onKey(event) {
    if (event.target === $("search")) this.#onSearchKey(event);
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const links = [...$("lists").querySelectorAll("a")];
    const next = links.indexOf(document.activeElement) + step;
    event.preventDefault();
    if (next < 0) $("search").focus();
    else links[next]?.focus();
  }

  #onSearchKey({ key, isComposing }) {
    const { value } = $("search");
    if (key === "Escape" && !value) $("msg").focus();
    if (key !== "Enter" || isComposing || !value) return;
    this.paint();
    const first = $("lists").querySelector("a");
    if (!first) return;
    first.click();
    $("msg").focus();
    $("search").value = "";
    $("search").dispatchEvent(new Event("input"));
  }
}
