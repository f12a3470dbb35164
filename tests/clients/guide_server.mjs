// The kind of server that this project replaces: Socket.IO in front of RabbitMQ, as a Node.js guide builds it. Only the
// benchmark starts it. It keeps nothing: it answers before it publishes, its queues are exclusive and end with the
// connection, and its consumers do not acknowledge.
//
// Usage: guide_server.mjs PORT, with AMQP_URL and JWT_SECRET. Prints "ready" once it listens.

import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import amqplib from "amqplib";
import { Server } from "socket.io";

const [port] = process.argv.slice(2);
const { AMQP_URL, JWT_SECRET } = process.env;
const EXCHANGE = "guide";

const broker = await amqplib.connect(AMQP_URL);
const channel = await broker.createChannel();
await channel.assertExchange(EXCHANGE, "direct", { durable: false });

/** The user whom a token names, if its signature (HS256) is right. */
function userOf(token) {
  const [head, body, signature] = String(token).split(".");
  const wanted = createHmac("sha256", JWT_SECRET).update(`${head}.${body}`).digest();
  const given = Buffer.from(signature ?? "", "base64url");
  if (given.length !== wanted.length || !timingSafeEqual(given, wanted)) throw new Error("Authentication error");
  return JSON.parse(Buffer.from(body, "base64url")).data.id;
}

const http = createServer();
const chat = new Server(http, { transports: ["websocket"], serveClient: false }).of("/kschat");

chat.use((socket, next) => {
  try {
    socket.data.user = userOf(socket.handshake.query.token);
    next();
  } catch (error) {
    next(error);
  }
});

async function receive(socket) {
  const { queue } = await channel.assertQueue("", { exclusive: true });
  await channel.bindQueue(queue, EXCHANGE, `ks_${socket.data.user}`);
  const push = (message) => {
    if (message) socket.emit("RESPRECEIVER", { RC: 1, ER: 0, MSG: [JSON.parse(message.content.toString())] });
  };
  const { consumerTag } = await channel.consume(queue, push, { noAck: true });
  socket.once("disconnect", () => channel.cancel(consumerTag).then(() => channel.deleteQueue(queue)));
}

function send(socket, { uId, pId, msg, rno }, callback) {
  const msgTime = Date.now();
  callback?.({ RESPONSE: "Send Emit is success.", uId });
  const sent = { RC: 1, ER: 0, SID: uId, RID: pId, MSG: msg, RANDOMNO: rno, MSGTIME: msgTime, STATUS: 1 };
  socket.emit("RESPSEND", sent);
  const body = JSON.stringify({ uId, pId, msg, rStatus: 1, msgTime });
  channel.publish(EXCHANGE, `ks_${pId}`, Buffer.from(body), { deliveryMode: 2, mandatory: true });
}

chat.on("connection", (socket) => {
  // Clients of this project say `send`.
  for (const name of ["Send", "send"]) socket.on(name, (data, callback) => send(socket, data, callback));
  receive(socket).then(() => socket.emit("READY"));
});

http.listen(Number(port), "127.0.0.1", () => console.log("ready"));
