// Requests with one reply, such as `join` or `presence`. Only one is in flight at a time, as an error frame names no
// request.

import {
  codeOf, errorOf, KschatError, listOf, MAX_QUERIED, MAX_READ_MARKS, MAX_REQUESTS, MAX_TRACKED, MAX_TYPING, now, OK,
  plain, timeOf, Timer,
} from "./common.js";

/** Features of the server, as its replies show them. */
export class Features {
  known = {};
  #changed;

  constructor(changed) {
    this.#changed = changed;
  }

  isMissing(feature) {
    return this.known[feature] === false;
  }

  confirm(feature) {
    if (this.known[feature]) return;
    this.known[feature] = true;
    this.#changed(feature, true);
  }

  refuse(feature) {
    this.known[feature] = false;
    this.#changed(feature, false);
  }

  /** The next connection may lead to another server version. */
  reset() {
    this.known = {};
  }
}

export class Requests {
  #options;
  #features;
  #send;
  #current = null;
  #queue = [];
  #answerTimer = new Timer();
  #stopped = null; // why requests are rejected

  /** `send(frame)` returns whether there is a connection. */
  constructor(options, features, send) {
    this.#options = options;
    this.#features = features;
    this.#send = send;
  }

  /**
   * Promises the frame for which `isAnswer` holds. Without a connection it waits for one, unless it is `impatient`. `first`
   * puts it before all queued ones.
   */
  ask(feature, frame, isAnswer, { first = false, impatient = false } = {}) {
    const request = { feature, frame, isAnswer, impatient, expiry: new Timer() };
    const answer = new Promise((resolve, reject) => Object.assign(request, { resolve, reject }));
    answer.catch(() => {});
    if (this.#stopped) request.reject(this.#stopped);
    else if (this.#queue.length >= MAX_REQUESTS && !first) request.reject(new KschatError("full", "too many requests wait"));
    else {
      this.#queue[first ? "unshift" : "push"](request);
      request.expiry.set(this.#options.requestTimeout, () => this.#onExpiry(request));
      this.resume();
    }
    return answer;
  }

  /** Feature of the request in flight. */
  get feature() {
    return this.#current?.feature;
  }

  /** Sends the next requests. */
  resume() {
    while (!this.#current && this.#queue.length) {
      const [request] = this.#queue;
      const isMissing = this.#features.isMissing(request.feature);
      const isSent = !isMissing && this.#send(request.frame);
      if (!isMissing && !isSent && !request.impatient) return;
      this.#queue.shift();
      if (isSent) this.#await(request);
      else this.#reject(request, new KschatError(isMissing ? UNKNOWN_ACTION : "offline"));
    }
  }

  #await(request) {
    this.#current = request;
    request.expiry.clear();
    this.#answerTimer.set(this.#options.answerTimeout, () => this.fail(new KschatError("timeout")));
  }

  #reject(request, error) {
    request.expiry.clear();
    request.reject(error);
  }

  #onExpiry(request) {
    this.#queue = this.#queue.filter((other) => other !== request);
    this.#reject(request, new KschatError("offline"));
  }

  heard(frame) {
    const request = this.#current;
    if (!request?.isAnswer(frame)) return;
    if (codeOf(frame) !== OK) return this.fail(errorOf(frame));
    this.#land();
    this.#features.confirm(request.feature);
    request.resolve(frame);
    this.resume();
  }

  #land() {
    this.#answerTimer.clear();
    this.#current = null;
  }

  /** Fails the one in flight; false if there is none. */
  fail(error) {
    const request = this.#current;
    if (!request) return false;
    this.#land();
    this.#reject(request, error);
    this.resume();
    return true;
  }

  /** The connection is lost: the request in flight is repeated on the next one. */
  lost() {
    const request = this.#current;
    this.#land();
    if (request?.impatient) this.#reject(request, new KschatError("offline"));
    else if (request) {
      this.#queue.unshift(request);
      request.expiry.set(this.#options.requestTimeout, () => this.#onExpiry(request));
    }
    const waiting = this.#queue;
    this.#queue = waiting.filter(({ impatient }) => !impatient);
    for (const one of waiting) if (one.impatient) this.#reject(one, new KschatError("offline"));
  }

  open() {
    this.#stopped = null;
  }

  /** Rejects all, and new ones until `open()`. */
  stop(error) {
    this.#stopped = error;
    const all = [...(this.#current ? [this.#current] : []), ...this.#queue];
    this.#queue = [];
    this.#land();
    for (const request of all) this.#reject(request, error);
  }
}

// ---- ephemeral events: receipts, read marks, presence, typing

const STATUS = { 3: "delivered", 4: "read" };

// Evicts the oldest.
function bound(entries, max) {
  while (entries.size > max) entries.delete(entries.keys().next().value);
}

/** How far these users have received and read our messages. */
export async function askStatus(requests, pIds, how) {
  const isAnswer = ({ event, LIST, ER }) => event === "RESPSTATUS" && (Array.isArray(LIST) || ER !== OK);
  const { LIST } = await requests.ask("receipts", { action: "status", pIds }, isAnswer, how);
  return listOf(LIST).map(({ uId, delivered, read }) => ({ user: plain(uId), delivered: plain(delivered), read: plain(read) }));
}

/** Accepted messages, until they have been read. */
export class Receipts {
  #user;
  #requests;
  #hooks;
  #accepted = new Map(); // message id → its state

  /** `hooks`: receipt(receipt), changed(message). */
  constructor(user, requests, hooks) {
    this.#user = user;
    this.#requests = requests;
    this.#hooks = hooks;
  }

  track(message) {
    this.#accepted.set(message.id, message);
    bound(this.#accepted, MAX_TRACKED);
  }

  status(users) {
    return askStatus(this.#requests, users.slice(0, MAX_QUERIED));
  }

  heard({ UID, PID, STATUS: status, MID, LIST }) {
    for (const { uId, delivered, read } of listOf(LIST)) {
      this.#note(plain(uId), this.#user, "delivered", plain(delivered));
      this.#note(plain(uId), this.#user, "read", plain(read));
    }
    if (!LIST) this.#note(plain(UID), plain(PID), STATUS[status], plain(MID));
  }

  /** One mark covers all messages before it: one sender's ids ascend. */
  #note(user, of, state, id) {
    if (!user || !state || !id) return;
    this.#hooks.receipt({ user, of, state, id });
    if (of !== this.#user) return;
    for (const [mid, message] of this.#accepted) {
      if (message.to !== user || mid > id || message.state === state || message.state === "read") continue;
      message.state = state;
      this.#hooks.changed({ ...message });
      if (state === "read") this.#accepted.delete(mid);
    }
  }
}

/** Sends read marks. One mark covers many messages, so it is batched. */
export class ReadMarks {
  #options;
  #send;
  #newest = new Map(); // sender → id of the newest read message
  #untold = new Set(); // senders without the newest mark
  #pause = new Timer();
  #isPausing = false;

  constructor(options, send) {
    this.#options = options;
    this.#send = send;
  }

  read(from, id) {
    if (!id || this.#newest.get(from) >= id) return;
    this.#newest.delete(from);
    this.#newest.set(from, id);
    this.#untold.add(from);
    while (this.#newest.size > MAX_READ_MARKS) this.#evict();
    if (!this.#isPausing) this.flush();
  }

  #evict() {
    const oldest = this.#newest.keys().next().value;
    this.#newest.delete(oldest);
    this.#untold.delete(oldest);
  }

  flush() {
    let isAnyTold = false;
    for (const from of this.#untold) {
      if (!this.#send({ action: "read", pId: from, mId: this.#newest.get(from) })) break;
      this.#untold.delete(from);
      isAnyTold = true;
    }
    this.#isPausing = isAnyTold;
    if (isAnyTold) this.#pause.set(this.#options.readEvery, () => this.flush());
  }

  stop() {
    this.#pause.clear();
    this.#isPausing = false;
  }
}

/** Who of the watched users is online. */
export class Presence {
  #options;
  #requests;
  #changed;
  #watched = [];
  #timer = new Timer();
  #isAsking = false;

  constructor(options, requests, changed) {
    this.#options = options;
    this.#requests = requests;
    this.#changed = changed;
  }

  watch(users) {
    this.#watched = users.slice(0, MAX_QUERIED);
    return this.#ask();
  }

  /** Asks again, as an event may have been lost. */
  refresh() {
    if (this.#isAsking) return;
    this.#ask().catch(() => {});
  }

  async #ask() {
    const uIds = this.#watched;
    if (!uIds.length) return [];
    // Nobody sees a hidden page.
    this.#timer.set(this.#options.presenceEvery, () => globalThis.document?.hidden || this.refresh());
    const isAnswer = ({ event, LIST, ER }) => event === "RESPPRESENCE" && (ER !== OK || LIST?.length === uIds.length);
    this.#isAsking = true;
    try {
      const { LIST } = await this.#requests.ask("presence", { action: "presence", uIds }, isAnswer);
      return listOf(LIST).map(({ uId, on, last }) => ({ user: plain(uId), on: Number(on) === 1, last }));
    } finally {
      this.#isAsking = false;
    }
  }

  heard({ LIST }) {
    for (const { uId, on, last } of listOf(LIST)) {
      const seen = Number(last) > 0 ? timeOf(last) : undefined;
      this.#changed({ user: plain(uId), on: Number(on) === 1, last: seen });
    }
  }

  stop() {
    this.#timer.clear();
  }
}

/** Typing state of peers, and our own as sent to them. */
export class Typing {
  #options;
  #send;
  #changed;
  #sentAt = new Map(); // recipient → when it was last sent
  #shown = new Map(); // user → timeout that ends it

  constructor(options, send, changed) {
    this.#options = options;
    this.#send = send;
    this.#changed = changed;
  }

  type(to, on) {
    const since = this.#sentAt.get(to) ?? 0;
    if (on ? now() - since < this.#options.typingEvery : !since) return;
    this.#sentAt.delete(to);
    if (on) this.#sentAt.set(to, now());
    bound(this.#sentAt, MAX_TYPING);
    this.#send({ action: "typing", pId: to, on });
  }

  /** A message ends it for its recipient. */
  sent(to) {
    this.#sentAt.delete(to);
  }

  heard({ UID, ON }) {
    this.#show(plain(UID), ON === true);
  }

  /** A message ends it for its sender. */
  received(from) {
    if (this.#shown.has(from)) this.#show(from, false);
  }

  #show(user, on) {
    if (!user) return;
    clearTimeout(this.#shown.get(user));
    this.#shown.delete(user);
    if (on) this.#shown.set(user, setTimeout(() => this.#show(user, false), this.#options.typingShown));
    this.#changed({ user, on });
  }
}
