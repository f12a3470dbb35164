// What the scripts that test kschat.js and the chat page share.

import { createHmac } from "node:crypto";
import { createServer, connect as dial } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { WebSocketServer } from "ws";

export { sleep };

export function fail(what, expected, got) {
  const shown = (value) => (JSON.stringify(value) ?? String(value)).slice(0, 800);
  console.error(`FAILED ${what}\nexpected: ${shown(expected)}\ngot:      ${shown(got)}`);
  process.exit(1);
}

export function check(what, expected, got) {
  if (!isDeepStrictEqual(got, expected)) fail(what, expected, got);
  console.log(`ok ${what}`);
  progress();
}

const STALL = 240; // seconds without any progress, after which something hangs
const TELL = 15; // seconds between reports of progress, which the harness waits for

let stalled;
let toldAt = Date.now();

/** Something has changed: what is slow, as on a busy machine, has not failed. */
export function progress() {
  clearTimeout(stalled);
  stalled = setTimeout(() => fail("everything", "progress", `none for ${STALL} s`), STALL * 1000);
  stalled.unref();
  if (Date.now() - toldAt < TELL * 1000) return;
  toldAt = Date.now();
  console.log("# going on");
}

/** Waits until `get()` returns that, and checks it. What changes meanwhile has time. */
export async function eventually(what, expected, get) {
  const began = Date.now();
  let got = structuredClone(await get());
  let changedAt = began;
  // What changes for ever is no progress either.
  const isOver = () => Date.now() - changedAt > STALL * 500 || Date.now() - began > STALL * 5_000;
  while (!isDeepStrictEqual(got, expected) && !isOver()) {
    await sleep(25);
    const next = await get();
    if (isDeepStrictEqual(next, got)) continue;
    got = structuredClone(next);
    changedAt = Date.now();
    progress();
  }
  check(what, expected, got);
}

/** Signs a token as a v1 host application does. */
export function sign(secret, user, seconds = 3600) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const iat = Math.floor(Date.now() / 1000);
  const said = `${part({ alg: "HS256", typ: "JWT" })}.${part({ data: { id: user }, iat, exp: iat + seconds })}`;
  return `${said}.${createHmac("sha256", secret).update(said).digest("base64url")}`;
}

/** A wire to a server that can be cut, frozen, or lose what the server says (mute) or what the client says (deaf). */
export async function wire(target) {
  const { hostname, port } = new URL(target);
  const pairs = new Set();
  const self = { isCut: false, isFrozen: false, isMute: false, isDeaf: false, opened: 0 };
  const server = createServer((near) => {
    if (self.isCut) return near.destroy();
    self.opened++;
    const far = dial(Number(port), hostname);
    const pair = { near, far };
    pairs.add(pair);
    const end = () => {
      pairs.delete(pair);
      near.destroy();
      far.destroy();
    };
    near.on("data", (data) => self.isFrozen || self.isDeaf || far.write(data));
    far.on("data", (data) => self.isFrozen || self.isMute || near.write(data));
    for (const socket of [near, far]) socket.on("close", end).on("error", end);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const here = new URL(target);
  here.port = server.address().port;
  const drop = () => pairs.forEach(({ near, far }) => (near.destroy(), far.destroy()));
  return Object.assign(self, {
    url: String(here),
    open: () => pairs.size,
    drop,
    cut() {
      self.isCut = true;
      drop();
    },
    mend() {
      self.isCut = self.isFrozen = self.isMute = self.isDeaf = false;
    },
    close() {
      self.cut();
      server.close();
    },
  });
}

/** Something that looks like localStorage and can be handed from one "page" to the next. */
export class Storage {
  #map = new Map();
  get length() {
    return this.#map.size;
  }
  key(index) {
    return [...this.#map.keys()][index] ?? null;
  }
  getItem(key) {
    return this.#map.get(key) ?? null;
  }
  setItem(key, value) {
    this.#map.set(key, value);
  }
  removeItem(key) {
    this.#map.delete(key);
  }
}

/**
 * A server with scripted replies. `answers` maps an action to a function from its frame to the answer, or nothing;
 * `frames` is what it has heard.
 */
export async function fakeServer(answers = {}) {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "kschat.v2" });
  await new Promise((listening) => server.on("listening", listening));
  const self = { frames: [], answers, opened: 0, url: `ws://127.0.0.1:${server.address().port}/dev` };
  server.on("connection", (socket) => {
    self.socket = socket;
    self.opened++;
    socket.on("message", (data) => {
      const frame = JSON.parse(data);
      self.frames.push(frame);
      const answer = self.answers[frame.action]?.(frame);
      if (answer) socket.send(JSON.stringify({ RC: 1, ER: 0, ...answer }));
    });
  });
  return Object.assign(self, {
    push: (frame) => self.socket.send(typeof frame === "string" ? frame : JSON.stringify({ RC: 1, ER: 0, ...frame })),
    of: (action) => self.frames.filter((frame) => frame.action === action),
    drop: () => self.socket.terminate(),
    close: () => (server.clients.forEach((socket) => socket.terminate()), server.close()),
  });
}
