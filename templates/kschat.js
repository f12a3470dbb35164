// A client of kschat for browsers, bundlers and Node.js 20 or newer; no dependencies. Types: kschat.d.ts.
//
//   import { connect } from "./kschat.js";
//   const chat = connect({ url, user: "alice", getToken: () => fetch("/token").then((r) => r.text()) });
//   chat.on("message", (message) => console.log(message.from, message.text));
//   await chat.send("bob", "hello");
//
// Read it top to bottom: settings, small tools, what is kept, tokens, the connection, what comes (Inbox), what goes
// (Outbox), and the client, which ties them together.

// ---- settings: each can be given to connect(); times in milliseconds

const DEFAULTS = {
  handshakeTimeout: 10_000,
  answerTimeout: 10_000, // a frame that is not answered by then is tried again on a new connection
  backoffMin: 300,
  backoffMax: 30_000,
  stableAfter: 5_000, // a connection that lived this long was a good one
  rolloverAfter: 110 * 60_000, // the managed edge closes every connection after two hours
  rolloverOverlap: 3_000, // how long the old connection is heard beside the new one
  pingAfter: 5 * 60_000, // the managed edge closes what is silent for ten minutes
  probeTimeout: 5_000, // a connection that does not answer a ping by then is dead
  renewBefore: 60_000, // before a token ends; never more than a quarter of its life
  ackAfter: 1_000,
  ackEvery: 16, // messages
  readEvery: 1_000,
  typingEvery: 3_000,
  typingShown: 6_000,
  presenceEvery: 5 * 60_000,
};

/** The largest message, in bytes of UTF-8 as a JSON string. */
export const MAX_MESSAGE_BYTES = 28 * 1024;
const MAX_OUTBOX = 5_000; // messages that wait to be sent
const MAX_FAILED = 100; // messages kept that could not be sent
const MAX_IN_FLIGHT = 8; // sends under way, each to somebody else
const MAX_SEEN = 4_096; // message ids remembered here …
const MAX_SEEN_KEPT = 1_024; // … and over a reload
const MAX_TRACKED = 2_000; // accepted messages that still get `delivered` and `read`
const MAX_ASKED = 100; // ids in one question about presence or receipts
const MAX_TRIES = 8; // for failures that may never pass by waiting
const RNO_WINDOW = 23 * 3_600_000; // the server remembers an `rno` for a day
const MAX_TIMEOUT = 0x7fff_ffff; // of setTimeout; more would fire at once

const OK = 0;
const INTERNAL = 1;
const ENDED = new Set([3, 4]); // the token
const RATE = 9;
const REUSED_RNO = 13;
const UNKNOWN_ACTION = 15;
const FORGOTTEN = 17; // or the registry can't be asked
const KICKED = 19;
const TRANSIENT = new Set([1, 2, 9, 17, 18, 20]);
const STATUS = { 3: "delivered", 4: "read" };

const MEANINGS = {
  1: "the server failed", 2: "the message broker is unavailable", 3: "the token is not valid",
  4: "the token has expired", 5: "this is another user's token", 6: "the frame is not valid",
  7: "a field is missing or invalid", 8: "the message is too large", 9: "too many messages",
  10: "nobody is known by this name", 11: "the recipient's queue is full", 12: "the message has expired",
  13: "this number stands for another message", 14: "not allowed", 15: "the server does not know how to do this",
  17: "the server has to look up who you are", 18: "the outcome is not known", 19: "signed out by the server",
  20: "the server is going away", 21: "too many connections", 22: "too many rooms",
  closed: "the client is closed", ended: "the session has ended", full: "too many messages wait to be sent",
  timeout: "the server did not answer", offline: "there is no connection",
};

/** What went wrong: `code` is a number of the protocol, or one of the words above. */
export class KschatError extends Error {
  constructor(code, message, frame) {
    super(message || MEANINGS[code] || `the server answered with error ${code}`);
    this.name = "KschatError";
    this.code = code;
    if (frame) this.frame = frame;
  }
}

// ---- small tools

const now = () => Date.now();

// Somebody may set the clock back; this one only goes on, though perhaps not while the machine sleeps.
const elapsed = () => performance.now();

// What comes from the network may have any shape, and nothing here may throw: String() of an odd object would.
const plain = (value) => (["string", "number"].includes(typeof value) ? String(value) : "");
const isObject = (value) => typeof value === "object" && value !== null;
const codeOf = (frame) => Number(plain(frame.ER) || INTERNAL);
const listOf = (value) => (Array.isArray(value) ? value.filter(isObject) : []);

const errorOf = (frame) => {
  const said = plain(frame.ERMSG ?? frame.message).replace(/[.\s]+$/, "");
  return new KschatError(codeOf(frame), said, frame);
};

const timeOf = (value) => {
  const millis = Number(plain(value));
  return millis > 0 && millis < 8.64e15 ? millis : now();
};

const encoder = new TextEncoder();

/** The size of a message as the limit counts it. */
export const sizeOf = (text) => encoder.encode(JSON.stringify(text)).length;

// Half a surrogate pair is no valid UTF-8; a strict server would refuse it.
const wellFormed = (text) => String(text).replace(/\p{Surrogate}/gu, "\uFFFD");

// Nobody can guess the next one, nor read from one how many there were.
const randomNumber = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

const randomName = () =>
  [...crypto.getRandomValues(new Uint32Array(2))].map((number) => number.toString(36)).join("");

// Full jitter keeps many clients from coming back at the same instant.
const backoff = (attempt, { backoffMin, backoffMax }) =>
  Math.random() * Math.min(backoffMax, backoffMin * 2 ** attempt);

function report(error) {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}

/** One thing that will happen later, at most. */
class Timer {
  #id;
  set(millis, action) {
    clearTimeout(this.#id);
    this.#id = setTimeout(action, Math.min(Math.max(millis, 0), MAX_TIMEOUT));
  }
  clear() {
    clearTimeout(this.#id);
  }
}

class Emitter {
  #handlers = new Map();

  on(event, handler) {
    this.#handlers.set(event, [...(this.#handlers.get(event) ?? []), handler]);
    return this;
  }

  once(event, handler) {
    const only = (...values) => {
      this.off(event, only);
      return handler(...values);
    };
    only.handler = handler;
    return this.on(event, only);
  }

  off(event, handler) {
    const kept = handler && this.#handlers.get(event)?.filter((one) => one !== handler && one.handler !== handler);
    this.#handlers.set(event, kept ?? []);
    return this;
  }

  /** What the handlers returned; one that throws does not disturb the others. */
  emit(event, value) {
    return (this.#handlers.get(event) ?? []).map((handler) => {
      let result;
      try {
        result = handler(value);
      } catch (error) {
        result = Promise.reject(error);
      }
      result?.catch?.(report);
      return result;
    });
  }
}

// ---- what is kept over a reload

/** Stands in for localStorage where there is none. */
class MemoryStorage {
  #map = new Map();
  get length() {
    return this.#map.size;
  }
  key = (index) => [...this.#map.keys()][index] ?? null;
  getItem = (key) => this.#map.get(key) ?? null;
  setItem = (key, value) => void this.#map.set(key, value);
  removeItem = (key) => void this.#map.delete(key);
}

function defaultStorage() {
  try {
    // Node.js has one, too, but that is one file for all programs of a folder.
    if (typeof document !== "undefined") return localStorage;
  } catch {
    // Forbidden.
  }
  return new MemoryStorage();
}

/** The part of a storage that belongs to one user. What can't be stored is only not there after a reload. */
class Vault {
  constructor(storage, user) {
    this.storage = storage;
    this.prefix = `kschat/${encodeURIComponent(user)}/`;
  }

  get(name) {
    try {
      return JSON.parse(this.storage.getItem(this.prefix + name));
    } catch {
      return null;
    }
  }

  set(name, value) {
    try {
      this.storage.setItem(this.prefix + name, JSON.stringify(value));
    } catch {
      // Full, or forbidden.
    }
  }

  remove(name) {
    try {
      this.storage.removeItem(this.prefix + name);
    } catch {
      // Forbidden.
    }
  }

  names(start) {
    const names = [];
    for (let index = 0; index < this.storage.length; index++) {
      const key = this.storage.key(index);
      if (key?.startsWith(this.prefix + start)) names.push(key.slice(this.prefix.length));
    }
    return names.sort();
  }
}

// All but the head of a UUIDv7, which tells when it was made: what is left names the send of one sender, even one that was
// tried twice with all memory of the first try lost on the server.
const sendOf = (id) => (id.length === 36 && id[14] === "7" ? id.slice(19) : id);

/**
 * Messages that need not be shown again, as [sender, send]. Each tab looks at its own: it has to show what others have.
 * Two of different senders are never the same. Earlier releases have kept sends without their senders, as texts: those
 * count whoever says the same, until enough others have come.
 */
class Seen {
  #keys;
  #former;
  #dealt = []; // and not saved yet

  constructor(vault) {
    this.vault = vault;
    const kept = this.#kept();
    this.#keys = new Set(kept.filter(Array.isArray).map((key) => JSON.stringify(key)));
    this.#former = new Set(kept.filter((key) => !Array.isArray(key)));
  }

  #kept() {
    const kept = this.vault.get("seen");
    return Array.isArray(kept) ? kept : [];
  }

  /** Whether it is the first time. */
  add({ from, id }) {
    if (!id) return true;
    const [send, key] = [sendOf(id), JSON.stringify([from, sendOf(id)])];
    if (this.#keys.has(key) || this.#former.has(send)) return false;
    this.#keys.add(key);
    if (this.#keys.size > MAX_SEEN) this.#keys.delete(this.#keys.values().next().value);
    return true;
  }

  forget({ from, id }) {
    this.#keys.delete(JSON.stringify([from, sendOf(id)]));
  }

  /** The next page need not show it either: not before it was dealt with here. */
  dealt({ from, id }) {
    if (id) this.#dealt.push([from, sendOf(id)]);
  }

  save() {
    if (!this.#dealt.length) return;
    const keys = new Set([...this.#kept(), ...this.#dealt].map((key) => JSON.stringify(key)));
    this.vault.set("seen", [...keys].slice(-MAX_SEEN_KEPT).map((key) => JSON.parse(key)));
    this.#dealt = [];
  }
}

// ---- tokens

/** When a JWT ends, in milliseconds since 1970; infinite if it does not say. */
function endOf(token) {
  try {
    const claims = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return Number.isFinite(claims.exp) ? claims.exp * 1000 : Infinity;
  } catch {
    return Infinity;
  }
}

class Tokens {
  #token;
  #renewAt = Infinity;

  constructor(options) {
    this.options = options;
    this.renewable = typeof options.getToken === "function";
    if (options.token) this.#take(options.token);
  }

  #take(token) {
    this.#token = token;
    this.#plan(endOf(token));
    return token;
  }

  // By a clock that runs ahead a fresh token has ended: then the server says when it is time.
  #plan(end) {
    const life = end - now();
    this.#renewAt = life > 0 ? end - Math.min(this.options.renewBefore, life / 4) : Infinity;
  }

  /** Milliseconds until it should be renewed. */
  get left() {
    return this.renewable ? this.#renewAt - now() : Infinity;
  }

  /** A token that can be used, or nothing: the session has ended. */
  async get(fresh) {
    const stale = fresh || !this.#token || now() >= this.#renewAt;
    if (!this.renewable || !stale) return this.#token;
    const timer = new Timer();
    const late = new Promise((_, reject) => {
      timer.set(this.options.handshakeTimeout, () => reject(new KschatError("timeout", "no token came in time")));
    });
    const token = await Promise.race([(async () => this.options.getToken())(), late]).finally(() => timer.clear());
    return token ? this.#take(String(token).trim()) : null;
  }

  /** The server says when it ends. */
  confirmed(exp) {
    if (Number.isFinite(exp)) this.#plan(exp * 1000);
  }
}

// ---- the connection

/** One socket. */
class Link {
  openedAt = 0;
  heardAt = 0;
  heardOn = 0; // by the clock
  activeAt = 0;
  askedAt = 0;
  #socket;

  constructor({ WebSocket, url, handshakeTimeout }, token, { heard, lost }) {
    this.lost = lost;
    this.#socket = new WebSocket(url, ["kschat.v2", `bearer.${token}`]);
    const timer = new Timer();
    timer.set(handshakeTimeout, () => this.drop());
    this.opened = new Promise((resolve, reject) => {
      this.#socket.onopen = () => {
        timer.clear();
        this.openedAt = this.heardAt = this.activeAt = elapsed();
        this.heardOn = now();
        resolve(this);
      };
      this.refuse = () => {
        timer.clear();
        reject(new KschatError("offline", "the connection was refused"));
      };
    });
    this.#socket.onmessage = ({ data }) => {
      this.heardAt = this.activeAt = elapsed();
      this.heardOn = now();
      heard(this, data);
    };
    this.#socket.onerror = () => {}; // A close follows.
    this.#socket.onclose = () => this.drop();
  }

  get isOpen() {
    return this.#socket?.readyState === 1;
  }

  /** For how long nothing was heard, a sleep of the machine included. */
  get silence() {
    return Math.max(elapsed() - this.heardAt, now() - this.heardOn);
  }

  send(frame) {
    if (!this.isOpen) return false;
    this.#socket.send(JSON.stringify(frame));
    this.activeAt = elapsed();
    return true;
  }

  /** Ends it, whatever its state. A dead socket would take its time to say that it is closed. */
  drop() {
    const socket = this.#socket;
    if (!socket) return;
    this.#socket = null;
    socket.onopen = socket.onmessage = socket.onclose = null;
    try {
      socket.close();
    } catch {
      // It never opened.
    }
    this.refuse();
    this.lost(this);
  }
}

/** Keeps one link open: reconnects, rolls over, renews the token, and notices when a link is dead. */
class Connection {
  link = null;
  state = "connecting";
  #links = new Set();
  #attempt = 0;
  #dialing = false;
  #refused = false; // The last handshake failed, perhaps for its token.
  #renewing = false;
  #notBefore = 0; // when the server takes us again
  #timers = { dial: new Timer(), rollover: new Timer(), idle: new Timer(), probe: new Timer(), renew: new Timer() };

  /** `hooks`: opened(), heard(frame), lost(link), told(state, more), authenticate(token). */
  constructor(options, hooks) {
    this.options = options;
    this.hooks = hooks;
    this.tokens = new Tokens(options);
  }

  get isOver() {
    return this.state === "closed" || this.state === "ended";
  }

  #tell(state, more = {}) {
    this.state = state;
    this.hooks.told(state, more);
  }

  /** Opens a link; if there is one already, it goes on until the new one is open. */
  async dial() {
    if (this.#dialing || this.isOver) return;
    this.#dialing = true;
    this.#timers.dial.clear();
    if (!this.link) this.#tell("connecting", { attempt: this.#attempt });
    try {
      const link = await this.#open();
      this.#dialing = false;
      if (this.isOver) link.drop();
      else if (link.isOpen) this.#promote(link);
      else this.#failed(new KschatError("offline"));
    } catch (error) {
      this.#dialing = false;
      if (!this.isOver) this.#failed(error);
    }
  }

  async #open() {
    const token = await this.tokens.get(this.#refused);
    if (!token) throw new KschatError("ended");
    if (this.isOver) throw new KschatError("closed");
    this.#refused = true;
    const link = new Link(this.options, token, {
      heard: (from, data) => this.#links.has(from) && this.#heard(from, data),
      lost: (which) => this.#lost(which),
    });
    this.#links.add(link);
    await link.opened;
    this.#refused = false;
    return link;
  }

  #failed(error) {
    if (error.code === "ended") return this.end(error.message);
    const delay = Math.max(backoff(this.#attempt++, this.options), this.#notBefore - elapsed());
    this.#timers.dial.set(delay, () => this.dial());
    if (!this.link) this.#tell("waiting", { attempt: this.#attempt, retryAt: now() + delay, reason: error.message });
  }

  #promote(link) {
    const old = this.link;
    this.link = link;
    // A spread, so that clients that were cut off together do not roll over together.
    this.#timers.rollover.set(this.options.rolloverAfter * (0.95 + Math.random() * 0.05), () => this.dial());
    this.#timers.renew.set(this.tokens.left, () => this.renew());
    this.#watch(link);
    if (old) setTimeout(() => old.drop(), this.options.rolloverOverlap);
    this.#tell("connected");
    this.hooks.opened();
  }

  #heard(link, data) {
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return;
    }
    if (isObject(frame)) this.hooks.heard(frame);
  }

  #lost(link) {
    if (!this.#links.delete(link) || !link.openedAt) return;
    this.hooks.lost(link);
    if (link !== this.link) return;
    this.link = null;
    for (const timer of Object.values(this.#timers)) timer.clear();
    if (this.isOver) return;
    if (elapsed() - link.openedAt > this.options.stableAfter) this.#attempt = 0;
    if (this.#dialing) this.#tell("connecting", { attempt: this.#attempt });
    else this.#failed(new KschatError("offline", "the connection was lost"));
  }

  /** The whole way works. */
  works() {
    this.#attempt = 0;
  }

  /** Pings a link that is silent. */
  #watch(link) {
    const rest = link.activeAt + this.options.pingAfter - elapsed();
    this.#timers.idle.set(rest, () => {
      if (link !== this.link) return;
      if (elapsed() - link.activeAt >= this.options.pingAfter) this.probe();
      this.#watch(link);
    });
  }

  /** Asks whether the link is alive, and drops it if nothing is heard. */
  probe() {
    const { link } = this;
    if (!link || link.askedAt > link.heardAt) return;
    link.askedAt = elapsed();
    link.send({ action: "ping" });
    this.#timers.probe.set(this.options.probeTimeout, () => link.heardAt < link.askedAt && link.drop());
  }

  /** Does not wait for the next attempt any longer; looks whether what is open is alive. */
  hurry(silentFor = 0) {
    if (this.isOver) return;
    if (!this.link) {
      this.#attempt = 0;
      this.dial();
    } else if (this.link.silence >= silentFor) {
      this.probe();
    }
  }

  /** Gets a new token and shows it: in band, or to a server that does not know that, by a new link. */
  async renew() {
    if (this.#renewing || this.isOver) return;
    if (!this.tokens.renewable) return this.end(MEANINGS.ended);
    this.#renewing = true;
    try {
      const token = await this.tokens.get(true);
      if (!token) this.end(MEANINGS.ended);
      else if (!this.link) this.dial();
      else await this.#present(token);
    } catch (error) {
      this.hooks.told(this.state, { reason: `no new token: ${error.message}` });
      this.#timers.renew.set(backoff(4, this.options), () => this.renew());
    } finally {
      this.#renewing = false;
    }
  }

  async #present(token) {
    try {
      this.tokens.confirmed((await this.hooks.authenticate(token)).EXP);
      this.#timers.renew.set(this.tokens.left, () => this.renew());
    } catch {
      this.dial();
    }
  }

  /** The server asks us to come anew. */
  comeAgain(after) {
    this.#notBefore = elapsed() + after;
    this.#timers.rollover.set(after + Math.random() * this.options.backoffMin, () => this.dial());
  }

  end(reason) {
    this.#stop("ended", reason);
  }

  close() {
    this.#stop("closed");
  }

  #stop(state, reason) {
    if (this.isOver) return;
    this.#tell(state, { reason });
    for (const timer of Object.values(this.#timers)) timer.clear();
    for (const link of this.#links) link.drop();
  }
}

// ---- what comes: deduplicated, handed on, acknowledged

/** Whether who has taken `ours` has got what stood at `place`: `run.number`, counted within a run. */
function isBeyond(ours, place) {
  const [run, number] = place.split(".");
  const [ourRun, ourNumber] = ours.split(".");
  return run === ourRun && Number(ourNumber) >= Number(number);
}

class Inbox {
  #taken = { mId: "", pos: "" }; // handed on
  #dealt = this.#taken; // dealt with
  #waiting = 0; // messages dealt with and not acknowledged
  #ackedAt = -Infinity;
  #timer = new Timer();
  #turn = Promise.resolve();
  #era = 0; // counts failures

  /** `hand(messages)` promises for each whether it was dealt with; only then it is acknowledged. */
  constructor(options, seen, user, { send, hand }) {
    Object.assign(this, { options, seen, user, send, hand });
  }

  take(frame) {
    const items = listOf(frame.MSG);
    if (!items.length) return;
    // A frame before this one was lost: it comes again, and this one after it.
    if (frame.PREV && !isBeyond(this.#taken.pos, plain(frame.PREV))) return this.#askAgain();
    const messages = items.map((item) => this.#read(item)).filter((message) => message && this.seen.add(message));
    const place = { mId: plain(items.at(-1).mId), pos: plain(frame.POS) };
    // A second link repeats what the first one brought, a little later.
    if (!isBeyond(this.#taken.pos, place.pos)) this.#taken = place;
    const era = this.#era;
    const dealt = Promise.all(this.hand(messages));
    this.#turn = this.#turn.then(() => dealt).then((well) => {
      messages.forEach((message, index) => (well[index] ? this.seen.dealt(message) : this.seen.forget(message)));
      if (well.includes(false)) this.#undo();
      else if (era === this.#era && place.mId) this.#settle(place, items.length);
    });
  }

  #read(item) {
    const [from, to, room] = [plain(item.uId), plain(item.pId), plain(item.gId)];
    if (!from) return null;
    const message = { id: plain(item.mId), from, to, text: plain(item.msg), time: timeOf(item.msgTime) };
    if (room) message.room = room;
    if (plain(item.rno)) message.rno = plain(item.rno);
    return { ...message, mine: from === this.user, redelivered: item.redelivered === true };
  }

  // An ack stands for all before it, so nothing is acknowledged until the server has brought these again.
  #undo() {
    this.#era++;
    this.#taken = this.#dealt;
  }

  #settle(place, count) {
    if (!isBeyond(this.#dealt.pos, place.pos)) this.#dealt = place;
    this.#waiting += count;
    const wait = this.#ackedAt + this.options.ackAfter - elapsed();
    if (this.#waiting >= this.options.ackEvery || wait <= 0) this.flush();
    else this.#timer.set(wait, () => this.flush());
  }

  /** Acknowledges now. What can't be sent is acknowledged after the next connect. */
  flush() {
    this.#timer.clear();
    this.seen.save();
    if (!this.#waiting) return;
    if (!this.send({ action: "ack", mId: this.#dealt.mId, pos: this.#dealt.pos || undefined })) return;
    this.#waiting = 0;
    this.#ackedAt = elapsed();
  }

  #askAgain() {
    const { mId, pos } = this.#dealt;
    this.send({ action: "ack", ...(mId && { mId, pos: pos || undefined }), again: true });
  }
}

// ---- what goes: kept until it is accepted, one at a time to each recipient

/** The messages to one recipient, oldest first. */
class Lane {
  queue = [];
  flight = null; // the link on which the first one is under way
  holding = false;
  waits = 0;
  answer = new Timer();
  hold = new Timer();
}

class Outbox {
  #entries = new Map(); // rno → entry
  #lanes = new Map();
  #tab = randomName();
  #tabs = new Set(); // others, whose end we wait for
  #count = 0;
  #release;

  /** `hooks`: link(), changed(entry), accepted(entry, frame), refused(code), unanswered(link). */
  constructor(options, vault, user, hooks) {
    Object.assign(this, { options, vault, user, hooks });
  }

  get list() {
    return [...this.#entries.values()].map((entry) => this.describe(entry));
  }

  describe({ rno, to, room, text, time, error, id }) {
    const state = error ? "failed" : id ? "accepted" : "sending";
    return { rno, to, text, time, state, ...(room && { room }), ...(id && { id }), ...(error && { error }) };
  }

  /** Takes what earlier pages left, and what other tabs leave when they end: each holds a lock as long as it lives. */
  adopt() {
    this.#locked(this.#tab, () => new Promise((release) => (this.#release = release)));
    for (const key of this.vault.names("out/")) this.notice(this.vault.prefix + key);
  }

  /** A tab has written something, which is ours once that tab has ended. */
  notice(key) {
    const tab = key?.startsWith(`${this.vault.prefix}out/`) && key.slice(this.vault.prefix.length).split("/")[1];
    if (!tab || tab === this.#tab || this.#tabs.has(tab)) return;
    this.#tabs.add(tab);
    this.#locked(tab, () => this.#take(tab));
  }

  #locked(tab, action) {
    const locks = globalThis.navigator?.locks;
    // Without locks nobody knows whether a tab lives. Sending twice is harmless: the `rno` is the same.
    if (locks) locks.request(`${this.vault.prefix}tab/${tab}`, action).catch(action);
    else action();
  }

  #take(tab) {
    this.#tabs.delete(tab);
    if (this.closed) return;
    for (const key of this.vault.names(`out/${tab}/`)) {
      const kept = this.vault.get(key);
      this.vault.remove(key);
      if (kept?.rno && !this.#entries.has(kept.rno)) this.#add(kept);
    }
  }

  put(to, text, { room, rno } = {}) {
    const entry = { rno: rno ?? randomNumber(), to, text: wellFormed(text), tries: 0 };
    if (room) entry.room = room;
    // A clock that was set back must not put it before what is waiting.
    entry.time = Math.max(now(), this.#lane(entry).queue.at(-1)?.time ?? 0);
    const answer = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    // Whoever listens to `state` need not listen to the promise, too.
    answer.catch(() => {});
    if (this.#problem) entry.reject(new KschatError(this.#problem));
    else this.#add(entry);
    return Object.assign(answer, { rno: entry.rno });
  }

  /** Why nothing more can be taken. */
  get #problem() {
    return this.closed ?? (this.#entries.size >= MAX_OUTBOX ? "full" : null);
  }

  #add(entry) {
    entry.key = `out/${this.#tab}/${String(this.#count++).padStart(9, "0")}`;
    this.#entries.set(entry.rno, entry);
    this.#keep(entry);
    if (entry.error) return this.hooks.changed(entry);
    const { queue, flight } = this.#lane(entry);
    // What an earlier page left is older than what this one has.
    let place = queue.length;
    while (place > (flight ? 1 : 0) && queue[place - 1].time > entry.time) place--;
    queue.splice(place, 0, entry);
    this.hooks.changed(entry);
    if (sizeOf(entry.text) > MAX_MESSAGE_BYTES) this.#fail(entry, new KschatError(8));
    this.#pump(this.#lane(entry));
  }

  #keep({ key, rno, to, room, text, time, tries, triedAt, error }) {
    this.vault.set(key, { rno, to, room, text, time, tries, triedAt, error });
  }

  #lane({ to, room }) {
    const key = JSON.stringify([room ? 1 : 0, to]);
    if (!this.#lanes.has(key)) this.#lanes.set(key, new Lane());
    return this.#lanes.get(key);
  }

  pump() {
    for (const lane of this.#lanes.values()) this.#pump(lane);
  }

  #pump(lane) {
    const link = this.hooks.link();
    if (!link?.isOpen || lane.flight || lane.holding || !lane.queue.length) return;
    if ([...this.#lanes.values()].filter(({ flight }) => flight).length >= MAX_IN_FLIGHT) return;
    const entry = lane.queue[0];
    if (entry.triedAt && now() - entry.triedAt > RNO_WINDOW) {
      return this.#fail(entry, new KschatError(18, "it may or may not have arrived, a day ago"));
    }
    if (!entry.triedAt) {
      entry.triedAt = now();
      this.#keep(entry);
    }
    lane.flight = link;
    lane.answer.set(this.options.answerTimeout, () => this.#onSilence(lane, link));
    const target = entry.room ? { gId: entry.to } : { pId: entry.to };
    const { rno, text, time } = entry;
    link.send({ action: "send", uId: this.user, ...target, msg: text, rno, time: Math.floor(time / 1000) });
  }

  #land(lane) {
    lane.answer.clear();
    lane.flight = null;
  }

  #onSilence(lane, link) {
    const [entry] = lane.queue;
    this.#land(lane);
    if (++entry.tries >= MAX_TRIES) this.#fail(entry, new KschatError("timeout"));
    this.hooks.unanswered(link);
    this.pump();
  }

  /** What was under way there goes first on the next one, with the same `rno`. */
  lost(link) {
    for (const lane of this.#lanes.values()) if (lane.flight === link) this.#land(lane);
    this.pump();
  }

  #remove(entry) {
    const lane = this.#lane(entry);
    if (lane.queue[0] === entry) this.#land(lane);
    lane.queue = lane.queue.filter((other) => other !== entry);
    return lane;
  }

  #forget(entry) {
    this.#entries.delete(entry.rno);
    this.vault.remove(entry.key);
  }

  /** Whether it was the answer to one of ours. */
  answered(frame) {
    const entry = this.#entries.get(plain(frame.RANDOMNO));
    if (!entry || entry.error) return false;
    const code = codeOf(frame);
    if (code === OK) this.#accept(entry, frame);
    else if (this.#lane(entry).queue[0] === entry) this.#refuse(this.#lane(entry), errorOf(frame), frame);
    return true;
  }

  /** A copy that came back says that it was accepted, as well as an answer does. */
  echoed({ rno, id, time }) {
    const entry = this.#entries.get(rno);
    if (entry && !entry.error) this.#accept(entry, { event: "RESPSEND", RC: 1, ER: 0, MID: id, MSGTIME: time });
    return Boolean(entry);
  }

  /** An error without a name means all that is under way. */
  failed(error, frame) {
    for (const lane of this.#lanes.values()) if (lane.flight) this.#refuse(lane, error, frame);
  }

  #accept(entry, frame) {
    const lane = this.#remove(entry);
    this.#entries.delete(entry.rno);
    lane.waits = 0;
    entry.id = plain(frame.MID);
    entry.time = timeOf(frame.MSGTIME);
    this.hooks.accepted(entry, frame);
    // Until the application has noted it, the next page would send it again, and hear that it is the same.
    // One that has failed at it leaves that to the next page.
    Promise.all(this.hooks.changed(entry)).then(() => this.vault.remove(entry.key), () => {});
    entry.resolve?.(frame);
    this.pump();
  }

  #refuse(lane, error, frame) {
    const [entry] = lane.queue;
    const ended = ENDED.has(error.code);
    if (!ended && !TRANSIENT.has(error.code)) return this.#fail(entry, error);
    this.#land(lane);
    const link = this.hooks.link();
    if ((error.code === INTERNAL || ended) && ++entry.tries >= MAX_TRIES) return this.#fail(entry, error);
    lane.holding = true;
    const wait = Math.max(backoff(lane.waits++, this.options), Math.min(Number(plain(frame.RETRY)) || 0, 60_000));
    lane.hold.set(wait, () => {
      lane.holding = false;
      this.#pump(lane);
    });
    this.hooks.refused(error, lane.waits, link);
    this.pump();
  }

  #fail(entry, error) {
    this.#remove(entry);
    entry.error = { code: error.code, message: error.message };
    this.#keep(entry);
    this.hooks.changed(entry);
    entry.reject?.(error);
    const failed = [...this.#entries.values()].filter((one) => one.error);
    for (const one of failed.slice(0, -MAX_FAILED)) this.#forget(one);
    this.pump();
  }

  /** Sends a failed one again, after all others. */
  retry(rno) {
    const entry = this.#entries.get(rno);
    if (!entry?.error) return null;
    // What can't be taken now must not be lost for having been tried.
    if (this.#problem) return this.put(entry.to, entry.text, { room: entry.room, rno });
    this.#forget(entry);
    // A number that stands for another message, or that the server no longer knows, is of no use.
    const isSpent = entry.error.code === REUSED_RNO || now() - entry.triedAt > RNO_WINDOW;
    return this.put(entry.to, entry.text, { room: entry.room, rno: isSpent ? undefined : rno });
  }

  discard(rno) {
    const entry = this.#entries.get(rno);
    if (entry) this.#forget(entry);
    if (entry && !entry.error) this.#remove(entry);
    return Boolean(entry);
  }

  close(error) {
    this.closed = error.code;
    for (const lane of this.#lanes.values()) {
      this.#land(lane);
      lane.hold.clear();
    }
    for (const entry of this.#entries.values()) entry.reject?.(error);
    this.#release?.();
  }
}

// ---- the client

/** What `connect()` returns; kschat.d.ts describes it. */
export class Kschat extends Emitter {
  /** What the server can do: false for what it has refused to know. */
  features = {};
  #options;
  #connection;
  #inbox;
  #outbox;
  #seen;
  #question = null; // what waits for an answer …
  #questions = []; // … and what waits for its turn
  #patience = new Timer();
  #mentioned = null; // the last frame that has no answer
  #accepted = new Map(); // message id → what became of it
  #typed = new Map(); // to whom we type, since when we say so
  #typing = new Map(); // who types, until when that is shown
  #joined = new Set(); // rooms
  #watched = [];
  #watch = new Timer();
  #reads = new Map(); // sender → the last message that was read, to be told …
  #pause = new Timer(); // … but not all the time
  #pausing = false;

  constructor(options) {
    super();
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    this.#options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...Object.fromEntries(given) };
    const { url, user, WebSocket, storage = defaultStorage() } = this.#options;
    if (typeof WebSocket !== "function") throw new TypeError("there is no WebSocket here: give one as an option");
    if (!plain(user)) throw new TypeError("`user` must be given");
    this.#options.url = String(new URL(url));
    this.user = plain(user);
    const vault = new Vault(storage, this.user);
    this.#seen = new Seen(vault);
    this.#connection = new Connection(this.#options, {
      opened: () => this.#onOpened(),
      heard: (frame) => this.#heard(frame),
      lost: (link) => this.#onLost(link),
      told: (state, more) => this.#told(state, more),
      authenticate: (token) => this.#ask("auth", { action: "auth", token }, (frame) => frame.event === "RESPAUTH"),
    });
    this.#inbox = new Inbox(this.#options, this.#seen, this.user, {
      send: (frame) => this.#send(frame),
      hand: (messages) => this.#hand(messages),
    });
    this.#outbox = new Outbox(this.#options, vault, this.user, {
      link: () => this.#connection.link,
      changed: (entry) => this.emit("state", this.#outbox.describe(entry)),
      accepted: (entry, frame) => this.#onAccepted(entry, frame),
      refused: (error, waits, link) => this.#onRefused(error, waits, link),
      unanswered: (link) => link.drop(),
    });
    this.#listen(true);
    // Whoever called has time to listen first.
    queueMicrotask(() => {
      if (this.#connection.isOver) return;
      this.#outbox.adopt();
      this.#connection.dial();
    });
  }

  // -- what an application calls

  get state() {
    return this.#shown(this.#connection.state);
  }

  /** What is not accepted yet: sending or failed. */
  get outbox() {
    return this.#outbox.list;
  }

  send(to, text, options = {}) {
    this.#typed.delete(plain(to));
    return this.#outbox.put(plain(to), text, { rno: options.rno });
  }

  sendRoom(room, text, options = {}) {
    return this.#outbox.put(plain(room), text, { rno: options.rno, room: plain(room) });
  }

  retry(rno) {
    return this.#outbox.retry(rno);
  }

  discard(rno) {
    return this.#outbox.discard(rno);
  }

  /** Tries to connect now, if it waits to. */
  hurry() {
    this.#connection.hurry();
  }

  read(to, id) {
    if (!id || this.#reads.get(to)?.id >= id) return;
    this.#reads.set(to, { id, told: false });
    if (!this.#pausing) this.#tellReads();
  }

  typing(to, on = true) {
    const since = this.#typed.get(to) ?? 0;
    if (on ? now() - since < this.#options.typingEvery : !since) return;
    if (on) this.#typed.set(to, now());
    else this.#typed.delete(to);
    this.#mention("typing", { action: "typing", pId: to, on });
  }

  /** Who of these is here; changes come as `presence` until other ids are given. */
  presence(users) {
    this.#watched = users.map(plain).slice(0, MAX_ASKED);
    return this.#askPresence();
  }

  /** How far these have got and read what we sent them; comes as `receipt`, too. */
  async status(users) {
    const pIds = users.map(plain).slice(0, MAX_ASKED);
    const isAnswer = ({ event, LIST, ER }) => event === "RESPSTATUS" && (Array.isArray(LIST) || ER !== OK);
    const { LIST } = await this.#ask("receipts", { action: "status", pIds }, isAnswer);
    return listOf(LIST).map(({ uId, delivered, read }) => {
      return { user: plain(uId), delivered: plain(delivered), read: plain(read) };
    });
  }

  join(room) {
    return this.#askRoom("join", plain(room));
  }

  leave(room) {
    // Even if nobody answers: it is not to be joined again.
    this.#joined.delete(plain(room));
    return this.#askRoom("leave", plain(room));
  }

  async rooms() {
    const isAnswer = ({ event, OP, ER }) => event === "RESPROOM" && (OP === "list" || ER !== OK);
    const { LIST } = await this.#ask("rooms", { action: "rooms" }, isAnswer);
    return Array.isArray(LIST) ? LIST.map(plain) : [];
  }

  close() {
    this.#inbox.flush();
    this.#connection.close();
  }

  // -- the connection

  #shown(state) {
    return state === "waiting" && globalThis.navigator?.onLine === false ? "offline" : state;
  }

  #told(state, more) {
    if (state === "closed" || state === "ended") {
      this.#listen(false);
      this.#watch.clear();
      this.#pause.clear();
      this.#outbox.close(new KschatError(state));
      this.#finish(new KschatError(state));
    }
    this.emit("connection", { state: this.#shown(state), ...more });
  }

  #listen(on) {
    const add = on ? "addEventListener" : "removeEventListener";
    globalThis.window?.[add]?.("online", this.#onOnline);
    globalThis.window?.[add]?.("offline", this.#onOffline);
    globalThis.window?.[add]?.("pagehide", this.#onHide);
    globalThis.window?.[add]?.("storage", this.#onStorage);
    globalThis.document?.[add]?.("visibilitychange", this.#onVisible);
  }

  #onOnline = () => this.#connection.hurry();
  #onOffline = () => this.#connection.probe();
  #onStorage = ({ key }) => this.#outbox.notice(key);
  // Whoever leaves has seen what is here.
  #onHide = () => this.#inbox.flush();
  // Timers of hidden pages are slow, and a machine that slept has lost its connection.
  #onVisible = () => {
    if (document.hidden) return;
    this.#connection.hurry(this.#options.probeTimeout);
    this.#askPresence();
  };

  #send(frame) {
    return this.#connection.link?.send(frame) ?? false;
  }

  #onOpened() {
    this.#inbox.flush();
    this.#outbox.pump();
    this.#askPresence();
    this.#rejoin();
    this.#tellReads();
  }

  /** A server that has lost everything does not know any more in which rooms we are. */
  async #rejoin() {
    if (!this.#joined.size) return;
    const known = await this.rooms().catch(() => [...this.#joined]);
    for (const room of this.#joined) if (!known.includes(room)) this.join(room).catch(() => {});
  }

  /** One mark stands for many, so it has time. */
  #tellReads() {
    const untold = [...this.#reads].filter(([, { told }]) => !told);
    for (const [to, one] of untold) one.told = this.#mention("receipts", { action: "read", pId: to, mId: one.id });
    this.#pausing = untold.some(([, { told }]) => told);
    if (this.#pausing) this.#pause.set(this.#options.readEvery, () => this.#tellReads());
  }

  #onLost(link) {
    this.#outbox.lost(link);
    if (link !== this.#connection.link) return;
    this.features = {};
    this.#finish(new KschatError("offline"));
  }

  // -- frames

  #heard(frame) {
    if (this.#question?.isAnswer(frame)) this.#finish(codeOf(frame) === OK ? null : errorOf(frame), frame);
    if (frame.event === "RESPSEND") this.#onAnswer(frame);
    else if (frame.event === "RESPRECEIVER") this.#inbox.take(frame);
    else if (frame.event === "RESPERROR") this.#onError(errorOf(frame), frame);
    else if (frame.event === "RESPTYPING") this.#onTyping(plain(frame.UID), frame.ON === true);
    else if (frame.event === "RESPPRESENCE") this.#onPresence(frame);
    else if (frame.event === "RESPSTATUS") this.#onStatus(frame);
    else if (frame.event === "RESPROOM" && codeOf(frame) === OK) this.#onRoom(frame);
    else if (frame.event === "RESPCTRL") this.#onControl(frame);
    // The managed edge answers in its own shape when the code behind it broke.
    else if (!frame.event && plain(frame.message)) this.#outbox.failed(errorOf(frame), frame);
  }

  #onAnswer(frame) {
    if (codeOf(frame) === OK) this.#connection.works();
    if (!this.#outbox.answered(frame) && !plain(frame.RANDOMNO)) this.#outbox.failed(errorOf(frame), frame);
  }

  #onAccepted(entry, { MID }) {
    const { rno, to, room } = entry;
    const said = { from: this.user, id: plain(MID) };
    this.#seen.add(said);
    this.#seen.dealt(said);
    if (!room) this.#accepted.set(plain(MID), { ...this.#outbox.describe(entry), rno, to, state: "accepted" });
    if (this.#accepted.size > MAX_TRACKED) this.#accepted.delete(this.#accepted.keys().next().value);
  }

  #onRefused(error, waits, link) {
    if (ENDED.has(error.code)) this.#connection.renew();
    // The server may have forgotten who we are, and nobody is left to tell it.
    else if (error.code === FORGOTTEN && waits > 2) link?.drop();
    else if (waits > 1) this.emit("error", error);
  }

  #onError(error, frame) {
    if (error.code === UNKNOWN_ACTION) return this.#onUnknown(error);
    if (ENDED.has(error.code)) this.#connection.renew();
    else if (this.#question) this.#finish(error);
    else if (error.code === RATE) return; // Only of what has no answer.
    else if (TRANSIENT.has(error.code)) this.#outbox.failed(error, frame);
    else this.emit("error", error);
  }

  /** The server is older than we are: what we wanted is hidden. */
  #onUnknown(error) {
    const feature = this.#question?.feature ?? this.#mentioned;
    if (!feature) return;
    this.features[feature] = false;
    this.emit("feature", { feature, on: false });
    if (this.#question) this.#finish(error);
  }

  #hand(messages) {
    const news = messages.filter((message) => !(message.mine && this.#outbox.echoed(message)));
    for (const { from, room } of news) if (!room && this.#typing.has(from)) this.#onTyping(from, false);
    const each = new Map(news.map((message) => [message, this.emit("message", message)]));
    const all = news.length ? this.emit("messages", news) : [];
    return messages.map((message) => {
      return Promise.all(each.has(message) ? [...each.get(message), ...all] : []).then(() => true, () => false);
    });
  }

  #onTyping(user, on) {
    if (!user) return;
    clearTimeout(this.#typing.get(user));
    this.#typing.delete(user);
    if (on) this.#typing.set(user, setTimeout(() => this.#onTyping(user, false), this.#options.typingShown));
    this.emit("typing", { user, on });
  }

  #onPresence({ LIST }) {
    for (const { uId, on, last } of listOf(LIST)) {
      const seen = Number(last) > 0 ? timeOf(last) : undefined;
      this.emit("presence", { user: plain(uId), on: Number(on) === 1, last: seen });
    }
  }

  #onStatus({ UID, PID, STATUS: status, MID, LIST }) {
    for (const { uId, delivered, read } of listOf(LIST)) {
      this.#receipt(plain(uId), this.user, "delivered", plain(delivered));
      this.#receipt(plain(uId), this.user, "read", plain(read));
    }
    if (!LIST) this.#receipt(plain(UID), plain(PID), STATUS[status], plain(MID));
  }

  /** One mark stands for all before it: ids of one sender ascend. */
  #receipt(user, of, state, id) {
    if (!user || !state || !id) return;
    this.emit("receipt", { user, of, state, id });
    for (const [mid, one] of this.#accepted) {
      if (one.to !== user || of !== this.user || mid > id || one.state === state || one.state === "read") continue;
      one.state = state;
      this.emit("state", { ...one });
      if (state === "read") this.#accepted.delete(mid);
    }
  }

  #onRoom({ OP, GID }) {
    if (OP === "join") this.#joined.add(plain(GID));
    if (OP === "leave") this.#joined.delete(plain(GID));
    if (OP === "join" || OP === "leave") this.emit("room", { room: plain(GID), joined: OP === "join" });
  }

  #onControl(frame) {
    if (frame.OP === "kick") return this.#connection.end(plain(frame.WHY) || MEANINGS[KICKED]);
    // A link that is replaced shows a new token, where that is what is missing.
    if (ENDED.has(codeOf(frame))) this.#connection.renew();
    else if (frame.OP === "reconnect" || frame.OP === "drain") this.#connection.comeAgain(Number(frame.AFTER) || 0);
  }

  // -- questions, one after the other: an error does not say to which one it belongs

  #ask(feature, frame, isAnswer) {
    const answer = new Promise((resolve, reject) => {
      this.#questions.push({ feature, frame, isAnswer, resolve, reject });
    });
    answer.catch(() => {});
    this.#nextQuestion();
    return answer;
  }

  #nextQuestion() {
    if (this.#question || !this.#questions.length) return;
    this.#question = this.#questions.shift();
    if (this.features[this.#question.feature] === false) return this.#finish(new KschatError(UNKNOWN_ACTION));
    if (!this.#send(this.#question.frame)) return this.#finish(new KschatError("offline"));
    this.#patience.set(this.#options.answerTimeout, () => this.#finish(new KschatError("timeout")));
  }

  #finish(error, frame) {
    this.#patience.clear();
    const question = this.#question;
    this.#question = null;
    if (error) question?.reject(error);
    else question?.resolve(frame);
    if (frame && !error) this.#confirm(question.feature);
    this.#nextQuestion();
  }

  #confirm(feature) {
    if (this.features[feature]) return;
    this.features[feature] = true;
    this.emit("feature", { feature, on: true });
  }

  /** Says what has no answer, unless the server did not understand it. */
  #mention(feature, frame) {
    if (this.features[feature] === false) return true;
    this.#mentioned = feature;
    return this.#send(frame);
  }

  /** Asks again after a while, unless nobody looks. */
  #askPresence() {
    const asked = this.#watched.length;
    this.#watch.set(this.#options.presenceEvery, () => globalThis.document?.hidden || this.#askPresence());
    if (!asked) return Promise.resolve([]);
    const isAnswer = ({ event, LIST, ER }) => event === "RESPPRESENCE" && (ER !== OK || LIST?.length === asked);
    const answer = this.#ask("presence", { action: "presence", uIds: this.#watched }, isAnswer).then(({ LIST }) => {
      return listOf(LIST).map(({ uId, on, last }) => ({ user: plain(uId), on: Number(on) === 1, last }));
    });
    answer.catch(() => {});
    return answer;
  }

  #askRoom(action, room) {
    const isAnswer = ({ event, OP, GID, ER }) =>
      event === "RESPROOM" && (ER !== OK || (OP === action && plain(GID) === room));
    return this.#ask("rooms", { action, gId: room }, isAnswer);
  }
}

/** Connects, and stays connected until `close()`. */
export const connect = (options) => new Kschat(options);
