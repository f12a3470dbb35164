// Compares kschat.d.ts and testing.d.ts with their scripts, the JSON Schemas and the frames of the protocol, by TypeScript's own compiler.
// Usage: node with_types.mjs

import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import * as library from "../../templates/kschat.js";
import { TestServer } from "../../templates/testing.js";
import { check, fail } from "./kit.mjs";

const root = new URL("../../", import.meta.url).pathname;
const read = (path) => readFileSync(join(root, path), "utf8");
const script = read("templates/kschat/common.js");
const types = read("templates/kschat.d.ts");
const { definitions } = JSON.parse(read("shared/docs/protocol.schema.json"));

/** The names before the colons of a block such as `const NAME = { … }`. */
function keysOf(text, head) {
  const start = text.indexOf(head);
  if (start < 0) fail(`there is ${head}`, true, false);
  const block = text.slice(start + head.length, text.indexOf("\n}", start));
  return [...block.matchAll(/(?:^|[,\n{]) *(?:readonly )?(\w+)\??: /g)].map(([, name]) => name);
}

const union = (names) => names.map((name) => JSON.stringify(name)).join(" | ");

/** What somebody finds at a client, inherited or not. */
function membersOf(value) {
  const names = new Set();
  for (let at = value; at !== Object.prototype; at = Object.getPrototypeOf(at)) {
    Object.getOwnPropertyNames(at).forEach((name) => names.add(name));
  }
  names.delete("constructor");
  return [...names];
}

// It connects to nothing: what it is given as a WebSocket is none.
const client = new library.Kschat({ url: "ws://127.0.0.1:1", user: "nobody", token: "x", WebSocket: class {} });
const settings = [...keysOf(script, "const DEFAULTS = {"), "url", "user", "token", "getToken", "WebSocket", "storage"];
const golden = readdirSync(join(root, "shared/protocol/tests/golden"));
const answers = golden
  .filter((file) => file.startsWith("resp_send"))
  .map((file) => JSON.parse(read(`shared/protocol/tests/golden/${file}`)))
  .filter((frame) => frame.ER === 0);
check("there are answers to try", true, answers.length >= 2);

function compile(lines, lib = "es2022,dom") {
  const folder = mkdtempSync(join(tmpdir(), "kschat-types-"));
  const from = relative(folder, join(root, "templates"));
  const imports = ["kschat", "testing"].map((name) => `import * as ${name} from "${from}/${name}.js";`);
  writeFileSync(join(folder, "check.mts"), [...imports, ...lines].join("\n"));
  const tsc = join(root, "tests/clients/node_modules/.bin/tsc");
  const flags = ["--noEmit", "--strict", "--module", "esnext", "--moduleResolution", "bundler", "--lib", lib];
  const { status, stdout, error } = spawnSync(tsc, [...flags, "--types", "", join(folder, "check.mts")], { encoding: "utf8" });
  rmSync(folder, { recursive: true });
  if (error) fail("the compiler runs", undefined, error.message);
  return status === 0 ? "" : stdout.trim();
}

const same = [
  "type Same<A, B> = [Exclude<A, B>, Exclude<B, A>] extends [never, never] ? true : ",
  "  { onlyInTypes: Exclude<A, B>; onlyInLibrary: Exclude<B, A> };",
  `const exported: Same<keyof typeof kschat, ${union(Object.keys(library))}> = true;`,
  `const members: Same<keyof kschat.Kschat, ${union(membersOf(client))}> = true;`,
  `const server: Same<keyof testing.TestServer, ${union(membersOf(new TestServer("nobody")))}> = true;`,
  `const settings: Same<keyof kschat.Options, ${union(settings)}> = true;`,
  ...answers.map((frame, number) => `const answer${number}: kschat.RespSend = ${JSON.stringify(frame)};`),
];
check("the types are those of the library, and take what the server answers", "", compile(same));
check("they need no types of a browser", "", compile(['kschat.connect({ url: "wss://x", user: 1 }).close();'], "es2022"));
check("a browser's storage fits", "", compile(["const storage: kschat.KeyValueStorage = localStorage;"]));
check("and would not take anything", true, compile(["const answer: kschat.RespSend = { event: 1 };"]) !== "");

const inSchema = Object.keys(definitions.RESPSEND.properties);
const unknown = keysOf(types, "export interface RespSend {").filter((name) => !inSchema.includes(name));
check("an answer's fields are those of the protocol", [], unknown.filter((name) => name !== "field"));

const codes = keysOf(script, "const MEANINGS = {").filter((name) => /^\d+$/.test(name)).map(Number);
const expected = definitions.ErrorCode.enum.filter((code) => code !== 0);
check("the library has a meaning for every code", expected, codes.sort((a, b) => a - b));

client.close();
process.exit(0);
