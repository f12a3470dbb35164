// The messages of the open conversation. Only a window of them is in the page; additions and removals keep the view in
// place.

import { displayName } from "./list.js";
import { dayName, fullTime, hour, problem, t } from "./texts.js";
import { icon, isEmoji, make, setText, withLinks } from "./words.js";

const PAGE = 60; // messages fetched at once
const MAX_NODES = 300; // messages in the page
const NEAR = 800; // pixels from an end at which more is fetched
const GROUP_MS = 5 * 60_000; // a longer pause starts a new group of bubbles

// Icon and text of each state; no two differ only by colour.
const STATES = {
  sending: ["clock", "stateSending"],
  accepted: ["check", "stateAccepted"],
  delivered: ["checks", "stateDelivered"],
  read: ["disc", "stateRead"],
  failed: ["alert", "stateFailed"],
};

const later = (a, b) => a.time - b.time || (a.id < b.id ? -1 : 1);

export class Log {
  /** Whether the newest message is in view. */
  following = true;
  conv = null;
  #items = []; // as in the page, oldest first
  #nodes = new Map(); // id → element
  #pending = new Map(); // rno → element; below all others
  #waiting = () => []; // returns the unaccepted entries
  #marks = { delivered: "", seen: "" };
  #room = false;
  #older = false; // Are there more than in the page, above …
  #newer = false; // … and below?
  #loading = false;
  #settling = false;
  #top = 0;
  #opening = null; // deferred updates while a conversation opens
  #era = 0;

  /** `hooks`: moved() when `following` may have changed, retry(rno), discard(rno). */
  constructor(root, history, hooks) {
    Object.assign(this, { root, history, hooks });
    root.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    // The keyboard of a phone or a growing composer must not hide the newest message.
    new ResizeObserver(() => this.following && this.#scrollDown()).observe(root);
  }

  /** Opens a conversation at a found message, else at the first unread one. `pending(conv)` returns unaccepted entries. */
  async show(record, pending, found) {
    const era = ++this.#era;
    const { conv, room } = record;
    const unread = found ? 0 : record.unread;
    const start = found ? { conv, time: found.time, id: "" } : unread && { conv, time: record.readTime, id: [] };
    this.conv = conv;
    this.#waiting = pending;
    this.#opening = [];
    const many = unread > PAGE * 2;
    const limit = many ? PAGE * 2 : unread * 2 + PAGE;
    const [above, below] = start
      ? await Promise.all([this.history.before(start, PAGE / 3), this.history.after(start, limit)])
      : [await this.history.before({ conv }, PAGE), []];
    if (era !== this.#era) return;
    this.#room = room;
    this.#marks = record;
    this.#setOlder(above.length >= (start ? PAGE / 3 : PAGE));
    this.#newer = many || below.length === limit;
    this.#items = [...above, ...below];
    this.#nodes.clear();
    this.#pending.clear();
    this.root.replaceChildren(...this.#items.map((item) => this.#build(item)));
    this.arrange();
    this.#putWaiting();
    this.root.hidden = false;
    this.following = !this.#newer;
    const first = unread && this.#items.find(({ mine, time }) => !mine && time > record.readTime);
    if (first) this.#divide(this.#nodes.get(first.id));
    this.#scrollDown();
    if (first) this.#reveal(this.#nodes.get(first.id));
    if (found) this.#focus(this.#nodes.get(found.id));
    const came = this.#opening;
    this.#opening = null;
    for (const act of came) act();
    this.#onScroll();
  }

  #focus(node) {
    if (!node) return;
    this.#reveal(node);
    node.tabIndex = -1;
    node.focus({ preventScroll: true });
  }

  #setOlder(isMore) {
    this.#older = isMore;
    if (isMore) delete this.root.dataset.begin;
    else this.root.dataset.begin = t("earlier");
  }

  close() {
    this.#era++;
    this.conv = this.#opening = null;
    this.#items = [];
    this.#nodes.clear();
    this.#pending.clear();
    this.root.replaceChildren();
  }

  get isEmpty() {
    return !this.#items.length && !this.#pending.size;
  }

  // ---- building

  #build(item) {
    const { id, from, text, time, mine } = item;
    const node = make("div", `message ${mine ? "mine" : "theirs"}`);
    node.item = item;
    if (isEmoji(text)) node.classList.add("emoji");
    const bubble = make("div", "bubble");
    const who = make("bdi", this.#room && !mine ? "name" : "sr", mine ? t("you") : displayName(from, false));
    const body = make("div", "text");
    body.dir = "auto";
    body.append(...withLinks(text));
    const stamp = make("time", "", hour(time));
    stamp.dateTime = new Date(time).toISOString();
    stamp.title = fullTime(time);
    const meta = make("div", "meta");
    meta.append(stamp);
    if (mine) meta.append(make("span", "state"));
    bubble.append(who, body, meta);
    node.append(bubble);
    if (id) this.#nodes.set(id, node);
    if (mine) this.#paint(node, item.state ?? this.#stateOf(id));
    return node;
  }

  #stateOf(id) {
    if (this.#marks.seen >= id) return "read";
    return this.#marks.delivered >= id ? "delivered" : "accepted";
  }

  #paint(node, state) {
    if (node.dataset.state === state) return;
    const [drawing, key] = STATES[state];
    const words = t(key);
    node.dataset.state = state;
    const place = node.querySelector(".state");
    place.title = words;
    place.replaceChildren(icon(drawing), make("span", "sr", words));
  }

  // Day separators and grouping depend only on the neighbour above.
  #arrange(node) {
    if (!node) return;
    const above = node.previousElementSibling?.item;
    const { time, mine, from } = node.item;
    const day = dayName(time);
    const newDay = !above || dayName(above.time) !== day;
    if (newDay) node.dataset.day = day;
    else delete node.dataset.day;
    const close = above && Math.abs(time - above.time) < GROUP_MS;
    const joined = Boolean(close && !newDay && above.mine === mine && (mine || above.from === from));
    node.classList.toggle("joined", joined && !node.dataset.divider);
    node.previousElementSibling?.classList.toggle("followed", joined && !node.dataset.divider);
    if (!node.nextElementSibling) node.classList.remove("followed");
  }

  /** Day separators change when the page stays open over midnight. */
  arrange() {
    for (const node of this.root.children) this.#arrange(node);
  }

  /** Shows changed names of senders. */
  rename() {
    for (const { item } of this.root.children) {
      if (!item.mine) setText(this.#nodes.get(item.id).querySelector("bdi"), displayName(item.from, false));
    }
  }

  #divide(node) {
    if (!node || this.root.querySelector("[data-divider]")) return;
    node.dataset.divider = t("newDivider");
    this.#arrange(node);
  }

  undivide() {
    const node = this.root.querySelector("[data-divider]");
    if (!node) return;
    delete node.dataset.divider;
    this.#arrange(node);
  }

  // ---- updates

  /** Adds messages; unread ones get a divider if nobody watches. */
  add(messages, isWatched) {
    if (this.#opening) return void this.#opening.push(() => this.add(messages, isWatched));
    for (const message of messages) {
      if (this.#nodes.has(message.id)) continue;
      // Messages below the window are fetched when the reader gets there.
      if (!this.following && this.#items.length >= MAX_NODES) this.#newer = true;
      if (this.#newer && later(message, this.#items.at(-1)) > 0) continue;
      this.#insert(message);
      if (!message.mine && !isWatched) this.#divide(this.#nodes.get(message.id));
    }
    this.#settle();
  }

  // A delayed message may come after newer ones, so each finds its place from the end.
  #insert(item) {
    let place = this.#items.length;
    while (place > 0 && later(this.#items[place - 1], item) > 0) place--;
    if (place === 0 && this.#older) return;
    const below = this.#nodes.get(this.#items[place]?.id) ?? this.#pending.values().next().value ?? null;
    this.#items.splice(place, 0, item);
    const node = this.#build(item);
    this.root.insertBefore(node, below);
    this.#arrange(node);
    this.#arrange(below);
  }

  /** Unaccepted messages stand below the newest one. */
  #putWaiting() {
    if (!this.#newer) for (const entry of this.#waiting(this.conv)) this.#put(entry);
  }

  /** Shows the state of an own message. */
  put(entry) {
    if (this.#opening) return void this.#opening.push(() => this.put(entry));
    this.#put(entry);
    this.#settle();
  }

  #put(entry) {
    const { rno, id, state } = entry;
    const known = this.#pending.get(rno);
    if (id) {
      this.#drop(rno);
      if (this.#nodes.has(id)) return this.#paint(this.#nodes.get(id), this.#best(this.#nodes.get(id), state));
      return this.add([{ ...entry, mine: 1, from: "", state }], true);
    }
    if (this.#newer) return;
    if (known && known.dataset.state !== state) this.#drop(rno);
    if (!known || known.dataset.state !== state) {
      const node = this.#build({ ...entry, id: "", mine: 1, from: "" });
      node.dataset.rno = rno;
      if (state === "failed") node.append(this.#problem(entry));
      this.#pending.set(rno, node);
      this.root.append(node);
      this.#arrange(node);
    }
  }

  #best(node, state) {
    const order = ["accepted", "delivered", "read"];
    return order.indexOf(node.dataset.state) > order.indexOf(state) ? node.dataset.state : state;
  }

  #drop(rno) {
    const node = this.#pending.get(rno);
    const below = node?.nextElementSibling;
    this.#pending.delete(rno);
    node?.remove();
    this.#arrange(below);
  }

  discard(rno) {
    this.#drop(rno);
    this.hooks.moved();
  }

  #problem({ rno, error }) {
    const row = make("p", "problem");
    const [retry, remove] = [make("button", "", t("retry")), make("button", "plain", t("delete"))];
    for (const button of [retry, remove]) button.type = "button";
    retry.addEventListener("click", () => this.hooks.retry(rno));
    remove.addEventListener("click", () => this.hooks.discard(rno));
    row.append(make("span", "", t("notSent", { why: problem(error) })), retry, remove);
    return row;
  }

  /** Shows how far the peer has received and read. */
  mark(marks) {
    this.#marks = marks;
    for (const { id, mine } of this.#items) {
      const node = this.#nodes.get(id);
      if (mine) this.#paint(node, this.#best(node, this.#stateOf(id)));
    }
  }

  // ---- the window

  // Once per frame: reading the height forces a layout.
  #settle() {
    if (this.#settling) return;
    this.#settling = true;
    const settle = () => {
      if (!this.#settling) return;
      this.#settling = false;
      if (this.following) {
        this.#trim("older");
        this.#scrollDown();
      }
      this.hooks.moved();
    };
    // A hidden page has no frames.
    if (document.hidden) setTimeout(settle, 50);
    else requestAnimationFrame(settle);
  }

  #scrollTo(top) {
    this.root.scrollTop = top;
    this.#top = this.root.scrollTop;
  }

  #scrollDown() {
    this.#scrollTo(this.root.scrollHeight);
  }

  #reveal(node) {
    const top = node.getBoundingClientRect().top - this.root.getBoundingClientRect().top;
    if (top >= 0) return;
    this.following = false;
    this.#scrollTo(this.root.scrollTop + top - 24);
  }

  #onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.root;
    const rest = scrollHeight - scrollTop - clientHeight;
    // Only a reader scrolls up; new messages must not undo it.
    const isUp = scrollTop < this.#top - 1;
    this.#top = scrollTop;
    if (rest < 48 && !this.#newer) this.following = true;
    else if (isUp || this.#newer) this.following = false;
    if (scrollTop < NEAR && this.#older) this.#more("older");
    else if (rest < NEAR && this.#newer) this.#more("newer");
    this.hooks.moved();
  }

  async #more(side) {
    if (this.#loading || !this.conv || !this.#items.length) return;
    this.#loading = true;
    const era = this.#era;
    const { time, id } = side === "older" ? this.#items[0] : this.#items.at(-1);
    const found = await this.history[side === "older" ? "before" : "after"]({ conv: this.conv, time, id }, PAGE);
    this.#loading = false;
    if (era !== this.#era) return;
    this.#hold(() => {
      if (side === "older") this.#setOlder(found.length === PAGE);
      else this.#newer = found.length === PAGE;
      const added = found.filter(({ id }) => !this.#nodes.has(id));
      const nodes = added.map((item) => this.#build(item));
      if (side === "older") {
        this.#items.unshift(...added);
        this.root.prepend(...nodes);
      } else {
        this.#items.push(...added);
        this.root.append(...nodes, ...this.#pending.values());
      }
      this.arrange();
      this.#trim(side === "older" ? "newer" : "older");
      this.#putWaiting();
    });
    this.#onScroll();
  }

  #trim(side) {
    const surplus = this.#items.length - MAX_NODES;
    if (surplus <= 0) return;
    const gone = side === "older" ? this.#items.splice(0, surplus) : this.#items.splice(-surplus);
    for (const { id } of gone) {
      this.#nodes.get(id).remove();
      this.#nodes.delete(id);
    }
    if (side === "older") {
      this.#setOlder(true);
      this.#arrange(this.root.firstElementChild);
    } else {
      this.#newer = true;
      for (const node of this.#pending.values()) node.remove();
      this.#pending.clear();
    }
  }

  /** Keeps the view in place while `change` modifies what is above or below. */
  #hold(change) {
    const { top, bottom } = this.root.getBoundingClientRect();
    const inView = [...this.root.children].filter((node) => {
      const box = node.getBoundingClientRect();
      return box.bottom > top && box.top < bottom;
    });
    const before = new Map(inView.map((node) => [node, node.querySelector(".bubble").getBoundingClientRect().top]));
    change();
    const kept = inView.find((node) => node.isConnected);
    if (!kept) return;
    const moved = kept.querySelector(".bubble").getBoundingClientRect().top - before.get(kept);
    this.#scrollTo(this.root.scrollTop + moved);
  }

  /** Scrolls to the newest message. */
  async jump(record, pending) {
    if (this.#newer) await this.show({ ...record, unread: 0 }, pending);
    else this.root.scrollTo({ top: this.root.scrollHeight });
  }
}
