// The server in memory of templates/testing.js, compared with a real stack.
// Usage: with_testing.mjs WS_URL SECRET

import { WebSocket } from "ws";
import { connect, Kschat } from "../../templates/kschat.js";
import { TestServer } from "../../templates/testing.js";
import { check, eventually, sign, sleep } from "./kit.mjs";

const [url, secret] = process.argv.slice(2);
const [alice, bob, room] = ["alice", "bob", "room"].map((name) => `${name}-${process.pid}`);
const codeOf = (promise) => promise.then(() => 0, ({ code }) => code);

/** What differs in each run becomes its type. */
const DIFFERENT = new Set(["id", "time", "last", "rno", "RANDOMNO", "MSGTIME", "MID", "message"]);
const typed = (name, value) => (DIFFERENT.has(name) && value ? typeof value : value);
const plain = (value) => JSON.parse(JSON.stringify(value, typed));

/** All that a client of alice reports while she chats with bob. */
async function report(chat, peer) {
  const events = { message: [], state: [], receipt: [], typing: [], presence: [], room: [], feature: [] };
  for (const [event, all] of Object.entries(events)) chat.on(event, (value) => void all.push(plain(value)));
  await chat.ready();
  const answers = { unknown: plain(await chat.presence([bob])) };
  const frame = await chat.send(bob, "hello");
  answers.send = plain(frame);
  answers.again = plain(await chat.send(bob, "hello", { rno: frame.RANDOMNO }));
  answers.status = plain(await chat.status([bob]));
  answers.outside = await codeOf(chat.sendRoom(room, "nobody hears it"));
  answers.joined = await chat.join(room);
  answers.room = plain(await chat.sendRoom(room, "to all"));
  answers.rooms = await chat.rooms();
  await peer.comes(frame.MID);
  await eventually("bob comes", true, () => events.presence.some(({ on }) => on));
  await eventually("he reads", "read", () => events.state.at(-1).state);
  answers.read = (await chat.status([bob])).map(({ user, read }) => [user, typeof read]);
  peer.types();
  await eventually("he types", 1, () => events.typing.length);
  await peer.writes("hi");
  await peer.writes("to alice and others", room);
  await eventually("he writes", 2, () => events.message.length);
  answers.left = await chat.leave(room);
  chat.close();
  // How many acks become one receipt is a matter of time.
  events.receipt = events.receipt.filter(({ state }) => state === "read").slice(-1);
  events.state = events.state.filter(({ state }) => state !== "delivered");
  return { ...answers, ...events };
}

const server = new TestServer(alice);
const inMemory = await report(server.connect(), {
  async comes(id) {
    server.presence(bob, true);
    server.receipt(bob, "read", id);
  },
  types: () => server.typing(bob, true),
  writes: (text, target) => server.deliver({ from: bob, text, room: target }),
});

const real = (user) => connect({ url, user, token: sign(secret, user), WebSocket, storage: null, readEvery: 0 });
const peer = real(bob);
peer.close();
const inFact = await report(real(alice), {
  async comes(id) {
    peer.on("message", () => {});
    peer.connect();
    await peer.join(room);
    peer.read(alice, id);
  },
  types: () => peer.typing(alice),
  writes: (text, target) => (target ? peer.sendRoom(target, text) : peer.send(alice, text)),
});
peer.close();
for (const kind of Object.keys(inFact)) check(`${kind} is that of a real server`, inFact[kind], inMemory[kind]);

const { sent } = server;
check("the test sees what was sent", [[bob, "hello"], [room, "to all"]], sent.map(({ to, text }) => [to, text]));
check("and all frames", true, server.frames.some(({ action, gId }) => action === "leave" && gId === room));

const other = new TestServer(7);
const chat = other.connect();
check("its clients are the real ones", [true, "7"], [chat instanceof Kschat, chat.user]);
const heard = [];
let isFailing = false;
chat.on("message", ({ text }) => {
  if (isFailing) throw new Error(text);
  heard.push(text);
});

other.refuse(11);
check("a send is refused", 11, await codeOf(chat.send("bob", "full")));
check("it is a failed message", ["failed", 11], chat.outbox.map(({ state, error }) => [state, error.code])[0]);
await chat.retry(chat.outbox[0].rno);
other.refuse(2, 3);
await chat.send("bob", "patient");
check("a refusal that may pass is tried again", ["full", "patient"], other.sent.map(({ text }) => text));

await other.deliver({ from: "bob", text: "one" });
check("once deliver() has resolved, handlers have finished", ["one"], heard);
other.redeliver();
isFailing = true;
const reported = new Promise((resolve) => (globalThis.reportError = resolve));
const failing = other.deliver({ from: "bob", text: "two" });
check("a message that a handler fails at is reported", "two", (await reported).message);
isFailing = false;
await sleep(0);
other.redeliver();
await failing;
check("and comes again; nothing else does", ["one", "two"], heard);

other.stop();
await eventually("a stopped server is out of reach", "waiting", () => chat.state);
const later = chat.send("bob", "later");
const waiting = other.deliver({ from: "bob", text: "three" });
check("messages wait", [["sending"], 2], [chat.outbox.map(({ state }) => state), other.sent.length]);
other.start();
await Promise.all([later, waiting]);
check("and go when it is back", ["later", ["one", "two", "three"]], [other.sent.at(-1).text, heard]);

other.drop();
await eventually("a dropped client connects again", "connected", () => chat.state);
await other.deliver({ from: "bob", text: "four" });
check("and goes on", "four", heard.at(-1));
chat.close();
process.exit(0);
