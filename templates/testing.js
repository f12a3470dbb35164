// A server in memory for tests of applications. testing.d.ts documents it.

import { connect } from "./kschat.js";

const RUN = "00000000"; // of all positions
const TOKEN = "e30.e30.test"; // nobody verifies it
const FAST = { ackAfter: 0, backoffMin: 5, backoffMax: 50, readEvery: 0 };

/** Ids ascend, as those of a server, and are the same in each run of a test. */
const messageId = (number) => `00000000-0000-7000-8000-${String(number).padStart(12, "0")}`;
const positionOf = ({ mId }) => `${RUN}.${Number(mId.slice(-12))}`;
const countOf = (position) => Number(position?.split(".")[1] ?? 0);

class Socket {
  readyState = 0;
  #server;

  /** `server`: accept(socket), heard(socket, frame), lost(socket). */
  constructor(server) {
    this.#server = server;
    queueMicrotask(() => this.readyState === 0 && server.accept(this));
  }

  open() {
    this.readyState = 1;
    this.onopen?.({ type: "open" });
  }

  receive(frame) {
    if (this.readyState === 1) this.onmessage?.({ type: "message", data: JSON.stringify({ RC: 1, ER: 0, ...frame }) });
  }

  send(data) {
    queueMicrotask(() => this.readyState === 1 && this.#server.heard(this, JSON.parse(data)));
  }

  close() {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.#server.lost(this);
    // The client takes this for a server that is out of reach, and does not look for it by HTTP.
    this.onerror?.({ type: "error", error: { code: "ECONNREFUSED" } });
    this.onclose?.({ type: "close" });
  }
}

export class TestServer {
  sent = [];
  frames = [];
  options;
  #user;
  #sockets = new Set();
  #isStopped = false;
  #messages = 0;
  #unacked = []; // { item, resolve }
  #refusals = [];
  #rooms = new Set();
  #presence = new Map(); // user → presence
  #positions = new Map(); // user → what it has received and read

  constructor(user) {
    this.#user = String(user);
    const server = {
      accept: (socket) => this.#accept(socket),
      heard: (socket, frame) => this.#heard(socket, frame),
      lost: (socket) => this.#sockets.delete(socket),
    };
    class WebSocket extends Socket {
      constructor() {
        super(server);
      }
    }
    this.options = { url: "ws://kschat.test/", user: this.#user, token: TOKEN, storage: null, WebSocket, ...FAST };
  }

  connect(options = {}) {
    return connect({ ...this.options, ...options });
  }

  // -- the connection

  #accept(socket) {
    if (this.#isStopped) return socket.close();
    this.#sockets.add(socket);
    socket.open();
    this.#redeliver([socket]);
  }

  drop() {
    for (const socket of [...this.#sockets]) socket.close();
  }

  stop() {
    this.#isStopped = true;
    this.drop();
  }

  start() {
    this.#isStopped = false;
  }

  // -- what the user receives

  push(frame) {
    for (const socket of this.#sockets) socket.receive(frame);
  }

  deliver({ from, text, room, time = Date.now() }) {
    const to = { pId: room ?? this.#user, ...(room && { gId: room }) };
    const item = { uId: String(from), ...to, msg: text, rStatus: 1, msgTime: time, mId: messageId(++this.#messages) };
    const before = this.#unacked.at(-1);
    const acked = new Promise((resolve) => this.#unacked.push({ item, resolve }));
    this.push({ event: "RESPRECEIVER", ...(before && { PREV: positionOf(before.item) }), MSG: [item], POS: positionOf(item) });
    return acked;
  }

  redeliver() {
    this.#redeliver(this.#sockets);
  }

  #redeliver(sockets) {
    const MSG = this.#unacked.map(({ item }) => ({ ...item, redelivered: true }));
    if (!MSG.length) return;
    for (const socket of sockets) socket.receive({ event: "RESPRECEIVER", MSG, POS: positionOf(MSG.at(-1)) });
  }

  typing(user, on) {
    this.push({ event: "RESPTYPING", UID: String(user), ON: on });
  }

  presence(user, on) {
    const one = { uId: String(user), on: on ? 1 : 0, ...(!on && { last: Date.now() }) };
    this.#presence.set(one.uId, one);
    this.push({ event: "RESPPRESENCE", LIST: [one] });
  }

  receipt(user, state, id) {
    const uId = String(user);
    this.#positions.set(uId, { ...this.#positions.get(uId), delivered: id, ...(state === "read" && { read: id }) });
    this.push({ event: "RESPSTATUS", UID: uId, PID: this.#user, STATUS: state === "read" ? 4 : 3, MID: id });
  }

  // -- what the user sends

  refuse(code, count = 1) {
    this.#refusals.push(...Array(count).fill(code));
  }

  #heard(socket, frame) {
    this.frames.push(frame);
    const answer = this.#answers[frame.action]?.(frame);
    if (answer) socket.receive(answer);
  }

  #answers = {
    ping: () => ({ event: "RESPPONG" }),
    auth: () => ({ event: "RESPAUTH" }),
    send: (frame) => this.#answerSend(frame),
    ack: (frame) => this.#onAck(frame),
    join: ({ gId }) => (this.#rooms.add(gId), { event: "RESPROOM", OP: "join", GID: gId }),
    leave: ({ gId }) => (this.#rooms.delete(gId), { event: "RESPROOM", OP: "leave", GID: gId }),
    rooms: () => ({ event: "RESPROOM", OP: "list", LIST: [...this.#rooms] }),
    status: ({ pIds }) => ({ event: "RESPSTATUS", LIST: pIds.map((uId) => ({ uId, ...this.#positions.get(uId) })) }),
    presence: ({ uIds }) => ({ event: "RESPPRESENCE", LIST: uIds.map((uId) => this.#presence.get(uId) ?? { uId, on: 0 }) }),
  };

  #answerSend({ uId, pId, gId, msg, rno }) {
    const answer = { event: "RESPSEND", SID: uId, ...(gId ? { GID: gId } : { RID: pId }), RANDOMNO: rno };
    const code = this.#refusals.shift() ?? (gId && !this.#rooms.has(gId) ? 14 : 0);
    if (code) return { ...answer, ER: code, ERMSG: `the test refuses it with ${code}` };
    const earlier = this.sent.find((message) => message.rno === rno);
    const { id, time } = earlier ?? this.#take({ to: gId ?? pId, ...(gId && { room: gId }), text: msg, rno });
    return { ...answer, MSG: msg, MSGTIME: time, STATUS: 1, MID: id, ...(earlier && { DUP: 1 }) };
  }

  #take(message) {
    const taken = { ...message, id: messageId(++this.#messages), time: Date.now() };
    this.sent.push(taken);
    return taken;
  }

  #onAck({ pos, again }) {
    while (this.#unacked.length && countOf(positionOf(this.#unacked[0].item)) <= countOf(pos)) this.#unacked.shift().resolve();
    if (again) this.redeliver();
  }
}
