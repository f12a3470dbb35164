// The Socket.IO client, steered by a test.
//
// Usage: socketio.mjs GENERATION URL OPTIONS [--callback]
// GENERATION is 2 or 4; OPTIONS is the JSON of io's second argument. Commands come as lines of JSON on standard input:
// {"emit":[NAME,ARGUMENT],"ack":true}, {"connect":true}, {"disconnect":true}, {"auth":{...}}. What happens goes out the
// same way. With --callback, the callback of a RESPRECEIVER is called.

import { createInterface } from "node:readline";

const [generation, url, options, callback] = process.argv.slice(2);
const { default: io } = await import(`socket.io-client-${generation}`);
const socket = io(url, JSON.parse(options));
const began = Date.now();
// The test has ended.
process.stdout.on("error", () => process.exit(0));

function tell(on, rest = {}) {
  process.stdout.write(`${JSON.stringify({ on, after: Date.now() - began, ...rest })}\n`);
}

socket.on("connect", () => tell("connect", { id: socket.id }));
socket.on("disconnect", (reason) => tell("disconnect", { reason }));
socket.on("connect_error", (error) => tell("connect_error", { message: error.message, data: error.data ?? null }));
// 2.x: what a server refuses comes as an error.
socket.on("error", (error) => tell("error", { message: String(error) }));
socket.io.engine?.on("open", () => tell("open"));
socket.io.on("ping", () => tell("ping"));
socket.io.on("pong", () => tell("pong"));

const EVENTS = ["SEND", "RECEIVER", "ERROR", "AUTH", "TYPING", "STATUS", "PRESENCE", "ROOM"];
for (const name of EVENTS.map((event) => `RESP${event}`)) {
  socket.on(name, (data, acknowledge) => {
    tell(name, { data, callback: typeof acknowledge });
    if (callback && name === "RESPRECEIVER") acknowledge();
  });
}

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const command = JSON.parse(line);
    if (command.emit && command.ack) socket.emit(...command.emit, (...data) => tell("ack", { data }));
    else if (command.emit) socket.emit(...command.emit);
    else if (command.raw) socket.io.engine.write(command.raw);
    else if (command.auth) socket.auth = command.auth;
    else if (command.connect) socket.connect();
    else socket.disconnect();
  })
  .on("close", () => process.exit(0));
