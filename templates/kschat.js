/*! kschat: MIT OR Apache-2.0 */
// Client of kschat for browsers, bundlers and Node.js 20 or newer. README.md shows its use, kschat.d.ts documents its
// members. This file connects the modules in the folder kschat.

import { Connection, TokenSource } from "./kschat/connection.js";
import { Inbox } from "./kschat/inbox.js";
import { Outbox } from "./kschat/outbox.js";
import {
  codeOf, DEFAULTS, Emitter, errorOf, FORGOTTEN, idOf, idsOf, KICKED, KschatError, MAX_MESSAGE_BYTES, meaningOf, OK,
  plain, RATE_LIMITED, sizeOf, textOf, TOKEN_CODES, TRANSIENT_CODES, UNKNOWN_ACTION,
} from "./kschat/common.js";
import { Features, Presence, ReadMarks, Receipts, Requests, Typing } from "./kschat/requests.js";
import { Rooms } from "./kschat/rooms.js";
import { SeenMessages, UserStore } from "./kschat/storage.js";

export { KschatError, MAX_MESSAGE_BYTES, sizeOf };

const SCHEMES = { "ws:": "ws:", "wss:": "wss:", "http:": "ws:", "https:": "wss:" };

function webSocketUrl(given) {
  const url = new URL(given);
  if (!SCHEMES[url.protocol]) throw new TypeError(`\`url\` must begin with wss: or ws:, not with ${url.protocol}`);
  url.protocol = SCHEMES[url.protocol];
  url.hash = "";
  return String(url);
}

function complete(options) {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const all = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...Object.fromEntries(given) };
  if (typeof all.WebSocket !== "function") throw new TypeError("there is no WebSocket here: give one as an option");
  return { ...all, url: webSocketUrl(all.url) };
}

// Listeners of events need not handle rejections.
function quiet(promise) {
  promise.catch(() => {});
  return promise;
}

export class Kschat {
  #user;
  #options;
  #events = new Emitter();
  #features;
  #requests;
  #connection;
  #inbox;
  #outbox;
  #seen;
  #rooms;
  #receipts;
  #reads;
  #presence;
  #typing;
  #over = null; // why the session has ended, as an error
  #mentioned = null; // the feature of the last frame without a reply

  constructor(options) {
    this.#options = complete(options);
    this.#user = idOf(options.user, "user");
    const store = new UserStore(this.#options.storage, this.#options.url, this.#user);
    this.#seen = new SeenMessages(store.ofUser);
    this.#features = new Features((feature, on) => this.#events.emit("feature", { feature, on }));
    this.#requests = new Requests(this.#options, this.#features, (frame) => this.#send(frame));
    this.#connection = this.#newConnection();
    this.#inbox = this.#newInbox();
    this.#outbox = this.#newOutbox(store);
    this.#rooms = new Rooms(this.#options, this.#requests, store.ofServer, {
      changed: (room, joined) => this.#events.emit("room", { room, joined }),
      ready: () => this.#outbox.unblock(),
    });
    this.#receipts = new Receipts(this.#user, this.#requests, {
      receipt: (receipt) => this.#onReceipt(receipt),
      changed: (message) => this.#events.emit("state", message),
    });
    this.#reads = new ReadMarks(this.#options, (frame) => this.#mention("receipts", frame));
    this.#presence = new Presence(this.#options, this.#requests, (one) => this.#events.emit("presence", one));
    const sendTyping = (frame) => this.#mention("typing", frame);
    this.#typing = new Typing(this.#options, sendTyping, (one) => this.#events.emit("typing", one));
    this.#start();
  }

  #newConnection() {
    const isAnswer = (frame) => frame.event === "RESPAUTH";
    return new Connection(this.#options, new TokenSource(this.#options), {
      opened: () => this.#onOpened(),
      heard: (frame) => this.#onFrame(frame),
      lost: (socket, isCurrent) => this.#onLost(socket, isCurrent),
      changed: (state, more) => this.#onChanged(state, more),
      authenticate: (token) => this.#requests.ask("auth", { action: "auth", token }, isAnswer, { impatient: true }),
      gaveUp: (error) => this.#events.emit("error", Object.assign(error, { isFinal: true })),
    });
  }

  #newInbox() {
    return new Inbox(this.#options, this.#seen, this.#user, {
      send: (frame) => this.#send(frame),
      hasHandler: () => this.#events.has("message") || this.#events.has("messages"),
      hand: (messages) => this.#hand(messages),
      echoed: (message) => this.#outbox.echoed(message),
    });
  }

  #newOutbox(store) {
    return new Outbox(this.#options, store, this.#user, {
      socket: () => this.#connection.socket,
      changed: (entry) => this.#events.emit("state", this.#outbox.describe(entry)),
      accepted: (entry, frame) => this.#onAccepted(entry, frame),
      refused: (error, waits, socket) => this.#onRefused(error, waits, socket),
      unanswered: (socket) => socket.drop(),
      canSend: (room) => this.#rooms.canSend(room),
      verify: (room) => this.#rooms.verify(room),
    });
  }

  #start() {
    this.#listen(true);
    // Lets the caller add handlers first.
    queueMicrotask(() => {
      if (this.#connection.isOver) return;
      this.#outbox.adopt();
      this.#connection.open();
    });
  }

  // -- public API

  get user() {
    return this.#user;
  }

  get state() {
    return this.#shown(this.#connection.state);
  }

  get features() {
    return this.#features.known;
  }

  get outbox() {
    return this.#outbox.list;
  }

  on(event, handler) {
    this.#events.on(event, handler);
    this.#onHandler(event);
    return this;
  }

  once(event, handler) {
    this.#events.once(event, handler);
    this.#onHandler(event);
    return this;
  }

  off(event, handler) {
    this.#events.off(event, handler);
    return this;
  }

  subscribe(event, handler) {
    // The same function may be subscribed twice.
    const own = (value) => handler(value);
    this.on(event, own);
    return () => this.#events.off(event, own);
  }

  // The caller may be about to add another handler.
  #onHandler(event) {
    if (event === "message" || event === "messages") queueMicrotask(() => this.#inbox.release());
  }

  ready() {
    return new Promise((resolve, reject) => {
      const settle = () => {
        if (this.state === "connected") resolve();
        else if (this.#over) reject(this.#over);
        else return;
        this.off("connection", settle);
      };
      this.on("connection", settle);
      settle();
    });
  }

  connect() {
    if (!this.#over) return this.hurry();
    this.#over = null;
    this.#listen(true);
    this.#requests.open();
    this.#outbox.open();
    this.#connection.open();
  }

  send(to, text, options = {}) {
    const id = idOf(to, "to");
    const entry = this.#outbox.put(id, textOf(text), { rno: options.rno });
    this.#typing.sent(id);
    return entry;
  }

  sendRoom(room, text, options = {}) {
    const id = idOf(room, "room");
    return this.#outbox.put(id, textOf(text), { rno: options.rno, room: id });
  }

  retry(rno) {
    return this.#outbox.retry(rno);
  }

  discard(rno) {
    return this.#outbox.discard(rno);
  }

  hurry() {
    this.#connection.hurry();
  }

  read(from, id) {
    this.#reads.read(idOf(from, "from"), plain(id));
  }

  typing(to, on = true) {
    this.#typing.type(idOf(to, "to"), Boolean(on));
  }

  presence(users) {
    return quiet(this.#presence.watch(idsOf(users, "users")));
  }

  status(users) {
    return quiet(this.#receipts.status(idsOf(users, "users")));
  }

  join(room) {
    return quiet(this.#rooms.join(idOf(room, "room")));
  }

  leave(room) {
    return quiet(this.#rooms.leave(idOf(room, "room")));
  }

  rooms() {
    return quiet(this.#rooms.list());
  }

  close() {
    this.#inbox.flush();
    this.#connection.close();
  }

  // -- the connection

  #shown(state) {
    return state === "waiting" && globalThis.navigator?.onLine === false ? "offline" : state;
  }

  #onChanged(state, more) {
    if (state === "closed" || state === "ended") this.#stop(new KschatError(more.code ?? state, more.reason));
    this.#events.emit("connection", { state: this.#shown(state), ...more });
  }

  #stop(error) {
    this.#over = error;
    this.#listen(false);
    this.#presence.stop();
    this.#reads.stop();
    this.#outbox.close(error);
    this.#requests.stop(error);
  }

  #listen(isOn) {
    const action = isOn ? "addEventListener" : "removeEventListener";
    globalThis.window?.[action]?.("online", this.#onOnline);
    globalThis.window?.[action]?.("offline", this.#onOffline);
    globalThis.window?.[action]?.("pagehide", this.#onHide);
    globalThis.window?.[action]?.("storage", this.#onStorage);
    globalThis.document?.[action]?.("visibilitychange", this.#onVisible);
  }

  #onOnline = () => this.#connection.hurry();
  #onOffline = () => this.#connection.probe();
  #onStorage = ({ key }) => this.#outbox.noticed(key);
  // Messages received so far have been shown.
  #onHide = () => this.#inbox.flush();
  // Timers of hidden pages are slow, and sleep closes connections.
  #onVisible = () => {
    if (document.hidden) return;
    this.#connection.hurry(this.#options.probeTimeout);
    if (this.#connection.socket) this.#presence.refresh();
  };

  #send(frame) {
    return this.#connection.socket?.send(frame) ?? false;
  }

  #onOpened() {
    this.#inbox.flush();
    // Before the outbox, whose messages to lost rooms would be refused.
    this.#rooms.opened();
    this.#outbox.unblock();
    this.#requests.resume();
    this.#presence.refresh();
    this.#reads.flush();
  }

  #onLost(socket, isCurrent) {
    this.#outbox.lost(socket);
    if (!isCurrent) return;
    this.#features.reset();
    this.#requests.lost();
  }

  // -- frames

  #onFrame(frame) {
    this.#requests.heard(frame);
    if (frame.event === "RESPSEND") this.#onAnswer(frame);
    else if (frame.event === "RESPRECEIVER") this.#inbox.take(frame);
    else if (frame.event === "RESPERROR") this.#onError(errorOf(frame), frame);
    else if (frame.event === "RESPTYPING") this.#typing.heard(frame);
    else if (frame.event === "RESPPRESENCE") this.#presence.heard(frame);
    else if (frame.event === "RESPSTATUS") this.#receipts.heard(frame);
    else if (frame.event === "RESPROOM") this.#rooms.heard(frame);
    else if (frame.event === "RESPCTRL") this.#onControl(frame);
    // API Gateway has its own error format for a failed function.
    else if (!frame.event && plain(frame.message)) this.#outbox.refused(errorOf(frame), frame);
  }

  #onAnswer(frame) {
    if (codeOf(frame) === OK) this.#connection.works();
    if (!this.#outbox.answered(frame) && !plain(frame.RANDOMNO)) this.#outbox.refused(errorOf(frame), frame);
  }

  #onAccepted(entry, { MID }) {
    const message = { from: this.#user, id: plain(MID) };
    this.#seen.add(message);
    this.#seen.handled(message);
    if (!entry.room) this.#receipts.track({ ...this.#outbox.describe(entry), state: "accepted" });
  }

  #onRefused(error, waits, socket) {
    if (TOKEN_CODES.has(error.code)) this.#connection.renew();
    // The server may have lost our session, without an owner to restore it.
    else if (error.code === FORGOTTEN && waits > 2) socket?.drop();
    else if (waits > 1) this.#events.emit("error", error);
  }

  #onError(error, frame) {
    if (error.code === UNKNOWN_ACTION) return this.#onUnknown(error);
    if (TOKEN_CODES.has(error.code)) this.#connection.renew();
    else if (this.#requests.fail(error)) return;
    else if (error.code === RATE_LIMITED) return; // Only of frames without a reply.
    else if (TRANSIENT_CODES.has(error.code)) this.#outbox.refused(error, frame);
    else this.#events.emit("error", error);
  }

  /** The server is older than this client: hides the missing feature. */
  #onUnknown(error) {
    const feature = this.#requests.feature ?? this.#mentioned;
    if (!feature) return;
    this.#features.refuse(feature);
    this.#requests.fail(error);
  }

  #hand(messages) {
    for (const { from, room } of messages) if (!room) this.#typing.received(from);
    const each = messages.map((message) => this.#events.emit("message", message));
    const all = this.#events.emit("messages", messages);
    return each.map((results) => Promise.all([...results, ...all]).then(() => true, () => false));
  }

  #onReceipt(receipt) {
    this.#events.emit("receipt", receipt);
    if (receipt.of === this.#user) this.#rooms.received(receipt.user);
  }

  #onControl(frame) {
    if (frame.OP === "kick") {
      return this.#connection.end(new KschatError(KICKED, plain(frame.WHY) || meaningOf(KICKED)));
    }
    // A replacement socket presents a new token, if a token error caused it.
    if (TOKEN_CODES.has(codeOf(frame))) this.#connection.renew();
    else if (frame.OP === "reconnect" || frame.OP === "drain") this.#connection.reconnectAfter(Number(frame.AFTER) || 0);
  }

  /** Remembers the feature of a frame without a reply, unless the server does not support it. */
  #mention(feature, frame) {
    if (this.#features.isMissing(feature)) return true;
    this.#mentioned = feature;
    return this.#send(frame);
  }
}

export const connect = (options) => new Kschat(options);
