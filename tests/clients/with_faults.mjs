// kschat.js where something around it fails: the browser's storage, the application, the token, the server.
//
// Usage: with_faults.mjs WS_URL SECRET [PART...]. The part `restarting` asks whoever started it to restart the server.

import { createInterface } from "node:readline/promises";
import { queryObjects } from "node:v8";
import { WebSocket as Ws } from "ws";
import { connect, KschatError } from "../../templates/kschat.js";
import { Lane } from "../../templates/kschat/outbox.js";
import { check, eventually, fakeServer, sign, sleep, Storage, wire } from "./kit.mjs";

const [wsUrl, secret, ...wanted] = process.argv.slice(2);

const fast = { backoffMin: 20, backoffMax: 200, answerTimeout: 5_000, probeTimeout: 2_000, handshakeTimeout: 5_000 };
let number = 0;
const somebody = (name) => `${name}-${process.pid}-${++number}`;

/** A client without any handler for messages. */
function open(user, options = {}) {
  const chat = connect({ url: wsUrl, user, getToken: () => sign(secret, user), WebSocket: Ws, ...fast, ...options });
  chat.errors = [];
  chat.seen = [];
  chat.on("error", ({ code, isFinal, message }) => chat.errors.push({ code, isFinal, message }));
  chat.on("connection", ({ state }) => chat.seen.push(state));
  return chat;
}

function hear(chat) {
  chat.heard = [];
  chat.on("message", ({ text }) => chat.heard.push(text));
  return chat;
}

const connected = (chat, who = "a client") => eventually(`${who} is connected`, "connected", () => chat.state);
const range = (count, word = "n") => Array.from({ length: count }, (_, index) => `${word}${index}`);
const outcome = (promise) => promise.then((value) => value, (error) => error.code ?? error.name);
const thrown = (action) => {
  try {
    return action() && "nothing";
  } catch (error) {
    return error.name;
  }
};

// ---- storage

const broken = () => {
  throw new DOMException("The quota has been exceeded.", "QuotaExceededError");
};

const storages = {
  null: () => null,
  "one whose length throws": () => Object.defineProperty(new Storage(), "length", { get: broken }),
  "one whose methods throw": () => Object.assign(new Storage(), { getItem: broken, setItem: broken, removeItem: broken, key: broken }),
  "one that is full": () => Object.assign(new Storage(), { setItem: broken }),
  "one that holds rubbish": () => {
    const storage = new Storage();
    const out = `kschat/rubbish/${encodeURIComponent(wsUrl)}/`;
    for (const [index, value] of ["", "{", "null", "7", '"x"', '{"rno":7}', '{"rno":"r","to":{},"text":{},"time":"x"}'].entries()) {
      storage.setItem(`${out}out/t/${index}`, value);
      storage.setItem(`kschat/rubbish/out/t/${index}`, value);
    }
    for (const name of ["rooms", "mark", "lost"]) storage.setItem(out + name, '{"a":[1]}');
    storage.setItem("kschat/rubbish/seen", '{"length":3}');
    return storage;
  },
};

async function storing() {
  const before = Object.getOwnPropertyDescriptor(globalThis, "localStorage");
  // As in a page: only there the client looks for localStorage.
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
  for (const [name, make] of Object.entries(storages)) {
    const [user, bob] = ["rubbish", somebody("bob")];
    Object.defineProperty(globalThis, "localStorage", { configurable: true, value: make() });
    const [a, b] = [hear(open(user)), hear(open(bob))];
    await connected(a, `with ${name} as localStorage a client`);
    await a.send(bob, "out");
    await b.send(user, "in");
    await eventually("messages come and go", [["in"], ["out"], []], () => [a.heard.slice(-1), b.heard, a.outbox]);
    await a.join("r");
    check("rooms, too", ["r"], await a.rooms());
    await a.leave("r");
    a.close();
    b.close();
    const c = hear(open(user, { storage: make() }));
    await connected(c, "given as an option, another one");
    c.close();
  }
  delete globalThis.document;
  if (before) Object.defineProperty(globalThis, "localStorage", before);
  else delete globalThis.localStorage;
}

// ---- handlers

async function late() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const storage = new Storage();
  const [a, b] = [open(alice), open(bob, { storage, ackAfter: 0 })];
  await connected(b, "a client without a handler");
  const words = range(200);
  for (const word of words) await a.send(bob, word);
  await sleep(1_500);
  hear(b);
  await eventually("a handler that is added later gets all, in order, once", words, () => b.heard);
  await a.send(bob, "one more");
  await eventually("and goes on", [...words, "one more"], () => b.heard);
  await sleep(300);
  b.close();

  const idle = open(bob, { storage });
  await connected(idle, "one that never has a handler");
  await a.send(bob, "not taken");
  await sleep(500);
  idle.close();
  const next = hear(open(bob, { storage }));
  await eventually("leaves what came to the next one", ["not taken"], () => next.heard);
  next.close();
  a.close();

  const server = await fakeServer();
  const c = open("carol", { url: server.url, ackAfter: 0 });
  await connected(c, "a client without a handler");
  const item = (place) => ({ uId: "dave", pId: "carol", msg: `n${place}`, mId: `m-${String(place).padStart(4, "0")}`, msgTime: 1 });
  const push = (place) => server.push({ event: "RESPRECEIVER", ...(place > 1 && { PREV: `r.${place - 1}` }), MSG: [item(place)], POS: `r.${place}` });
  for (let place = 1; place <= 300; place++) push(place);
  await sleep(300);
  check("it acknowledges nothing", [], server.of("ack"));
  c.heard = [];
  const stop = c.subscribe("messages", (messages) => c.heard.push(...messages.map(({ text }) => text)));
  await eventually("it holds a bounded number of messages", range(257).slice(1), () => c.heard);
  await eventually("and acknowledges these", { action: "ack", mId: "m-0256", pos: "r.256" }, () => server.of("ack").at(-1));
  for (let place = 257; place <= 300; place++) push(place);
  await eventually("what found no place comes again", range(301).slice(1), () => c.heard);
  stop();
  push(301);
  await sleep(200);
  check("without a handler it takes nothing again", "m-0300", server.of("ack").at(-1).mId);
  hear(c);
  await eventually("until there is one", ["n301"], () => c.heard);
  c.close();
  server.close();
}

// ---- rooms

/** A server that keeps rooms and receipts, until it loses them. */
async function roomServer() {
  const rooms = new Set();
  const marks = new Map();
  let sent = 0;
  const server = await fakeServer({
    send: ({ rno, pId, gId }) => {
      if (gId && !rooms.has(gId)) return { event: "RESPSEND", ER: 14, RANDOMNO: rno, ERMSG: "not allowed" };
      if (pId) marks.set(pId, `0190-${sent}`);
      return { event: "RESPSEND", RANDOMNO: rno, MID: `0190-${++sent}`, MSGTIME: 1_700_000_000_000 + sent };
    },
    join: ({ gId }) => {
      if (gId === "secret") return { event: "RESPROOM", ER: 14, OP: "join", GID: gId, ERMSG: "not a member" };
      rooms.add(gId);
      return { event: "RESPROOM", OP: "join", GID: gId };
    },
    leave: ({ gId }) => (rooms.delete(gId), { event: "RESPROOM", OP: "leave", GID: gId }),
    rooms: () => ({ event: "RESPROOM", OP: "list", LIST: [...rooms] }),
    status: ({ pIds }) => ({ event: "RESPSTATUS", LIST: pIds.map((uId) => ({ uId, delivered: marks.get(uId) })) }),
  });
  return Object.assign(server, { rooms, marks, forget: () => (rooms.clear(), marks.clear()) });
}

async function rejoining() {
  const server = await roomServer();
  const changes = [];
  const options = { url: server.url, storage: new Storage() };
  let a = open("alice", options);
  a.on("room", ({ room, joined }) => changes.push([room, joined]));
  for (const room of ["r1", "r2", "r3"]) check("a join returns the room", { room }, await a.join(room));
  const joins = () => server.of("join").map(({ gId }) => gId).slice(3);
  const again = async () => {
    const { opened } = server;
    server.drop();
    await eventually("the client comes back", true, () => server.opened > opened && a.state === "connected");
    // One after the other: what it had to ask has been answered.
    await a.rooms();
  };

  server.rooms.delete("r1");
  await again();
  check("a room that was left on another device stays left", [], joins());
  check("and the loss of the room is reported", ["r1", false], changes.at(-1));

  server.forget();
  await again();
  check("a server that has lost its rooms hears of the others", ["r2", "r3"], joins());

  server.forget();
  server.drop();
  await a.sendRoom("r2", "first");
  const order = server.frames.slice(server.frames.findLastIndex(({ action }) => action === "rooms")).map(({ action }) => action);
  check("before messages to rooms are sent", ["rooms", "join", "join", "send"], order);

  server.forget();
  await a.sendRoom("r3", "second");
  check("also over an open connection", [true, true], [server.rooms.has("r2"), server.rooms.has("r3")]);

  server.rooms.delete("r3");
  check("who was put out of a room may not write there", 14, await outcome(a.sendRoom("r3", "third")));
  check("nor who never was in one", 14, await outcome(a.sendRoom("r9", "fourth")));
  a.discard(a.outbox[0].rno);
  a.discard(a.outbox[0].rno);

  // The only room is left elsewhere: the list is empty, but the server knows a receipt.
  await a.send("bob", "hello");
  server.push({ event: "RESPSTATUS", UID: "bob", PID: "alice", STATUS: 3, MID: "0190-9" });
  await a.status(["bob"]);
  const { length } = joins();
  server.rooms.clear();
  await again();
  check("an empty list means that all were left, where receipts are known", [[], ["r2", false]], [joins().slice(length), changes.at(-1)]);
  for (const room of ["r4", "r5"]) await a.join(room);
  server.forget();
  // It goes away in the middle of restoring them.
  const { join } = server.answers;
  server.answers.join = (frame) => (server.answers.join = join, join(frame), server.drop());
  server.drop();
  await eventually("what was lost with the receipts comes back, with one more loss in between", ["r4", "r5"], () => [...server.rooms].sort());
  a.close();

  server.forget();
  a = open("alice", options);
  check("a page that was reloaded restores them, too", "r5", (await a.sendRoom("r5", "fifth"), [...server.rooms].at(-1)));
  a.close();
  server.close();
}

/** Two devices, and the real server. */
async function leaving() {
  const alice = somebody("alice");
  const [home, away] = [somebody("home"), somebody("away")];
  const line = await wire(wsUrl);
  const [laptop, phone] = [hear(open(alice, { url: line.url })), hear(open(alice))];
  await laptop.join(home);
  await laptop.join(away);
  line.cut();
  await phone.leave(away);
  line.mend();
  await connected(laptop, "the other device");
  check("a room that was left on one device is left on the other", [home], await laptop.rooms());
  for (const one of [laptop, phone]) one.close();
  line.close();
}

/** The whole server goes with its memory and comes back: whoever started this script does that. */
async function restarting() {
  const lines = createInterface({ input: process.stdin });
  const command = (word) => (console.log(`do ${word}`), new Promise((done) => lines.once("line", done)));
  const [alice, bob, room] = [somebody("alice"), somebody("bob"), somebody("room")];
  const [a, b] = [open(alice), hear(open(bob))];
  await Promise.all([a.join(room), b.join(room)]);
  await a.sendRoom(room, "before");
  await eventually("a message to a room arrives", ["before"], () => b.heard);
  await command("stop");
  const answers = range(3, "meanwhile").map((word) => a.sendRoom(room, word));
  await command("start");
  await eventually("who listens is back", [room], async () => (b.state === "connected" ? await b.rooms() : []));
  check("what is sent to a room meanwhile is accepted", [0, 0, 0], (await Promise.all(answers)).map(({ ER }) => ER));
  for (const one of [a, b]) one.close();
  lines.close();
}

// ---- refusals

async function refused() {
  const alice = somebody("alice");
  const page = "<!doctype html><title>401 Unauthorized</title><p>Please log in.";
  const nope = wsUrl.replace(/\/\w+$/, "/nope");
  const wrong = () => sign("another secret, which the server does not know", alice);
  const cases = {
    "a page instead of a token": [{ getToken: () => page }, "token"],
    "a word instead of a token": [{ getToken: () => "Unauthorized" }, "token"],
    "an object instead of a token": [{ getToken: () => ({ token: "x" }) }, "token"],
    "no token but a text": [{ getToken: undefined, token: "x" }, "token"],
    "another stage": [{ url: nope }, "refused"],
    "another secret": [{ getToken: wrong }, "refused"],
    "TLS where there is none": [{ url: wsUrl.replace("ws:", "wss:") }, "refused"],
  };
  for (const [which, WebSocket] of Object.entries({ ws: Ws, native: globalThis.WebSocket })) {
    for (const [name, [options, code]] of Object.entries(cases)) {
      let asked = 0;
      const getToken = options.getToken ?? (() => sign(secret, alice));
      const counted = () => (asked++, getToken());
      const a = open(alice, { ...options, getToken: "token" in options ? undefined : counted, WebSocket });
      const waiting = a.send("bob", "waits");
      await eventually(`${name} ends the session (${which})`, "ended", () => a.state);
      check("with a reason that does not pass", [true, code], [a.errors.at(-1).isFinal && Boolean(a.errors.at(-1).message), a.errors.at(-1).code]);
      check("after a few tries", true, "token" in options || (asked >= 5 && asked <= 6));
      check("which is what a message hears, and it is kept", [code, ["waits"]], [await outcome(waiting), a.outbox.map(({ text }) => text)]);
      check("and who waits for a connection", code, await outcome(a.ready()));
    }
  }
  check("another scheme is refused at once", ["TypeError", "TypeError"], ["ftp://x/dev", "x"].map((url) => thrown(() => open(alice, { url }))));
  const https = open(alice, { url: wsUrl.replace("ws:", "http:") });
  await https.ready();
  check("http stands for ws", "connected", https.state);
  https.close();

  let token = page;
  const mended = open(alice, { getToken: () => token });
  await eventually("a session ends", "ended", () => mended.state);
  token = sign(secret, alice);
  mended.connect();
  await mended.ready();
  check("and restarts on request", "connected", mended.state);
  mended.close();

  const line = await wire(wsUrl);
  line.cut();
  for (const WebSocket of [Ws, globalThis.WebSocket]) {
    const a = open(alice, { url: line.url, maxRefusals: 2, WebSocket });
    await eventually("a server out of reach is tried on and on", true, () => a.seen.filter((state) => state === "waiting").length > 10);
    check("without giving up", [false, []], [a.seen.includes("ended"), a.errors]);
    a.close();
  }
  line.mend();

  // They were connected, and then their tokens are refused: an outage may look like that.
  let isBad = false;
  const getToken = () => (isBad ? wrong() : sign(secret, alice));
  const [patient, impatient] = [1e9, 0].map((refusalPeriod) => open(alice, { url: line.url, getToken, maxRefusals: 2, refusalPeriod }));
  await Promise.all([connected(patient), connected(impatient)]);
  isBad = true;
  // A handshake that fails makes them ask for a fresh token.
  line.cut();
  await eventually("both try to connect", true, () => [patient, impatient].every(({ seen }) => seen.filter((state) => state === "waiting").length > 1));
  line.mend();
  await eventually("who was connected goes on for a while", true, () => patient.seen.filter((state) => state === "waiting").length > 5);
  check("not for a moment only", false, patient.seen.includes("ended"));
  await eventually("and not for ever", "ended", () => impatient.state);
  patient.close();
  line.close();
}

// ---- requests

async function early() {
  const [alice, room] = [somebody("alice"), somebody("room")];
  const line = await wire(wsUrl);
  line.cut();
  const a = open(alice, { url: line.url });
  const answers = [a.join(room), a.rooms(), a.status(["bob"]), a.presence(["bob"]), a.sendRoom(room, "hello")].map(outcome);
  const ready = a.ready();
  await eventually("there is no connection", true, () => a.seen.includes("waiting"));
  line.mend();
  const [joined, rooms, status, presence, sent] = await Promise.all(answers);
  check("what is asked before there is a connection waits for it", [{ room }, [room], "bob", "bob", 0], [joined, rooms, status[0].user, presence[0].user, sent.ER]);
  check("and so does who asks for nothing else", undefined, await ready);
  line.cut();
  await eventually("the connection is lost", true, () => a.state !== "connected");
  const again = outcome(a.rooms());
  line.mend();
  check("the same after a loss", [room], await again);
  // What is under way when the connection goes is asked again.
  line.isMute = true;
  const repeated = outcome(a.rooms());
  await sleep(200);
  line.drop();
  line.mend();
  check("and for what was under way", [room], await repeated);
  a.close();
  check("a closed client refuses", "closed", await outcome(a.join(room)));
  const unhandled = [];
  const note = (error) => unhandled.push(error.message);
  process.on("unhandledRejection", note);
  for (const ask of [() => a.join(room), () => a.leave(room), () => a.rooms(), () => a.status(["x"]), () => a.presence(["x"])]) ask();
  await sleep(50);
  process.off("unhandledRejection", note);
  check("and who does not wait for an answer need not handle that", [], unhandled);
  line.close();

  const dead = await wire(wsUrl);
  dead.cut();
  const b = open(alice, { url: dead.url, requestTimeout: 300 });
  check("nothing waits for ever", Array(4).fill("offline"), await Promise.all([b.join(room), b.rooms(), b.status(["x"]), b.presence(["x"])].map(outcome)));
  const many = await Promise.all(range(150).map(() => outcome(b.rooms())));
  check("nor do too many", [100, 50], ["offline", "full"].map((code) => many.filter((one) => one === code).length));
  b.close();
  dead.close();

  const c = open(alice);
  await c.ready();
  c.close();
  const { length } = c.seen;
  c.connect();
  await c.ready();
  check("a client that was closed can connect again", ["closed", "connecting", "connected"], c.seen.slice(length - 1));
  const [saved, heard] = [somebody("bob"), []];
  const d = open(saved);
  const stop = d.subscribe("message", ({ text }) => heard.push(text));
  await c.send(saved, "one");
  await eventually("who subscribes hears", ["one"], () => heard);
  stop();
  hear(d);
  await c.send(saved, "two");
  await eventually("and no more after", [["one"], ["two"]], () => [heard, d.heard]);
  c.close();
  const kept = c.send(saved, "kept");
  check("nothing is taken meanwhile", "closed", await outcome(kept));
  d.close();
}

// ---- what is stored, and for which server

async function belonging() {
  const [staging, production] = [await roomServer(), await roomServer()];
  const storage = new Storage();
  const a = open("alice", { url: staging.url, storage });
  staging.answers.send = () => null;
  a.send("bob", "for staging");
  await eventually("a message is under way", 1, () => staging.of("send").length);
  a.close();
  const b = open("alice", { url: production.url, storage });
  await b.send("bob", "for production");
  await sleep(200);
  check("what was written for one server is not sent to another", ["for production"], production.of("send").map(({ msg }) => msg));
  b.close();
  const c = open("alice", { url: `${staging.url}#x`, storage });
  await eventually("but to its own", 2, () => staging.of("send").length);
  c.close();

  // As an earlier version has left it, which did not say for which server.
  const kept = (rno, text) => storage.setItem(`kschat/alice/out/former/${rno}`, JSON.stringify({ rno, to: "bob", text, time: 1, tries: 0 }));
  kept("f-1", "from before");
  const d = open("alice", { url: production.url, storage });
  await connected(d);
  await eventually("what an earlier version has left is not sent unasked", [["failed", "unsure"]], () => d.outbox.map(({ state, error }) => [state, error?.code]));
  check("and is stored once", [], [...Array(storage.length).keys()].map((index) => storage.key(index)).filter((key) => key.startsWith("kschat/alice/out/")));
  await d.retry("f-1");
  check("when asked it is, under its own number", ["f-1", "from before"], [production.of("send").at(-1).rno, production.of("send").at(-1).msg]);
  d.close();
  kept("f-2", "from this server's own page");
  globalThis.location = new URL(production.url.replace("ws:", "http:"));
  const e = open("alice", { url: production.url, storage });
  await eventually("a page that the server itself has sent can send it", "f-2", () => production.of("send").at(-1).rno);
  delete globalThis.location;
  e.close();
  staging.close();
  production.close();
}

// ---- arguments

async function arguing() {
  const server = await roomServer();
  const a = hear(open("alice", { url: server.url, ackAfter: 0 }));
  await connected(a);
  const wrong = {
    "an object as a text": () => a.send("bob", { text: "hello" }),
    "no text": () => a.send("bob"),
    "null as a text": () => a.sendRoom("r", null),
    "a number as a text": () => a.send("bob", 7),
    "no recipient": () => a.send(undefined, "hello"),
    "an object as a recipient": () => a.send({ id: 7 }, "hello"),
    "an empty recipient": () => a.send("", "hello"),
    "a number that is not exact": () => a.send(2 ** 53, "hello"),
    "a fraction": () => a.send(1.5, "hello"),
    "nobody to whom one types": () => a.typing(),
    "a handler that is none": () => a.on("message", "x"),
    "a user who is none": () => open({}, { url: server.url }),
  };
  for (const [name, action] of Object.entries(wrong)) check(`${name} is a TypeError`, "TypeError", thrown(action));
  const promising = [() => a.join(), () => a.leave({}), () => a.status("bob"), () => a.presence(), () => a.presence([{}])];
  check("and so it is for what is promised", Array(5).fill("TypeError"), promising.map(thrown));
  check("nothing was sent", [], server.frames);

  const large = "9007199254740993";
  await a.send(large, "to a large number");
  await a.send(-7, "to a number");
  check("ids keep all their digits", [large, "-7"], server.of("send").map(({ pId }) => pId));
  server.push(`{"event":"RESPRECEIVER","MSG":[{"uId":${large},"pId":-${large},"msg":"hi","mId":"m-1","msgTime":1}],"POS":"r.1"}`);
  const from = [];
  a.on("message", (message) => from.push([message.from, message.to]));
  server.push(`{"event":"RESPRECEIVER","MSG":[{"uId":"${large}","pId":-${large},"msg":"${large}","mId":"m-2","msgTime":1}],"POS":"r.2"}`);
  await eventually("those that come, too", [[large, `-${large}`]], () => from.slice(-1));
  check("as does a text", large, a.heard.at(-1));
  a.close();
  server.close();
}

// ---- bounds

async function bounded() {
  const server = await roomServer();
  const a = open("alice", { url: server.url, readEvery: 50 });
  await connected(a);
  await Promise.all(range(2_000, "user").map((to) => a.send(to, "hello")));
  check("recipients to whom all was sent take no memory", 0, queryObjects(Lane, { format: "count" }));
  server.drop();
  const reads = () => new Set(server.of("read").map(({ pId }) => pId)).size;
  for (const from of range(3_000, "user")) a.read(from, "0190-1");
  await eventually("the newest read positions are sent", true, () => server.of("read").some(({ pId }) => pId === "user2999"));
  check("and no more than there is place for", true, reads() <= 1_001);
  a.close();

  const progress = [];
  server.answers.send = () => null;
  const b = open("bob", { url: server.url });
  b.on("state", ({ state }) => progress.push(state));
  const answers = range(5_001, "user").map((to) => outcome(b.send(to, "hello")));
  check("no more wait than there is place for", "full", await answers.at(-1));
  await eventually("a few are under way", 8, () => server.of("send").slice(2_000).length);
  b.close();
  server.close();
}

const parts = { storing, late, rejoining, leaving, refused, early, belonging, arguing, bounded };
const all = { ...parts, restarting };
for (const name of wanted.length ? wanted : Object.keys(parts)) await all[name]();
process.exit(0);
