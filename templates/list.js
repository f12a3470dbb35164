// The list of conversations: who, the last words, when, how many are unread, who is here.

import { addressOf, isRoom, nameOf, people, presence, shown, typing } from "./state.js";
import { $, make, paintAvatar, preview, shortTime } from "./words.js";

const MANY = 99; // unread messages; more are not counted out

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function build(conv) {
  const row = make("li");
  const link = make("a");
  link.href = addressOf(conv);
  const avatar = make("span", "avatar");
  avatar.append(make("span"), make("i", "dot"));
  avatar.setAttribute("aria-hidden", "true");
  const top = make("span", "row-top");
  top.append(make("bdi", "row-name", nameOf(conv)), make("time"));
  const bottom = make("span", "row-bottom");
  bottom.append(make("bdi", "row-text"), make("span", "badge"));
  link.append(avatar, top, bottom, make("span", "sr online"));
  row.append(link);
  paintAvatar(avatar, nameOf(conv), isRoom(conv));
  return row;
}

function lastWords({ room, last }) {
  if (!last) return "No messages yet";
  return (last.mine ? "You: " : room ? `${last.from}: ` : "") + preview(last.text);
}

export class List {
  #rows = new Map(); // conv → element
  #isPlanned = false;

  /** `isLookedAt(conv)`: then it is about to be read, and counting it would only flicker. */
  constructor({ isLookedAt }) {
    this.isLookedAt = isLookedAt;
    $("search").addEventListener("input", () => this.soon());
    document.querySelector(".side").addEventListener("keydown", (event) => this.#onKey(event));
  }

  /** Paints it with the next frame, once for all that has changed until then. */
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
    const all = [...people.values()].sort((a, b) => b.at - a.at);
    const found = all.filter(({ name }) => name.toLowerCase().includes(wanted));
    this.#place(found.map((record) => this.#row(record)));
    $("list-hint").hidden = found.length > 0;
    const nobody = wanted ? "Nobody by that name here. Start a new conversation with +." : "Start a conversation with +.";
    setText($("list-hint"), nobody);
    const unread = all.reduce((sum, record) => sum + this.#unread(record), 0);
    document.title = `${unread ? `(${unread}) ` : ""}${shown.conv ? `${nameOf(shown.conv)} · ` : ""}kschat`;
  }

  // Moving what is in its place would take the focus from it.
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
    row.classList.toggle("here", isHere);
    row.classList.toggle("unread", unread > 0);
    row.classList.toggle("typing", isTyping);
    setText(part(".online"), isHere ? "online" : "");
    setText(part("time"), last ? shortTime(last.time) : "");
    setText(part(".row-text"), isTyping ? "typing…" : lastWords(record));
    setText(part(".badge"), unread > MANY ? `${MANY}+` : unread ? String(unread) : "");
    if (unread) part(".badge").setAttribute("aria-label", `${unread} unread`);
    if (conv === shown.conv) part("a").setAttribute("aria-current", "page");
    else part("a").removeAttribute("aria-current");
    return row;
  }

  // Arrows walk through the list as through a menu.
  #onKey(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const links = [...$("list").querySelectorAll("a")];
    const next = links.indexOf(document.activeElement) + step;
    event.preventDefault();
    if (next < 0) $("search").focus();
    else links[next]?.focus();
  }
}
