// Outgoing messages: stored until they are accepted, one in flight to each recipient.

import {
  backoff, codeOf, errorOf, INTERNAL, isObject, KschatError, MAX_FAILED, MAX_IN_FLIGHT, MAX_MESSAGE_BYTES, MAX_OUTBOX,
  MAX_RETRY_AFTER, MAX_TRIES, NOT_ALLOWED, now, OK, OUTCOME_UNKNOWN, plain, REUSED_RNO, RNO_WINDOW, sizeOf, timeOf,
  Timer, TOKEN_CODES, TOO_LARGE, TRANSIENT_CODES,
} from "./common.js";

// Unpredictable, and reveals no count.
const randomRno = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const randomName = () =>
  [...crypto.getRandomValues(new Uint32Array(2))].map((number) => number.toString(36)).join("");

const laneKeyOf = ({ to, room }) => JSON.stringify([room ? 1 : 0, to]);

const describeError = ({ code, message }) => ({ code, message });

// The storage may hold anything.
function isEntry(value) {
  if (!isObject(value) || !plain(value.rno) || !plain(value.to) || typeof value.text !== "string") return false;
  return Number.isFinite(value.time) && Number.isFinite(value.tries);
}

/** Queue of one recipient's messages, oldest first. It exists while it is not empty. */
export class Lane {
  queue = [];
  socket = null; // on which the first message is in flight
  waits = 0;
  answer = new Timer();
  hold = new Timer();
  isHolding = false;

  constructor(key) {
    this.key = key;
  }
}

export class Outbox {
  #options;
  #store;
  #formerStore; // of versions whose keys did not name the server
  #user;
  #hooks;
  #entries = new Map(); // rno → entry
  #failed = new Set(); // failed entries, oldest first
  #lanes = new Map(); // by recipient
  #ready = new Set(); // lanes that can send
  #blocked = new Set(); // lanes of rooms that can't be sent to yet
  #inFlight = new Set(); // lanes
  #tab = randomName();
  #tabs = new Set(); // other tabs that may end
  #count = 0;
  #closed = null; // why, as a code
  #release;

  /**
   * `hooks`: socket(), changed(entry), accepted(entry, frame), refused(error, waits, socket), unanswered(socket),
   * canSend(room), verify(room).
   */
  constructor(options, { ofServer, ofUser }, user, hooks) {
    this.#options = options;
    this.#store = ofServer;
    this.#formerStore = ofUser;
    this.#user = user;
    this.#hooks = hooks;
  }

  get list() {
    return [...this.#entries.values()].map((entry) => this.describe(entry));
  }

  describe({ rno, to, room, text, time, error, id }) {
    const state = error ? "failed" : id ? "accepted" : "sending";
    return { rno, to, text, time, state, ...(room && { room }), ...(id && { id }), ...(error && { error }) };
  }

  // -- other pages

  /** Adopts entries of ended pages: each tab holds a lock during its life. */
  adopt() {
    this.#withLock(this.#store.prefix, this.#tab, () => this.#closed || new Promise((free) => (this.#release = free)));
    for (const name of this.#store.names("out/")) this.noticed(this.#store.prefix + name);
    this.#adoptFormer();
  }

  /** A tab has written an entry, which is adopted once that tab has ended. */
  noticed(key) {
    const { prefix } = this.#store;
    const tab = key?.startsWith(`${prefix}out/`) && key.slice(prefix.length).split("/")[1];
    if (!tab || tab === this.#tab || this.#tabs.has(tab)) return;
    this.#tabs.add(tab);
    this.#withLock(prefix, tab, () => this.#takeFrom(tab));
  }

  #withLock(prefix, tab, action) {
    const locks = globalThis.navigator?.locks;
    let isHeld = false;
    const locked = () => {
      isHeld = true;
      return action();
    };
    // Without locks a tab's end is unknown. Sending twice is harmless: the `rno` is the same.
    if (!locks) action();
    else locks.request(`${prefix}tab/${tab}`, locked).catch(() => isHeld || action());
  }

  #takeFrom(tab) {
    this.#tabs.delete(tab);
    if (this.#closed) return;
    for (const name of this.#store.names(`out/${tab}/`)) {
      const entry = this.#store.get(name);
      this.#store.remove(name);
      if (isEntry(entry) && !this.#entries.has(entry.rno)) this.#add(entry);
    }
  }

  /** While this one was closed, another tab may have adopted its entries: those are no longer in the storage. */
  #forgetTaken() {
    if (!globalThis.navigator?.locks) return;
    for (const entry of this.#entries.values()) if (!this.#store.get(entry.key)) this.#drop(entry);
  }

  // Before keys named the server, only a page loaded from the server itself could have written for no other one.
  #adoptFormer() {
    const tabs = new Set(this.#formerStore.names("out/").map((name) => name.split("/")[1]));
    for (const tab of tabs) this.#withLock(this.#formerStore.prefix, tab, () => this.#takeFormer(tab));
  }

  #takeFormer(tab) {
    if (this.#closed) return;
    const isOurs = globalThis.location?.host === new URL(this.#options.url).host;
    for (const name of this.#formerStore.names(`out/${tab}/`)) {
      const entry = this.#formerStore.get(name);
      this.#formerStore.remove(name);
      if (!isEntry(entry) || this.#entries.has(entry.rno)) continue;
      if (!isOurs) entry.error ??= describeError(new KschatError("unsure"));
      this.#add(entry);
    }
  }

  // -- application calls

  put(to, text, { room, rno } = {}) {
    const entry = { rno: rno ?? randomRno(), to, text, tries: 0 };
    if (room) entry.room = room;
    // A clock that was set back must not put it before queued messages.
    entry.time = Math.max(now(), this.#lanes.get(laneKeyOf(entry))?.queue.at(-1)?.time ?? 0);
    const answer = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    // Listeners of `state` need not handle the rejection, too.
    answer.catch(() => {});
    if (this.#problem) entry.reject(new KschatError(this.#problem));
    else this.#add(entry);
    return Object.assign(answer, { rno: entry.rno });
  }

  get #problem() {
    return this.#closed ?? (this.#entries.size >= MAX_OUTBOX ? "full" : null);
  }

  /** Resends a failed one, after all others. */
  retry(rno) {
    const entry = this.#entries.get(rno);
    if (!entry?.error) return null;
    // A message that can't be queued now must not be lost by a retry.
    if (this.#problem) return this.put(entry.to, entry.text, { room: entry.room, rno });
    this.#forget(entry);
    // A number that names another message, or that the server has forgotten, is useless.
    const isSpent = entry.error.code === REUSED_RNO || now() - entry.triedAt > RNO_WINDOW;
    return this.put(entry.to, entry.text, { room: entry.room, rno: isSpent ? undefined : rno });
  }

  discard(rno) {
    const entry = this.#entries.get(rno);
    if (entry) this.#drop(entry);
    return Boolean(entry);
  }

  open() {
    this.#closed = null;
    this.#forgetTaken();
    this.adopt();
  }

  close(error) {
    this.#closed = error.code;
    for (const lane of [...this.#lanes.values()]) {
      this.#land(lane);
      lane.hold.clear();
      lane.isHolding = false;
      this.#schedule(lane);
    }
    for (const entry of this.#entries.values()) entry.reject?.(error);
    this.#release?.();
  }

  // -- entries

  #add(entry) {
    entry.key = `out/${this.#tab}/${String(this.#count++).padStart(9, "0")}`;
    this.#entries.set(entry.rno, entry);
    this.#keep(entry);
    if (entry.error) {
      this.#failed.add(entry);
      return this.#hooks.changed(entry);
    }
    const lane = this.#enqueue(entry);
    this.#hooks.changed(entry);
    if (sizeOf(entry.text) > MAX_MESSAGE_BYTES) this.#fail(entry, new KschatError(TOO_LARGE));
    else this.#schedule(lane);
    this.pump();
  }

  #enqueue(entry) {
    const key = laneKeyOf(entry);
    if (!this.#lanes.has(key)) this.#lanes.set(key, new Lane(key));
    const lane = this.#lanes.get(key);
    const { queue, socket } = lane;
    // Entries of an earlier page are older than this page's.
    let place = queue.length;
    while (place > (socket ? 1 : 0) && queue[place - 1].time > entry.time) place--;
    queue.splice(place, 0, entry);
    return lane;
  }

  #keep({ key, rno, to, room, text, time, tries, triedAt, error }) {
    this.#store.set(key, { rno, to, room, text, time, tries, triedAt, error });
  }

  #dequeue(entry) {
    const lane = this.#lanes.get(laneKeyOf(entry));
    const place = lane?.queue.indexOf(entry) ?? -1;
    if (place < 0) return null;
    if (place === 0) this.#land(lane);
    lane.queue.splice(place, 1);
    this.#schedule(lane);
    return lane;
  }

  #forget(entry) {
    this.#entries.delete(entry.rno);
    this.#failed.delete(entry);
    this.#store.remove(entry.key);
  }

  #drop(entry) {
    this.#forget(entry);
    this.#dequeue(entry);
  }

  // -- lanes

  /** After a change: an idle lane is removed. */
  #schedule(lane) {
    this.#ready.delete(lane);
    this.#blocked.delete(lane);
    if (!lane.queue.length) {
      if (!lane.isHolding && this.#lanes.get(lane.key) === lane) this.#lanes.delete(lane.key);
    } else if (!lane.socket && !lane.isHolding) {
      this.#ready.add(lane);
    }
  }

  unblock() {
    for (const lane of this.#blocked) this.#ready.add(lane);
    this.#blocked.clear();
    this.pump();
  }

  pump() {
    const socket = this.#hooks.socket();
    if (!socket?.isOpen || this.#closed) return;
    for (const lane of this.#ready) {
      if (this.#inFlight.size >= MAX_IN_FLIGHT) return;
      const [entry] = lane.queue;
      if (entry.room && !this.#hooks.canSend(entry.room)) {
        this.#ready.delete(lane);
        this.#blocked.add(lane);
      } else this.#transmit(lane, entry, socket);
    }
  }

  #transmit(lane, entry, socket) {
    if (entry.triedAt && now() - entry.triedAt > RNO_WINDOW) {
      return this.#fail(entry, new KschatError(OUTCOME_UNKNOWN, "it may or may not have arrived, a day ago"));
    }
    if (!entry.triedAt) {
      entry.triedAt = now();
      this.#keep(entry);
    }
    lane.socket = socket;
    this.#inFlight.add(lane);
    this.#schedule(lane);
    lane.answer.set(this.#options.answerTimeout, () => this.#onSilence(lane, socket));
    const target = entry.room ? { gId: entry.to } : { pId: entry.to };
    const { rno, text, time } = entry;
    socket.send({ action: "send", uId: this.#user, ...target, msg: text, rno, time: Math.floor(time / 1000) });
  }

  #land(lane) {
    lane.answer.clear();
    lane.socket = null;
    this.#inFlight.delete(lane);
    this.#schedule(lane);
  }

  #onSilence(lane, socket) {
    const [entry] = lane.queue;
    this.#land(lane);
    if (++entry.tries >= MAX_TRIES) this.#fail(entry, new KschatError("timeout"));
    this.#hooks.unanswered(socket);
    this.pump();
  }

  /** Messages in flight on that socket go first on the next one, with the same `rno`. */
  lost(socket) {
    for (const lane of [...this.#inFlight]) if (lane.socket === socket) this.#land(lane);
    this.pump();
  }

  // -- replies

  /** Returns whether it was the reply to one of ours. */
  answered(frame) {
    const entry = this.#entries.get(plain(frame.RANDOMNO));
    if (!entry || entry.error) return false;
    const lane = this.#lanes.get(laneKeyOf(entry));
    if (codeOf(frame) === OK) this.#accept(entry, frame);
    else if (lane?.queue[0] === entry) this.#refuse(lane, errorOf(frame), frame);
    return true;
  }

  /** A returned copy proves that a message was accepted. */
  echoed({ rno, id, time }) {
    const entry = this.#entries.get(rno);
    if (entry && !entry.error) this.#accept(entry, { event: "RESPSEND", RC: 1, ER: 0, MID: id, MSGTIME: time });
    return Boolean(entry);
  }

  /** An error without an `rno` concerns all messages in flight. */
  refused(error, frame) {
    for (const lane of [...this.#inFlight]) this.#refuse(lane, error, frame);
  }

  #accept(entry, frame) {
    const lane = this.#dequeue(entry);
    this.#entries.delete(entry.rno);
    if (lane) lane.waits = 0;
    entry.id = plain(frame.MID);
    entry.time = timeOf(frame.MSGTIME);
    this.#hooks.accepted(entry, frame);
    // If the application does not store it, the next page resends it and receives the same reply.
    Promise.all(this.#hooks.changed(entry)).then(() => this.#store.remove(entry.key), () => {});
    entry.resolve?.(frame);
    this.pump();
  }

  #refuse(lane, error, frame) {
    const [entry] = lane.queue;
    if (error.code === NOT_ALLOWED && this.#mayPass(entry)) return this.#land(lane);
    const isToken = TOKEN_CODES.has(error.code);
    if (!isToken && !TRANSIENT_CODES.has(error.code)) return this.#fail(entry, error);
    const socket = this.#hooks.socket();
    if ((error.code === INTERNAL || isToken) && ++entry.tries >= MAX_TRIES) return this.#fail(entry, error);
    this.#hold(lane, frame);
    this.#hooks.refused(error, lane.waits, socket);
    this.pump();
  }

  /** A server that lost its data refuses members until they rejoin. */
  #mayPass(entry) {
    if (!entry.room || entry.isVerified) return false;
    entry.isVerified = true;
    return this.#hooks.verify(entry.room);
  }

  #hold(lane, frame) {
    lane.isHolding = true;
    this.#land(lane);
    const asked = Math.min(Number(plain(frame.RETRY)) || 0, MAX_RETRY_AFTER);
    lane.hold.set(Math.max(backoff(lane.waits++, this.#options), asked), () => {
      lane.isHolding = false;
      this.#schedule(lane);
      this.pump();
    });
  }

  #fail(entry, error) {
    this.#dequeue(entry);
    entry.error = describeError(error);
    this.#failed.add(entry);
    this.#keep(entry);
    this.#hooks.changed(entry);
    entry.reject?.(error);
    for (const oldest of this.#failed) {
      if (this.#failed.size <= MAX_FAILED) break;
      this.#forget(oldest);
    }
    this.pump();
  }
}
