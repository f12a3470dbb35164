// Rooms: joined, left, and restored after the server has lost its data.
//
// Membership belongs to a user, so after a reconnect the server's list is authoritative: a missing room was left on
// another device, unless the server has lost its data. Then it has also lost a receipt of the last week; if there was
// none, an empty list means the same. README.md explains more.

import {
  backoff, codeOf, MARK_LIFETIME, MAX_ROOMS, MAX_TRIES, NOT_ALLOWED, now, OK, plain, sleep, TRANSIENT_CODES,
} from "./common.js";
import { askStatus } from "./requests.js";

export class Rooms {
  #options;
  #requests;
  #store;
  #hooks;
  #joining = new Map(); // room → joins in flight
  #epoch = 0;
  #restoring = null; // a promise, while the server's lost rooms are not restored

  /** `hooks`: changed(room, isJoined), ready() when messages to rooms may be sent. */
  constructor(options, requests, store, hooks) {
    this.#options = options;
    this.#requests = requests;
    this.#store = store;
    this.#hooks = hooks;
  }

  // Other tabs change these, too.
  #stored(name) {
    const stored = this.#store.get(name);
    return new Set(Array.isArray(stored) ? stored.map(plain).filter(Boolean) : []);
  }

  #keep(name, rooms) {
    if (rooms.size) this.#store.set(name, [...rooms].slice(-MAX_ROOMS));
    else this.#store.remove(name);
  }

  get #joined() {
    return this.#stored("rooms");
  }

  /** Whether a message may be sent there now; otherwise ready() follows. */
  canSend(room) {
    return !this.#restoring && !this.#joining.has(room);
  }

  async join(room, how) {
    this.#joining.set(room, (this.#joining.get(room) ?? 0) + 1);
    try {
      await this.#ask("join", room, how);
      return { room };
    } finally {
      const others = this.#joining.get(room) - 1;
      if (others) this.#joining.set(room, others);
      else this.#joining.delete(room);
      if (!others) this.#hooks.ready();
    }
  }

  async leave(room) {
    // Even without a reply: it must not be rejoined.
    this.#forget(room);
    await this.#ask("leave", room);
    return { room };
  }

  #ask(action, room, how) {
    const isAnswer = ({ event, OP, GID, ER }) =>
      event === "RESPROOM" && (ER !== OK || (OP === action && plain(GID) === room));
    return this.#requests.ask("rooms", { action, gId: room }, isAnswer, how);
  }

  /** The server's rooms, once lost ones are restored. */
  async list() {
    while (this.#restoring) await this.#restoring;
    return this.#list();
  }

  async #list(how) {
    const isAnswer = ({ event, OP, ER }) => event === "RESPROOM" && (OP === "list" || ER !== OK);
    const { LIST } = await this.#requests.ask("rooms", { action: "rooms" }, isAnswer, how);
    const listed = Array.isArray(LIST) ? LIST.map(plain) : [];
    this.#keep("rooms", new Set([...this.#joined, ...listed]));
    return listed;
  }

  heard(frame) {
    const room = plain(frame.GID);
    if (codeOf(frame) !== OK || !room) return;
    if (frame.OP === "join") this.#onJoined(room);
    else if (frame.OP === "leave") this.#onLeft(room);
  }

  #onJoined(room) {
    this.#keep("rooms", this.#joined.add(room));
    this.#remove("lost", room);
    this.#hooks.changed(room, true);
  }

  #onLeft(room) {
    this.#forget(room);
    this.#hooks.changed(room, false);
  }

  #forget(room) {
    this.#remove("rooms", room);
    this.#remove("lost", room);
  }

  #remove(name, room) {
    const rooms = this.#stored(name);
    if (rooms.delete(room)) this.#keep(name, rooms);
  }

  /** Stores a receipt of one of our messages. */
  received(user) {
    const mark = this.#store.get("mark");
    // Any receipt will do, so few are written.
    if (plain(mark?.user) === user && now() - mark.at < MARK_LIFETIME / 7) return;
    this.#store.set("mark", { user, at: now() });
  }

  opened() {
    this.#epoch++;
    this.#restoring = this.#joined.size ? this.#restore() : null;
  }

  /** The server reports that we are not in this room. Returns whether it may have lost its data; then the room is restored. */
  verify(room) {
    if (!this.#joined.has(room)) return false;
    this.#restoring ??= this.#restore();
    return true;
  }

  async #restore() {
    const epoch = this.#epoch;
    for (let attempt = 0; attempt < MAX_TRIES && !(await this.#tryRestore(epoch)); attempt++) {
      await sleep(backoff(attempt, this.#options));
      if (epoch !== this.#epoch) return;
    }
    if (epoch !== this.#epoch) return;
    this.#restoring = null;
    this.#hooks.ready();
  }

  /** False if a retry may succeed. */
  async #tryRestore(epoch) {
    try {
      await this.#reconcile(epoch);
      return true;
    } catch (error) {
      return !(TRANSIENT_CODES.has(error.code) || error.code === "timeout");
    }
  }

  async #reconcile(epoch) {
    const how = { first: true, impatient: true };
    const joined = this.#joined;
    const listed = await this.#list(how);
    const missing = [...joined].filter((room) => !listed.includes(room));
    const known = this.#stored("lost");
    if (missing.some((room) => !known.has(room)) && (await this.#hasLostMemory(listed, how))) {
      this.#keep("lost", new Set([...known, ...missing]));
      this.#store.remove("mark");
    }
    const lost = this.#stored("lost");
    for (const room of missing) {
      if (epoch !== this.#epoch) return;
      // It may have been left meanwhile.
      if (!this.#joined.has(room)) continue;
      if (lost.has(room)) await this.#joinAgain(room, how);
      else this.#onLeft(room);
    }
  }

  async #joinAgain(room, how) {
    try {
      await this.join(room, how);
    } catch (error) {
      if (error.code !== NOT_ALLOWED) throw error;
      this.#onLeft(room);
    }
  }

  async #hasLostMemory(listed, how) {
    const mark = this.#store.get("mark");
    const user = plain(mark?.user);
    if (!user || !(now() - mark.at < MARK_LIFETIME)) return !listed.length;
    try {
      const [found] = await askStatus(this.#requests, [user], how);
      return !found?.delivered && !found?.read;
    } catch (error) {
      if (["offline", "timeout"].includes(error.code) || TRANSIENT_CODES.has(error.code)) throw error;
      return !listed.length;
    }
  }
}
