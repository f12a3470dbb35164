// The package that templates/package.json describes, as npm packs and installs it.
// Usage: node with_package.mjs

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { check, fail } from "./kit.mjs";

const root = new URL("../../", import.meta.url).pathname;
const templates = join(root, "templates");
const folder = mkdtempSync(join(tmpdir(), "kschat-package-"));

function run(program, given, cwd) {
  const env = { ...process.env, PATH: `${join(root, "target/tools/bin")}:${process.env.PATH}`, npm_config_cache: join(folder, "cache") };
  const { status, stdout, stderr, error } = spawnSync(program, given, { cwd, env, encoding: "utf8" });
  if (error || status) fail(`${program} ${given.join(" ")}`, 0, error?.message ?? stdout + stderr);
  return stdout;
}

const manifest = JSON.parse(readFileSync(join(templates, "package.json"), "utf8"));
const [, version] = /^version = "(.*)"$/m.exec(readFileSync(join(root, "Cargo.toml"), "utf8"));
check("its version is that of the project", version, manifest.version);

const [packed] = JSON.parse(run("npm", ["pack", "--json", "--pack-destination", folder, templates], folder));
const files = packed.files.map(({ path }) => path);
const wanted = ["README.md", "kschat.d.ts", "kschat.js", "package.json", "react.d.ts", "react.js", "testing.d.ts", "testing.js"];
check("it has the client, and nothing of the pages", wanted, files.filter((path) => !path.startsWith("kschat/")).sort());

const use = `
  import * as kschat from "kschat";
  const { WebSocket } = globalThis;
  delete globalThis.WebSocket;
  let problem = "none";
  try { kschat.connect({ url: "wss://x", user: "x" }); } catch (error) { problem = error.name; }
  console.log(JSON.stringify([Object.keys(kschat).sort(), problem, typeof window, typeof document]));
`;
const typed = `
  import { connect, type Message } from "kschat";
  import { TestServer } from "kschat/testing";
  const chat = connect({ url: "wss://x", user: "x" });
  const stop: () => void = chat.subscribe("message", ({ text }: Message) => text);
  stop();
  chat.join("r").then(({ room }) => room.length);
  chat.ready().then(() => chat.connect());
  const server = new TestServer("x");
  server.connect({ ackEvery: 1 }).close();
`;

for (const [name, source] of Object.entries({ tarball: join(folder, packed.filename), folder: templates })) {
  const home = join(folder, name);
  mkdirSync(home);
  writeFileSync(join(home, "package.json"), '{ "name": "home", "private": true, "type": "module" }');
  run("npm", ["install", "--offline", "--no-audit", "--no-fund", source], home);
  writeFileSync(join(home, "use.mjs"), use);
  const names = ["Kschat", "KschatError", "MAX_MESSAGE_BYTES", "connect", "sizeOf"];
  check(`installed from a ${name} it is imported without a page`, [names, "TypeError", "undefined", "undefined"], JSON.parse(run("node", ["use.mjs"], home)));
  writeFileSync(join(home, "typed.mts"), typed);
  symlinkSync(join(root, "tests/clients/node_modules/typescript"), join(home, "node_modules/typescript"));
  for (const [module, resolution] of [["nodenext", "nodenext"], ["esnext", "bundler"]]) {
    const flags = ["--noEmit", "--strict", "--module", module, "--moduleResolution", resolution, "--lib", "es2022", "--types", ""];
    check(`its types are found (${resolution})`, "", run("node", ["node_modules/typescript/bin/tsc", ...flags, "typed.mts"], home));
  }
}
rmSync(folder, { recursive: true });
process.exit(0);
