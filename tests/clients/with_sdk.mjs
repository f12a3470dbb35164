// The AWS SDK for JavaScript as a backend uses it: pushes to a connection, looks at it and deletes it.
//
// Usage: with_sdk.mjs WS_URL CALLBACK_URL

import { on, once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import {
  ApiGatewayManagementApiClient,
  DeleteConnectionCommand,
  ForbiddenException,
  GetConnectionCommand,
  GoneException,
  PayloadTooLargeException,
  PostToConnectionCommand,
} from "@aws-sdk/client-apigatewaymanagementapi";
import { WebSocket } from "ws";

const [wsUrl, callbackUrl] = process.argv.slice(2);
const wrongStageUrl = callbackUrl.replace(/[^/]*$/, "nowhere");
const unknownId = "L0SM9cOFvHcCIhw=";
const limit = 128 * 1024;

setTimeout(() => fail("everything", "done within 600 s", "still running"), 600_000).unref();

function fail(what, expected, got) {
  const shown = (value) => (JSON.stringify(value) ?? String(value)).slice(0, 500);
  console.error(`FAILED ${what}\nexpected: ${shown(expected)}\ngot:      ${shown(got)}`);
  process.exit(1);
}

function check(what, expected, got) {
  if (!isDeepStrictEqual(got, expected)) fail(what, expected, got);
  console.log(`ok ${what}`);
}

async function refusal(what, request) {
  try {
    const answer = await request;
    fail(what, "an error", answer.$metadata);
  } catch (error) {
    return error;
  }
}

async function checkRefused(what, type, request) {
  const error = await refusal(what, request);
  if (!(error instanceof type)) fail(what, type.name, `${error.name}: ${error.message}`);
  console.log(`ok ${what}`);
}

const in60s = (promise, otherwise) => Promise.race([promise, sleep(60_000, otherwise, { ref: false })]);

async function heard() {
  const { value: [data, isBinary] = ["nothing"] } = await in60s(messages.next(), {});
  return isBinary ? data : data.toString();
}

const managementApi = (endpoint) =>
  new ApiGatewayManagementApiClient({
    endpoint,
    region: "us-east-1",
    credentials: { accessKeyId: "anybody", secretAccessKey: "anything" },
    maxAttempts: 1,
  });

const api = managementApi(callbackUrl);
const post = (ConnectionId, Data, to = api) => to.send(new PostToConnectionCommand({ ConnectionId, Data }));
const get = (ConnectionId) => api.send(new GetConnectionCommand({ ConnectionId }));
const remove = (ConnectionId) => api.send(new DeleteConnectionCommand({ ConnectionId }));

const ws = new WebSocket(wsUrl, { headers: { "User-Agent": "with_sdk" } });
const messages = on(ws, "message", { close: ["close"] });
await once(ws, "open");

ws.send('{"action":"whoami"}');
const { connectionId } = JSON.parse(await heard());

for (const [what, text] of [
  ["text", "hello"],
  ["text beyond ASCII", "Grüße, 世界 👋\n\u2028\0"],
  ["100 KB as one message", "x€👋".repeat((100 * 1024) / 8)],
]) {
  await post(connectionId, text);
  check(`PostToConnection delivers ${what}`, text, await heard());
}
await post(connectionId, Buffer.from("Grüße as UTF-8"));
check("PostToConnection delivers bytes", "Grüße as UTF-8", await heard());

const before = await get(connectionId);
check("GetConnection says since when", true, Math.abs(Date.now() - before.ConnectedAt) < 600_000);
check("GetConnection says who", ["127.0.0.1", "with_sdk"], [before.Identity.SourceIp, before.Identity.UserAgent]);
await sleep(1100);
ws.send("still here");
check("a message is echoed", "still here", await heard());
const after = await get(connectionId);
check("LastActiveAt moves with a message", true, after.LastActiveAt > before.LastActiveAt);

await checkRefused("128 KB and a byte are too large", PayloadTooLargeException, post(connectionId, "x".repeat(limit + 1)));
await checkRefused("an unknown id is gone", GoneException, post(unknownId, "x"));
await checkRefused("a wrong stage is forbidden", ForbiddenException, post(connectionId, "x", managementApi(wrongStageUrl)));
const illFormed = await refusal("an ill-formed id is refused", post("nonsense", "x"));
check(
  "an ill-formed id is a bad request",
  ["BadRequestException", 400],
  [illFormed.name, illFormed.$metadata?.httpStatusCode],
);

const closed = once(ws, "close");
await remove(connectionId);
const [code] = await in60s(closed, ["no close"]);
check("DeleteConnection closes with 1000", 1000, code);
await checkRefused("… after which a post finds it gone", GoneException, post(connectionId, "x"));
await checkRefused("… and so does a get", GoneException, get(connectionId));
await checkRefused("… and so does a delete", GoneException, remove(connectionId));
