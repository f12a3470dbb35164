// The hooks of templates/react.js in React's development build, with a DOM and a real stack.
// Usage: with_react.mjs WS_URL SECRET

import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { JSDOM } from "jsdom";
import { WebSocket } from "ws";
import { check, eventually, sign, wire } from "./kit.mjs";

const [wsUrl, secret] = process.argv.slice(2);
const here = new URL("./", import.meta.url).pathname;

/** A project with the package and React. */
const home = mkdtempSync(join(tmpdir(), "kschat-react-"));
mkdirSync(join(home, "node_modules"));
cpSync(join(here, "../../templates"), join(home, "node_modules/kschat"), { recursive: true });
for (const name of ["react", "typescript"]) symlinkSync(join(here, "node_modules", name), join(home, "node_modules", name));
const { resolve } = createRequire(join(home, "package.json"));

// Before there is a page, as on a server.
const hooks = await import(pathToFileURL(resolve("kschat/react")));
const { createElement, Fragment, StrictMode } = await import("react");
const { renderToString } = await import("react-dom/server");
const { useChat, useConnection, useConversation, usePresence } = hooks;

writeFileSync(join(home, "check.mts"), `
  import * as hooks from "kschat/react";
  type Same<A, B> = [Exclude<A, B>, Exclude<B, A>] extends [never, never] ? true : false;
  const exported: Same<keyof typeof hooks, ${Object.keys(hooks).map((name) => JSON.stringify(name)).join(" | ")}> = true;
  const chat = hooks.useChat({ url: "wss://x", user: 7, getToken: async () => "", onMessages: async ([first]) => first?.text });
  const { messages, send, retry, status } = hooks.useConversation(chat, { room: "r" });
  const texts: string[] = messages.map(({ key, text, state }) => key + text + (state === "read" ? "✓✓" : ""));
  const ended: boolean = status === "ended" || hooks.useConnection(chat) === "closed";
  const seen: number | undefined = hooks.usePresence(chat, "bob")?.last;
  send("hello").then(({ MID }) => retry(MID)?.catch(() => {}));
`);
const flags = ["--noEmit", "--strict", "--module", "nodenext", "--lib", "es2022", "--types", ""];
const compiled = spawnSync("node", ["node_modules/typescript/bin/tsc", ...flags, "check.mts"], { cwd: home, encoding: "utf8" });
check("the types are those of the hooks, and need none of React", "", compiled.stdout + compiled.stderr);

const refresh = (await import("react-refresh/runtime")).default;
const { window } = new JSDOM('<div id="alice"></div><div id="bob"></div>', { url: "https://app.example/" });
const { document, localStorage } = window;
Object.assign(globalThis, { window, document, localStorage });
refresh.injectIntoGlobalHook(globalThis);
const { createRoot } = await import("react-dom/client");

const [alice, bob] = ["alice", "bob"].map((name) => `${name}-${process.pid}`);
const room = `room-${process.pid}`;
const lines = { [alice]: await wire(wsUrl), [bob]: await wire(wsUrl) };
const stored = { [alice]: [], [bob]: [] };
const current = {}; // user → what its hooks returned in the last render

function Chat({ user, peer, marker }) {
  const chat = useChat({
    url: lines[user].url,
    user,
    WebSocket,
    backoffMin: 20,
    getToken: () => sign(secret, user),
    onMessages: (messages) => stored[user].push(...messages.map(({ text }) => `${marker} ${text}`)),
  });
  const conversation = useConversation(chat, peer);
  const inRoom = useConversation(chat, { room });
  const presence = usePresence(chat, peer);
  current[user] = { marker, chat, conversation, inRoom, presence, connection: useConnection(chat) };
  return createElement("ol", null, conversation.messages.map(({ key, text, mine, state = "" }) =>
    createElement("li", { key }, `${mine ? "→" : "←"} ${text} ${state}`.trim())));
}

// In StrictMode React 19 does not run effects again on a hot reload, so bob has none.
const App = (props) => createElement(props.user === alice ? StrictMode : Fragment, null, createElement(Chat, props));

refresh.register(Chat, "Chat");
check("it renders on a server", "<ol></ol>", renderToString(createElement(App, { user: alice, peer: bob })));
check("without a connection", [0, "closed"], [lines[alice].opened, current[alice].conversation.status]);

const roots = { [alice]: createRoot(document.getElementById("alice")), [bob]: createRoot(document.getElementById("bob")) };
const render = (user, peer, marker = "first") => roots[user].render(createElement(App, { user, peer, marker }));
const shown = (name) => [...document.querySelectorAll(`#${name} li`)].map(({ textContent }) => textContent);
render(alice, bob);
render(bob, alice);
for (const user of [alice, bob]) {
  await eventually("it connects", ["connected", "connected"], () => [current[user].conversation.status, current[user].connection]);
}
check("once, although StrictMode mounts twice", [1, 1], [lines[alice].opened, lines[bob].opened]);

const { MID } = await current[alice].conversation.send("hello");
await eventually("a message arrives", ["← hello"], () => shown("bob"));
await current[bob].conversation.send("hi");
await eventually("so does the answer; receipts are shown", ["→ hello delivered", "← hi"], () => shown("alice"));
current[bob].chat.read(alice, MID);
await eventually("a message is read", ["→ hello read", "← hi"], () => shown("alice"));
await eventually("the peer is present", true, () => current[alice].presence?.on);

await Promise.all([alice, bob].map((user) => current[user].chat.join(room)));
await current[alice].inRoom.send("to all");
await eventually("a room has messages of its own", ["to all"], () => current[bob].inRoom.messages.map(({ text }) => text));
await eventually("which are not in the conversation", ["← hello", "→ hi delivered"], () => shown("bob"));

const refused = current[alice].conversation.send("x".repeat(28 * 1024)).catch(({ code }) => code);
check("what cannot be sent is refused", 8, await refused);
await eventually("a failed message is shown", "failed", () => current[alice].conversation.messages.at(-1).state);
const { rno } = current[alice].conversation.messages.at(-1);
check("it can be discarded", true, current[alice].conversation.discard(rno));
await eventually("and is gone", ["→ hello read", "← hi"], () => shown("alice"));

const before = current[bob].chat;
function Edited(props) {
  return Chat(props);
}
refresh.register(Edited, "Chat");
refresh.performReactRefresh();
await eventually("hot reload replaces the client", true, () => current[bob].chat !== null && current[bob].chat !== before);
check("and closes the former one", "closed", before.state);
await eventually("it connects again", "connected", () => current[bob].conversation.status);
await eventually("with one connection", [2, 1], () => [lines[bob].opened, lines[bob].open()]);
await current[alice].conversation.send("after");
await eventually("what was shown stays, in StrictMode, too", ["→ hello read", "← hi", "→ after delivered"], () => shown("alice"));
await eventually("and where the client is new", ["← hello", "→ hi delivered", "← after"], () => shown("bob"));

render(bob, alice, "second");
await eventually("a new onMessages is given", "second", () => current[bob].marker);
await current[alice].conversation.send("new");
await eventually("the newest onMessages is called", ["first hello", "first to all", "first after", "second new"], () => stored[bob]);
lines[bob].drop();
await eventually("it reconnects", [3, "connected"], () => [lines[bob].opened, current[bob].conversation.status]);

render(bob, bob);
await eventually("another conversation is empty", [], () => shown("bob"));
render(bob, alice);
await eventually("and back again it is as it was", 4, () => shown("bob").length);

const last = current[bob].chat;
roots[bob].unmount();
check("unmounting closes the client", "closed", last.state);
await eventually("and its connection", 0, () => lines[bob].open());
await eventually("the peer goes offline", false, () => current[alice].presence?.on);
roots[alice].unmount();
await eventually("no connection is left", 0, () => lines[alice].open());

Object.values(lines).forEach((line) => line.close());
rmSync(home, { recursive: true });
process.exit(0);
