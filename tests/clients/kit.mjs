// What the scripts that test kschat.js and the chat page share.

import { createHmac } from "node:crypto";
import { createServer, connect as dial } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";

export { sleep };

export function fail(what, expected, got) {
  const shown = (value) => (JSON.stringify(value) ?? String(value)).slice(0, 800);
  console.error(`FAILED ${what}\nexpected: ${shown(expected)}\ngot:      ${shown(got)}`);
  process.exit(1);
}

export function check(what, expected, got) {
  if (!isDeepStrictEqual(got, expected)) fail(what, expected, got);
  console.log(`ok ${what}`);
}

export function deadline(seconds) {
  setTimeout(() => fail("everything", `done within ${seconds} s`, "still running"), seconds * 1000).unref();
}

/** Waits until `get()` returns that, and checks it. */
export async function eventually(what, expected, get, seconds = 20) {
  const until = Date.now() + seconds * 1000;
  let got = await get();
  while (!isDeepStrictEqual(got, expected) && Date.now() < until) {
    await sleep(25);
    got = await get();
  }
  check(what, expected, got);
}

/** Signs a token as the seed's host application does. */
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
