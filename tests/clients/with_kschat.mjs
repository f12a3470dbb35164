// kschat.js as a program uses it: everything in it that needs no page.
//
// Usage: with_kschat.mjs WS_URL SECRET

import { WebSocket as Ws } from "ws";
import { connect, KschatError, sizeOf } from "../../templates/kschat.js";
import { check, eventually, fail, progress, sign, sleep, Storage, wire } from "./kit.mjs";

const [wsUrl, secret] = process.argv.slice(2);

const fast = { backoffMin: 20, backoffMax: 400, answerTimeout: 10_000, probeTimeout: 5_000, handshakeTimeout: 10_000 };
// For wires that lose what is said. Elsewhere a pause of the machine would cut connections.
const impatient = { answerTimeout: 800, probeTimeout: 400, handshakeTimeout: 2_000 };
let number = 0;
const somebody = (name) => `${name}-${process.pid}-${++number}`;

function open(user, options = {}) {
  const getToken = () => sign(secret, user);
  const chat = connect({ url: wsUrl, user, getToken, WebSocket: Ws, ...fast, ...options });
  chat.heard = [];
  chat.seen = [];
  chat.on("message", ({ text }) => chat.heard.push(text));
  chat.on("connection", ({ state }) => chat.seen.push(state));
  for (const event of ["state", "message"]) chat.on(event, () => progress());
  return chat;
}

const connected = (chat, who = "a client") => eventually(`${who} is connected`, "connected", () => chat.state);
const range = (count, word = "n") => Array.from({ length: count }, (_, index) => `${word}${index}`);
const refusal = (promise) => promise.then(() => "accepted", (error) => error);

async function sending(WebSocket = Ws) {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const [a, b] = [open(alice, { WebSocket }), open(bob, { WebSocket })];
  const states = [];
  a.on("state", ({ state, rno }) => states.push([state, rno]));
  const promise = a.send(bob, "hello");
  const frame = await promise;
  check("send resolves with RESPSEND", ["RESPSEND", 0, "hello"], [frame.event, frame.ER, frame.MSG]);
  check("its states come as events", [["sending", promise.rno], ["accepted", promise.rno]], states);
  await eventually("it arrives", ["hello"], () => b.heard);
  check("nothing is left to send", [], a.outbox);

  const message = new Promise((heard) => a.once("message", heard));
  await b.send(alice, "Grüße 👋\u2028\0 <b>");
  const { from, to, text, mine, room } = await message;
  check("a message says from whom it is", [bob, alice, "Grüße 👋\u2028\0 <b>", false, undefined], [from, to, text, mine, room]);

  const large = await refusal(a.send(bob, "x".repeat(28 * 1024)));
  check("what is too large fails with its code", [true, 8], [large instanceof KschatError, large.code]);
  check("it is kept as failed", ["failed"], a.outbox.map(({ state }) => state));
  check("… until it is discarded", [true, []], [a.discard(a.outbox[0].rno), a.outbox]);
  check("a size is what travels", 9, sizeOf("é\n€"));
  await a.send(bob, "half a pair: \ud83d");
  await eventually("half a surrogate pair is replaced", "half a pair: \uFFFD", () => b.heard.at(-1));

  const rno = somebody("rno");
  await a.send(bob, "one", { rno });
  const reused = await refusal(a.send(bob, "another", { rno }));
  check("a number that is used twice fails with 13", 13, reused.code);
  await a.retry(rno);
  await eventually("a retry takes a fresh one", "another", () => b.heard.at(-1));

  const burst = range(300);
  await Promise.all(burst.map((word) => a.send(bob, word)));
  await eventually("300 sent at once come in order, once", burst, () => b.heard.slice(-300));
  const { rno: failed } = a.send(bob, "x".repeat(28 * 1024));
  a.close();
  b.close();
  check("a closed client refuses", "closed", (await refusal(a.send(bob, "late"))).code);
  check("to try again, too", "closed", (await refusal(a.retry(failed))).code);
  check("which loses nothing", [[failed, "failed"]], a.outbox.map(({ rno, state }) => [rno, state]));
}

async function acknowledging() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const storage = new Storage();
  const [a, b] = [open(alice), open(bob, { storage })];
  await connected(b, "bob");
  const words = range(40);
  for (const word of words) await a.send(bob, word);
  await eventually("all arrive", words, () => b.heard);
  b.close();
  const again = open(bob, { storage });
  await connected(again, "bob's next page");
  await a.send(bob, "after");
  await eventually("what was acknowledged does not come again", ["after"], () => again.heard);
  again.close();

  // A page that goes while it is still at it has not dealt with it either.
  const slow = open(bob, { storage, ackAfter: 0 });
  slow.on("message", ({ text }) => (text === "slow" ? new Promise(() => {}) : undefined));
  await connected(slow, "bob");
  await a.send(bob, "quick");
  await eventually("a message comes", ["quick"], () => slow.heard);
  await a.send(bob, "slow");
  await eventually("another one comes", ["quick", "slow"], () => slow.heard);
  slow.close();
  const next = open(bob, { storage });
  await eventually("what was not dealt with comes to the next page, and nothing else", ["slow"], () => next.heard);
  next.close();

  // The other way round: it was dealt with, and the ack got lost.
  const line = await wire(wsUrl);
  const unheard = open(bob, { storage, url: line.url });
  await connected(unheard, "bob");
  line.isDeaf = true;
  await a.send(bob, "dealt with");
  await eventually("a message comes", ["dealt with"], () => unheard.heard);
  unheard.close();
  line.close();
  const after = open(bob, { storage });
  await a.send(bob, "the next one");
  await eventually("what was dealt with is not handed to the next page", ["the next one"], () => after.heard);
  after.close();

  // A handler that fails has not dealt with it.
  const stubborn = open(bob, { storage });
  let tries = 0;
  const errors = [];
  const { error } = console;
  console.error = (cause) => (cause.message ? errors.push(cause.message) : error(cause));
  stubborn.on("message", async ({ text }) => {
    if (text === "hard" && ++tries < 2) throw new Error("not yet");
  });
  await connected(stubborn, "bob");
  for (const word of ["easy", "hard", "easy too", "last"]) await a.send(bob, word);
  await eventually("what a handler failed at comes again, and nothing else", ["easy", "easy too", "hard", "hard", "last"], () =>
    stubborn.heard.toSorted());
  console.error = error;
  check("the failure is reported", ["not yet"], errors);
  stubborn.close();
  a.close();
}

async function losing() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const line = await wire(wsUrl);
  const storage = new Storage();
  const b = open(bob);
  const { now: realNow } = Date;
  const openAlice = () => open(alice, { url: line.url, storage, ...impatient });
  let a = openAlice();
  await a.send(bob, "before");
  line.cut();
  await eventually("a lost connection is reported", "waiting", () => (a.seen.includes("waiting") ? "waiting" : a.state));
  const offline = range(5, "offline");
  const answers = offline.map((word) => a.send(bob, word));
  check("what is written offline waits", offline, a.outbox.map(({ text }) => text));
  Date.now = () => realNow() - 3_600_000;
  offline.push("set back");
  answers.push(a.send(bob, "set back"));
  Date.now = realNow;
  line.mend();
  await Promise.all(answers);
  await eventually("… and is sent in order", ["before", ...offline], () => b.heard);

  // The server accepts, and its answer is lost.
  line.isMute = true;
  const unsure = a.send(bob, "unsure");
  await eventually("it arrives though nobody heard the answer", "unsure", () => b.heard.at(-1));
  check("it still counts as sending", ["sending"], a.outbox.map(({ state }) => state));
  line.drop();
  line.mend();
  check("the same number makes it one message", 1, (await unsure).DUP);

  // A page that goes while messages wait.
  line.cut();
  const left = range(5, "left");
  for (const word of left) a.send(bob, word);
  await sleep(50);
  a.close();
  line.mend();
  a = openAlice();
  await eventually("the next page sends what the last one left", left, () => b.heard.slice(-5));
  await sleep(300);
  check("each came once", ["before", ...offline, "unsure", ...left], b.heard);
  await eventually("and nothing is left", [], () => a.outbox);

  // A wire that is dead and does not say so.
  line.isFrozen = true;
  const dead = a.send(bob, "dead");
  await sleep(1_000);
  line.isFrozen = false;
  await dead;
  await eventually("a dead socket is noticed by a send", "dead", () => b.heard.at(-1));
  a.close();
  a = open(alice, { url: line.url, pingAfter: 300, probeTimeout: 10_000 });
  await connected(a, "alice");
  const { opened } = line;
  await sleep(1_500);
  check("pings keep a silent connection", [opened, "connected"], [line.opened, a.state]);
  a.close();
  a = open(alice, { url: line.url, pingAfter: 300, probeTimeout: 2_000 });
  await connected(a, "alice");
  line.isFrozen = true;
  await eventually("a dead socket is noticed by a ping", true, () => a.state !== "connected");
  line.mend();
  line.drop();
  await connected(a, "alice");
  a.close();
  b.close();
  line.close();
}

async function bursting() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const line = await wire(wsUrl);
  const [a, b] = [open(alice, { url: line.url }), open(bob, { url: line.url })];
  await Promise.all([connected(a), connected(b)]);
  const burst = range(1_000);
  const all = Promise.all(burst.map((word) => a.send(bob, word)));
  for (let cuts = 0; cuts < 6; cuts++) {
    await sleep(250);
    line.drop();
  }
  await all;
  await eventually("a thousand through six cuts come in order, once", burst, () => b.heard);
  a.close();
  b.close();
  line.close();
}

async function rolling() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const [lineA, lineB] = [await wire(wsUrl), await wire(wsUrl)];
  const clocks = { rolloverAfter: 400, rolloverOverlap: 100 };
  const [a, b] = [open(alice, { url: lineA.url, ...clocks }), open(bob, { url: lineB.url, ...clocks })];
  await Promise.all([connected(a), connected(b)]);
  const words = range(400);
  for (const word of words) {
    await a.send(bob, word);
    await sleep(3);
  }
  await eventually("nothing is lost or doubled while both roll over", words, () => b.heard);
  check("they did roll over", [true, true], [lineA.opened > 3, lineB.opened > 3]);
  await eventually("the old connections are closed", true, () => lineA.open() <= 2 && lineB.open() <= 2);
  check("nobody was ever without a connection", ["connecting"], [...new Set(a.seen)].filter((one) => one !== "connected"));
  a.close();
  b.close();
  lineA.close();
  lineB.close();
}

async function suffering() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const [a, b] = [open(alice), open(bob)];
  await Promise.all([connected(a), connected(b)]);
  const faults = new URL("/_edge/faults", wsUrl.replace("ws:", "http:"));
  const headers = { "content-type": "application/json" };
  for (const rule of ["post=swallow", "post=410", "post=429", "invoke=fail", "invoke=duplicate", "invoke=reorder"]) {
    const answer = await fetch(faults, { method: "POST", headers, body: JSON.stringify({ rule: `${rule} share=7%` }) });
    check(`the edge breaks on purpose: ${rule}`, 201, answer.status);
  }
  const words = range(250);
  await Promise.all(words.flatMap((word) => [a.send(bob, word), b.send(alice, word)]));
  check("it is mended", true, (await fetch(faults, { method: "DELETE" })).ok);
  for (const chat of [a, b]) await eventually("all come through an edge that loses, refuses, doubles and swaps, in order, once", words, () => chat.heard);
  a.close();
  b.close();
}

/** Receipts, presence, copies and rooms, as the server has them. */
async function belonging() {
  const [alice, bob, room] = [somebody("alice"), somebody("bob"), somebody("room")];
  const [a, phone] = [open(alice), open(alice)];
  const b = open(bob);
  const seen = [];
  a.on("presence", ({ user, on }) => seen.push([user, on]));
  const states = [];
  a.on("state", ({ state }) => states.push(state));
  await Promise.all([connected(a), connected(phone), connected(b)]);
  check("presence lists who is online", [[bob, true]], (await a.presence([bob])).map(({ user, on }) => [user, on]));
  const { MID } = await a.send(bob, "hello");
  await eventually("delivery receipts arrive", ["sending", "accepted", "delivered"], () => states);
  b.read(alice, MID);
  await eventually("and what was read", ["sending", "accepted", "delivered", "read"], () => states);
  check("a mark is remembered", [{ user: bob, delivered: MID, read: MID }], await a.status([bob]));
  await eventually("another device of the sender shows it", ["hello"], () => phone.heard);
  check("the one that sent it does not hear it", [], a.heard);

  await Promise.all([a.join(room), b.join(room)]);
  check("rooms are listed", [room], await b.rooms());
  check("a message to a room is accepted", room, (await a.sendRoom(room, "hello all")).GID);
  await eventually("and heard there", ["hello", "hello all"], () => b.heard);
  await b.leave(room);
  check("who has left may not write there", 14, (await refusal(b.sendRoom(room, "still here?"))).code);
  b.close();
  await eventually("a peer that goes offline is reported", [bob, false], () => seen.at(-1));
  check("nothing was refused as unknown", [], Object.entries(a.features).filter(([, on]) => !on));
  a.close();
  phone.close();
}

async function expiring() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  let asked = 0;
  let end = Infinity;
  const early = [];
  const getToken = () => {
    early.push(Date.now() < end);
    end = Math.floor(Date.now() / 1000 + 12) * 1000;
    return asked++, sign(secret, alice, 12);
  };
  const line = await wire(wsUrl);
  const [a, b] = [open(alice, { getToken, url: line.url }), open(bob)];
  const words = [];
  const say = (word) => (words.push(word), a.send(bob, word));
  // They are renewed after three quarters of their time.
  while (asked < 3 && words.length < 300) {
    await say(`n${words.length}`);
    await sleep(200);
  }
  await say("last");
  await eventually("tokens of twelve seconds are renewed in time", words, () => b.heard);
  check("they were asked for, before the last one ended", [true, true], [asked >= 3, !early.includes(false)]);
  check("over the open connection", [1, ["connecting", "connected"]], [line.opened, a.seen]);
  a.close();
  line.close();

  const ending = open(alice, { getToken: undefined, token: sign(secret, alice, 6) });
  await connected(ending, "alice");
  await sleep(6_500);
  const refused = await refusal(ending.send(bob, "too late"));
  check("without getToken the session ends with its token", ["ended", "ended"], [refused.code, ending.state]);
  const over = open(alice, { getToken: () => null });
  await eventually("a host that gives no token has ended it", "ended", () => over.state);

  let thrown = 2;
  const unhandled = [];
  const onUnhandled = (error) => unhandled.push(error.message);
  process.on("unhandledRejection", onUnhandled);
  const getTokenOrThrow = () => {
    if (thrown-- > 0) throw new Error("no host");
    return sign(secret, alice);
  };
  const throwing = open(alice, { getToken: getTokenOrThrow, handshakeTimeout: 2_000 });
  await throwing.send(bob, "in spite of it");
  await eventually("a getToken that throws is asked again", "in spite of it", () => b.heard.at(-1));
  await sleep(2_300);
  check("and leaves nothing unhandled", [], unhandled);
  process.off("unhandledRejection", onUnhandled);
  throwing.close();

  let broken = 3;
  const flaky = open(alice, { getToken: () => (broken-- > 0 ? Promise.reject(new Error("503")) : sign(secret, alice)) });
  await flaky.send(bob, "at last");
  await eventually("a host that fails is asked again", "at last", () => b.heard.at(-1));
  flaky.close();
  b.close();
}

async function odd() {
  const { WebSocketServer } = await import("ws");
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "kschat.v2" });
  await new Promise((listening) => server.on("listening", listening));
  const frames = [];
  let socket;
  let most = 0;
  server.on("connection", (one) => {
    socket = one;
    most = Math.max(most, server.clients.size);
    one.on("message", (data) => frames.push(JSON.parse(data)));
  });
  const url = `ws://127.0.0.1:${server.address().port}/dev`;
  const a = open("alice", { url });
  await connected(a);
  const junk = [
    "", "null", "7", "[]", "{", '"x"', '{"event":null}', '{"event":{"a":1}}', '{"event":"RESPNEW","X":[{}]}',
    '{"event":"RESPRECEIVER"}', '{"event":"RESPRECEIVER","MSG":[null,7,{},{"uId":{}},{"uId":[1],"msg":{}}],"POS":{}}',
    '{"event":"RESPRECEIVER","PREV":{"x":1},"MSG":[{"uId":1}]}', '{"event":"RESPSEND"}', '{"event":"RESPSEND","ER":{}}',
    '{"event":"RESPERROR"}', '{"event":"RESPERROR","ER":"x"}', '{"event":"RESPSTATUS","LIST":7}', '{"event":"RESPSTATUS"}',
    '{"event":"RESPPRESENCE","LIST":[null,{"uId":{}},{"uId":"b","on":"x","last":"y"}]}', '{"event":"RESPTYPING","UID":[]}',
    '{"event":"RESPROOM","OP":7}', '{"event":"RESPCTRL"}', '{"event":"RESPAUTH","EXP":"soon"}', '{"message":{}}',
    '{"event":"RESPRECEIVER","MSG":[{"uId":7,"pId":"alice","msg":"fine","msgTime":1e99,"mId":"m1","new":{}}],"POS":"r.1"}',
  ];
  for (const text of junk) socket.send(text);
  socket.send(Buffer.from([1, 2, 3]));
  await eventually("frames of any shape do no harm", ["fine"], () => a.heard);
  await eventually("and the good one is acknowledged", { action: "ack", mId: "m1", pos: "r.1" }, () => frames.at(-1));

  socket.send('{"event":"RESPRECEIVER","PREV":"r.5","MSG":[{"uId":7,"msg":"later","mId":"m6"}],"POS":"r.6"}');
  const again = { action: "ack", mId: "m1", pos: "r.1", again: true };
  await eventually("a frame that was lost is asked for", again, () => frames.at(-1));
  check("… and what came after it waits", ["fine"], a.heard);

  a.off("message").on("message", async ({ id }) => {
    if (id === "m2") throw await sleep(50, new Error("not yet"));
  });
  const { error } = console;
  console.error = () => {};
  socket.send('{"event":"RESPRECEIVER","PREV":"r.1","MSG":[{"uId":7,"msg":"hard","mId":"m2"}],"POS":"r.2"}');
  socket.send('{"event":"RESPRECEIVER","PREV":"r.2","MSG":[{"uId":7,"msg":"easy","mId":"m3"}],"POS":"r.3"}');
  await sleep(1_100);
  console.error = error;
  check("what came after a failure is not acknowledged for it", again, frames.at(-1));

  a.typing("bob");
  await eventually("typing is sent", "typing", () => frames.at(-1).action);
  socket.send('{"event":"RESPERROR","RC":1,"ER":15,"ERMSG":"unknown action"}');
  await eventually("a server that does not know it is asked no more", false, () => a.features.typing);
  const { length } = frames;
  a.typing("carol");
  await sleep(50);
  check("nothing was sent", length, frames.length);

  socket.send('{"event":"RESPCTRL","RC":1,"ER":20,"OP":"reconnect","AFTER":50,"WHY":"a new version"}');
  await eventually("a server that goes away is left for a new connection first", 2, () => most);
  check("without a gap", false, a.seen.includes("waiting"));
  socket.send('{"event":"RESPCTRL","RC":1,"ER":19,"OP":"kick","WHY":"banned"}');
  await eventually("who is kicked does not come back", "ended", () => a.state);
  server.close();
}

async function typing() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const [a, b] = [open(alice), open(bob, { typingShown: 5_000 })];
  const events = [];
  b.on("typing", ({ user, on }) => events.push([user, on]));
  await Promise.all([connected(a), connected(b)]);
  for (let key = 0; key < 5; key++) a.typing(bob);
  await eventually("typing is reported once for many keys", [[alice, true]], () => events.slice(0, 1));
  await eventually("it is not shown for ever", [[alice, true], [alice, false]], () => events);
  a.typing(bob, false);
  // Frames that are sent without waiting may overtake each other.
  await sleep(500);
  a.typing(bob);
  await eventually("it begins again", [alice, true], () => events.at(-1));
  await a.send(bob, "here it is");
  await eventually("a message ends it", [alice, false], () => events.at(-1));
  await eventually("it is heard", ["here it is"], () => b.heard);
  check("no other event arrived", true, events.length <= 6);
  a.close();
  b.close();
}

/** Receipts, presence, copies and rooms, from a server with scripted replies and refusals. */
async function agreed() {
  const { WebSocketServer } = await import("ws");
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "kschat.v2" });
  await new Promise((listening) => server.on("listening", listening));
  const heard = [];
  let socket;
  let sent = 0;
  const answers = {
    send: ({ rno, gId }) => ({ event: "RESPSEND", RC: 1, ER: 0, RANDOMNO: rno, ...(gId && { GID: gId }), MID: `0190-${++sent}`, MSGTIME: 1_700_000_000_000 + sent }),
    presence: ({ uIds }) => ({ event: "RESPPRESENCE", RC: 1, ER: 0, LIST: uIds.map((uId) => ({ uId, on: 1 })) }),
    status: () => ({ event: "RESPSTATUS", RC: 1, ER: 0, LIST: [{ uId: "bob", delivered: "0190-1", read: "" }] }),
    join: ({ gId }) => gId === "secret" ? { event: "RESPROOM", RC: 1, ER: 14, OP: "join", GID: gId, ERMSG: "not a member" } : { event: "RESPROOM", RC: 1, ER: 0, OP: "join", GID: gId },
    leave: ({ gId }) => ({ event: "RESPROOM", RC: 1, ER: 0, OP: "leave", GID: gId }),
    rooms: () => ({ event: "RESPROOM", RC: 1, ER: 0, OP: "list", LIST: ["r1"] }),
  };
  server.on("connection", (one) => {
    socket = one;
    one.on("message", (data) => {
      const frame = JSON.parse(data);
      heard.push(frame);
      if (answers[frame.action]) one.send(JSON.stringify(answers[frame.action](frame)));
    });
  });
  const push = (frame) => socket.send(JSON.stringify({ RC: 1, ER: 0, ...frame }));
  const a = open("alice", { url: `ws://127.0.0.1:${server.address().port}/dev`, presenceEvery: 300, readEvery: 200 });
  const events = { presence: [], state: [], room: [], receipt: [] };
  for (const [event, list] of Object.entries(events)) a.on(event, (value) => list.push(value));
  await connected(a);

  const here = await a.presence(["bob", "carol"]);
  check("presence lists who is online", [["bob", true], ["carol", true]], here.map(({ user, on }) => [user, on]));
  push({ event: "RESPPRESENCE", LIST: [{ uId: "bob", on: 0, last: 1_700_000_000_123 }] });
  await eventually("and who goes", { user: "bob", on: false, last: 1_700_000_000_123 }, () => events.presence.at(-1));

  for (const word of ["one", "two", "three"]) await a.send("bob", word);
  check("status says what bob has received", [{ user: "bob", delivered: "0190-1", read: "" }], await a.status(["bob"]));
  const of = (mid) => events.state.filter(({ id }) => id === mid).map(({ state }) => state);
  check("as states of messages", ["accepted", "delivered"], of("0190-1"));
  push({ event: "RESPSTATUS", UID: "bob", PID: "alice", STATUS: 4, MID: "0190-2" });
  await eventually("one mark stands for all before it", [["accepted", "delivered", "read"], ["accepted", "read"], ["accepted"]], () =>
    ["0190-1", "0190-2", "0190-3"].map(of));
  const reads = () => heard.filter(({ action }) => action === "read").map(({ mId }) => mId);
  for (const id of ["0190-6", "0190-7", "0190-9", "0190-8"]) a.read("bob", id);
  await eventually("a read receipt is sent once for many messages, and never goes back", ["0190-6", "0190-9"], reads);

  await a.join("r1");
  check("a room is joined", [{ room: "r1", joined: true }], events.room);
  check("rooms are listed", ["r1"], await a.rooms());
  check("a room that is closed says so", 14, (await refusal(a.join("secret"))).code);
  check("a message to a room is accepted", "r1", (await a.sendRoom("r1", "hello all")).GID);
  push({ event: "RESPRECEIVER", MSG: [{ uId: "bob", pId: "r1", gId: "r1", msg: "hi", mId: "0191-1", msgTime: 1 }], POS: "x.1" });
  push({ event: "RESPRECEIVER", MSG: [{ uId: "alice", pId: "bob", msg: "from my phone", mId: "0191-2", msgTime: 1 }], POS: "x.2" });
  const got = [];
  a.on("message", ({ room, mine, text }) => got.push([room, mine, text]));
  await eventually("messages of rooms and copies are distinguished", [["r1", false, "hi"], [undefined, true, "from my phone"]], () => got);
  await a.leave("r1");
  await eventually("a room is left", { room: "r1", joined: false }, () => events.room.at(-1));

  await a.join("r2");
  answers.rooms = () => ({ event: "RESPROOM", RC: 1, ER: 0, OP: "list", LIST: [] });
  answers.status = () => ({ event: "RESPSTATUS", RC: 1, ER: 0, LIST: [{ uId: "bob" }] });
  socket.terminate();
  a.read("bob", "0191-0");
  await eventually("a room that the server has lost is joined again", 2, () =>
    heard.filter(({ action, gId }) => action === "join" && gId === "r2").length);
  await eventually("a message read meanwhile is reported later", "0191-0", () => reads().at(-1));
  await eventually("who is here is asked again after a reconnect", true, () => heard.filter(({ action }) => action === "presence").length >= 2 && a.state === "connected");
  a.close();

  // An older one, which knows nothing of `auth`.
  answers.auth = () => ({ event: "RESPERROR", RC: 1, ER: 15, ERMSG: "unknown action" });
  let links = 0;
  server.on("connection", () => links++);
  const b = open("bob", { url: `ws://127.0.0.1:${server.address().port}/dev`, getToken: () => sign(secret, "bob", 2), rolloverOverlap: 50 });
  await connected(b, "bob");
  await eventually("a server that takes no token over an open connection gets a new connection", true, () => links > 1);
  check("without a gap", ["connecting", "connected", "connected"], b.seen.slice(0, 3));
  b.close();
  server.close();
}

async function distinguishing() {
  const { WebSocketServer } = await import("ws");
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "kschat.v2" });
  await new Promise((listening) => server.on("listening", listening));
  let socket;
  const sent = [];
  server.on("connection", (one) => {
    socket = one;
    one.on("message", (data) => {
      const frame = JSON.parse(data);
      if (frame.action === "send") sent.push(frame.rno);
    });
  });
  let place = 0;
  const push = (uId, mId, msg) =>
    socket.send(JSON.stringify({ event: "RESPRECEIVER", RC: 1, ER: 0, MSG: [{ uId, pId: "bob", msg, mId, msgTime: 1 }], POS: `r.${++place}` }));
  const url = `ws://127.0.0.1:${server.address().port}/dev`;
  const idOf = (tail, head = "0190a5d0") => `${head}-ac96-7000-${tail}`;
  const [first, second, third] = ["bcce-b302099a8057", "bcce-000000000001", "bcce-000000000002"];
  const storage = new Storage();
  // As the release before has left it.
  storage.setItem("kschat/bob/seen", JSON.stringify([first]));
  storage.setItem("kschat/bob/out/former/000000000", JSON.stringify({ rno: "former-0", to: "alice", text: "kept", time: 1, tries: 0 }));

  const a = open("bob", { url, storage, ackAfter: 0 });
  await connected(a);
  a.retry("former-0");
  await eventually("what an earlier release has kept keeps its number", ["former-0"], () => sent);
  push("alice", idOf(first), "shown before the upgrade");
  push("mallory", idOf(second), "decoy");
  push("alice", idOf(second), "alice's own");
  push("alice", idOf(second, "0190a5d1"), "a second try of it");
  push(7, "m-1", "from 7");
  push("7", "m-1", "from 7 again");
  push("8", "m-1", "from 8");
  await eventually("messages of two senders are two", ["decoy", "alice's own", "from 7", "from 8"], () => a.heard);
  a.close();

  const b = open("bob", { url, storage, ackAfter: 0 });
  await connected(b);
  push("alice", idOf(first), "shown before the upgrade");
  push("alice", idOf(second, "0190a5d2"), "a third try of it");
  push("carol", idOf(second), "carol's");
  push("7", "m-1", "from 7 again");
  push("alice", idOf(third), "the last");
  await eventually("also after a reload", ["carol's", "the last"], () => b.heard);

  for (const word of ["one", "two"]) b.send(word, word);
  await eventually("numbers are drawn at random", 3, () => new Set(sent).size);
  check("… of 128 bits", [true, true], [...new Set(sent)].slice(1).map((rno) => /^[0-9a-f]{32}$/.test(rno)));
  b.close();
  server.close();
}

// Node.js has one of its own since version 22.
const natively = () => globalThis.WebSocket && sending(globalThis.WebSocket);

const parts = { sending, natively, acknowledging, losing, bursting, rolling, suffering, expiring, typing, belonging, odd, agreed, distinguishing };
const wanted = process.argv.slice(4);
for (const [name, part] of Object.entries(parts)) {
  if (wanted.length && !wanted.includes(name)) continue;
  await part();
}
process.exit(0);
