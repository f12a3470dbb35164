// The chat page of kschat: conversations beside messages. The wire is kschat.js, what is kept is history.js, the messages
// are log.js, the list is list.js, the field is composer.js. This file ties them together, and shows one conversation.

import { Composer } from "./composer.js";
import { History } from "./history.js";
import { connect } from "./kschat.js";
import { List } from "./list.js";
import { Log } from "./log.js";
import { ask, banner, tellConnection } from "./notices.js";
import { addressOf, convOf, fromAddress, given, isRoom, nameOf, people, presence, shown, typing } from "./state.js";
import { $, lastSeen, paintAvatar, plural } from "./words.js";

const { uid: me, rid, tokenId, url, tokenUrl, switchUrl } = given;

const MAX_WATCHED = 100; // people whose presence is asked for …
const WATCH_MS = 500; // … once in this time
const LATELY = 20; // messages that another tab may just have written …
const MEANWHILE = 300; // … or have taken while this one had no connection

async function getToken() {
  const answer = await fetch(`${tokenUrl}?${new URLSearchParams({ uid: me })}`, { cache: "no-store" });
  // The host application does not know this user any more.
  if (answer.status === 401 || answer.status === 403) return null;
  if (!answer.ok) throw new Error(`the host answered with ${answer.status}`);
  return answer.text();
}

/** A host application may set the clocks of kschat.js, such as `data-ping-after`. */
function clocks() {
  const numbers = Object.entries(given).filter(([name]) => /(After|Before|Every|Timeout|Overlap|Min|Max)$/.test(name));
  return Object.fromEntries(numbers.map(([name, value]) => [name, Number(value)]));
}

const history = await History.open(me).catch((error) => {
  const words = "This browser lets the page keep nothing, and without that no message would outlive it.";
  banner(words, "Reload", () => location.reload());
  throw error;
});
let isLost = false;
history.lost = () => {
  isLost = true;
  banner("This browser keeps nothing any more for this page. What comes is shown after a reload.", "Reload", () => location.reload());
};
const channel = new BroadcastChannel(`kschat ${me}`);
const chat = connect({ ...clocks(), url, user: me, token: tokenId, getToken: tokenUrl ? getToken : undefined });
const log = new Log($("messages"), history, { moved: () => onMoved(), retry, discard });
const list = new List({ isLookedAt: (conv) => conv === shown.conv && log.following && isWatched() });
const composer = new Composer(me, { send, written });

// ---- conversations

/** Takes what the history says of a conversation. */
function take(record) {
  if (!record) return;
  if (record.left) return drop(record.conv);
  people.set(record.conv, record);
  if (record.conv === log.conv) log.mark(record);
  list.soon();
}

async function change(conv, what) {
  take(await history.update(conv, what));
  channel.postMessage({ conv });
}

const pendingOf = (conv) => chat.outbox.filter((entry) => convOf(entry) === conv);

async function show(conv) {
  if (conv === shown.conv) return;
  if (shown.conv) chat.typing(nameOf(shown.conv), false);
  shown.conv = conv;
  given.view = conv ? "chat" : "list";
  $("head").hidden = !conv;
  composer.open(conv);
  list.soon();
  if (conv) await fill(conv);
  else {
    log.close();
    $("messages").hidden = true;
  }
  onMoved();
}

async function fill(conv) {
  if (!people.has(conv)) await change(conv, { left: false });
  if (conv !== shown.conv) return;
  paintHead();
  await log.show(people.get(conv), pendingOf);
  watch();
  askMarks();
  // A phone's keyboard would hide what there is to read.
  if (matchMedia("(pointer: fine)").matches) composer.focus();
  else $("name").focus();
}

function paintHead() {
  const name = nameOf(shown.conv);
  $("name").textContent = name;
  paintAvatar($("avatar"), name, isRoom(shown.conv));
  $("leave").hidden = !isRoom(shown.conv);
  $("messages").setAttribute("aria-label", `Messages with ${name}`);
  paintPresence();
}

function paintPresence() {
  if (!shown.conv) return;
  const here = presence.get(nameOf(shown.conv));
  const isTyping = !isRoom(shown.conv) && typing.has(nameOf(shown.conv));
  const seen = here?.on ? "online" : here?.last ? lastSeen(here.last) : "";
  $("presence").textContent = isRoom(shown.conv) ? "Room" : isTyping ? "typing…" : seen;
  $("presence").dataset.state = isTyping ? "typing" : here?.on ? "on" : "off";
}

const isWatched = () => !document.hidden && document.hasFocus();

const missed = new Set(); // ids of messages that came while the newest was out of view

function onMoved() {
  const { conv } = shown;
  if (log.following) missed.clear();
  $("jump").hidden = log.following || !conv;
  $("jump").firstElementChild.textContent = missed.size ? plural(missed.size, "new message") : "Latest";
  $("empty").hidden = Boolean(conv) && !log.isEmpty;
  $("empty-lead").textContent = conv ? `Say hello to ${nameOf(conv)}` : "Pick a conversation";
  $("empty-more").textContent = conv ? "Enter sends, Shift + Enter starts a new line." : "or start a new one with +";
  readSoon();
}

let reading = false;

/** What is in view has been read. */
async function readSoon() {
  const record = people.get(shown.conv);
  if (reading || !record?.unread || !log.following || !isWatched() || log.conv !== shown.conv) return;
  reading = true;
  try {
    const newest = await history.newestOfTheirs(record.conv);
    if (newest) await change(record.conv, { readTime: newest.time, readId: newest.id });
    if (newest && !record.room) chat.read(record.name, newest.id);
  } finally {
    reading = false;
  }
}

async function toLatest() {
  log.following = true;
  await log.jump(people.get(shown.conv), pendingOf);
  onMoved();
}

// ---- what comes and goes

const kept = ({ id, from, text, time, mine, rno }, conv) => ({ id, conv, from, text, time, mine: mine ? 1 : 0, rno });

/** Only what is kept here is acknowledged: kschat.js waits for this. */
async function onMessages(messages) {
  const records = messages.map((message) => kept(message, convOf(message)));
  (await history.add(records)).forEach(take);
  // Once it is acknowledged, a tab that has no connection just now hears of it from nobody else.
  for (const conv of new Set(records.map((record) => record.conv))) {
    channel.postMessage({ conv, records: records.filter((record) => record.conv === conv) });
  }
  const theirs = records.filter(({ mine }) => !mine);
  bring(records);
  if (theirs.length) announce(theirs);
  watch();
}

/** Shows those that belong to the open conversation. */
function bring(records) {
  const here = records.filter(({ conv }) => conv === log.conv);
  if (!log.following) for (const { id, mine } of here) if (!mine) missed.add(id);
  log.add(here, isWatched() && log.following);
}

function announce(messages) {
  const { from, text } = messages.at(-1);
  const words = messages.length > 1 ? plural(messages.length, "new message") : `${from}: ${text.slice(0, 200)}`;
  $("announce").textContent = words;
}

/** Whether it was taken: it waits to be sent, at least. */
function send(text) {
  const { conv } = shown;
  const to = nameOf(conv);
  const answer = isRoom(conv) ? chat.sendRoom(to, text) : chat.send(to, text);
  if (!chat.outbox.some(({ rno }) => rno === answer.rno)) {
    tellNotTaken(answer);
    return false;
  }
  log.undivide();
  toLatest();
  return true;
}

const tellNotTaken = (answer) => answer.catch((error) => composer.note(`Not sent: ${error.message}.`));

function retry(rno) {
  const answer = chat.retry(rno);
  if (answer && chat.outbox.some((entry) => entry.rno === rno && entry.state === "failed")) tellNotTaken(answer);
  // It goes on under another number.
  else if (answer?.rno !== rno) log.discard(rno);
}

function written(hasText) {
  if (shown.conv && !isRoom(shown.conv)) chat.typing(nameOf(shown.conv), hasText);
}

/** An own message is sending, accepted, delivered, read, or failed. */
async function onState(entry) {
  const conv = convOf(entry);
  if (conv === log.conv) log.put(entry);
  if (entry.state !== "accepted") return;
  (await history.add([kept({ ...entry, from: me, mine: true }, conv)])).forEach(take);
  channel.postMessage({ conv });
}

function discard(rno) {
  chat.discard(rno);
  log.discard(rno);
}

/** Another tab of ours has written, has taken `records`, or has left a room. */
async function onOtherTab({ data: { conv, records, gone } }) {
  if (gone) {
    // Else this tab would join it again.
    chat.leave(nameOf(conv)).catch(() => {});
    return drop(conv);
  }
  take(await history.conversation(conv));
  if (records) return bring(records);
  if (conv !== log.conv) return;
  const latest = await history.before({ conv }, LATELY);
  if (conv === log.conv) log.add(latest, true);
}

/** What other tabs have taken while this one was frozen, or had no connection. */
async function catchUp() {
  (await history.conversations()).forEach(take);
  const { conv } = log;
  if (!conv) return;
  const latest = await history.before({ conv }, MEANWHILE);
  if (conv === log.conv) log.add(latest, isWatched() && log.following);
}

async function onReceipt({ user, of, state, id }) {
  const conv = `u/${user}`;
  if (of !== me || !people.has(conv)) return;
  const which = state === "read" ? "seen" : "delivered";
  if (people.get(conv)[which] < id) await change(conv, (record) => (record[which] < id ? { [which]: id } : {}));
}

/** Asks how far the other one has got; what comes is a receipt, too. */
function askMarks() {
  if (shown.conv && !isRoom(shown.conv)) chat.status([nameOf(shown.conv)]).catch(() => {});
}

function onTyping({ user, on }) {
  if (on) typing.add(user);
  else typing.delete(user);
  paintPresence();
  list.soon();
}

function onPresence({ user, on, last }) {
  presence.set(user, { on, last });
  paintPresence();
  list.soon();
}

let watched = "";
let watching;

/** Asks who of those in the list is here, when that list has changed. */
function watch() {
  watching ??= setTimeout(() => {
    watching = undefined;
    const known = [...people.values()].filter(({ room }) => !room).sort((a, b) => b.at - a.at);
    const names = known.slice(0, MAX_WATCHED).map(({ name }) => name);
    const { conv } = shown;
    if (conv && !isRoom(conv) && !names.includes(nameOf(conv))) names.splice(-1, 1, nameOf(conv));
    const key = JSON.stringify([...names].sort());
    if (!names.length || watched === key) return;
    watched = key;
    chat.presence(names).catch(() => {});
  }, WATCH_MS);
}

function onConnection(info) {
  tellConnection(info, { hurry: () => chat.hurry(), canRenew: Boolean(tokenUrl) });
  if (isLost) history.lost();
  if (info.state !== "connected") return;
  watch();
  askMarks();
  catchUp();
  chat.rooms().then(onRooms, () => {});
}

const listed = new Set(); // rooms in which the server has seen us since this page was opened

/** Shows the rooms that the server knows of, comes back to those that it has lost, and takes the others for left. */
function onRooms(rooms) {
  const missing = [...people.values()].filter(({ name, room }) => room && !rooms.includes(name));
  for (const { conv, name } of missing) {
    if (!rooms.length || listed.has(name)) chat.join(name).catch(() => {});
    else change(conv, { left: true });
  }
  rooms.forEach(onRoom);
}

/** Shows a conversation no more. */
function drop(conv) {
  people.delete(conv);
  listed.delete(nameOf(conv));
  list.soon();
  if (conv === shown.conv) location.hash = "";
}

function onRoom(room) {
  listed.add(room);
  if (!people.has(`r/${room}`)) change(`r/${room}`, { left: false });
}

// ---- what people do

function newConversation() {
  ask({
    title: "New conversation", label: "Id", ok: "Open", rooms: chat.features.rooms === true,
    act: async (name, kind) => {
      if (kind === "r") await chat.join(name);
      await change(`${kind}/${name}`, { at: Date.now() });
      location.hash = addressOf(`${kind}/${name}`);
    },
  });
}

function switchUser() {
  const act = (name) => location.assign(`${switchUrl}?${new URLSearchParams({ uid: name })}`);
  ask({ title: "Switch user", label: "I am", ok: "Switch", act });
}

async function leave() {
  const { conv } = shown;
  try {
    await chat.leave(nameOf(conv));
    await history.remove(conv);
    drop(conv);
    channel.postMessage({ conv, gone: true });
  } catch (error) {
    composer.note(`That did not work: ${error.message}`);
  }
}

function onVisible() {
  if (document.hidden) return composer.keep();
  log.renameDays();
  list.soon();
  readSoon();
}

function wireEvents() {
  for (const [event, handler] of Object.entries({
    connection: onConnection, messages: onMessages, state: onState, receipt: onReceipt, typing: onTyping,
    presence: onPresence, error: (error) => composer.note(`${error.message}: trying again`),
    room: ({ room, joined }) => (joined ? onRoom(room) : listed.delete(room)),
  })) chat.on(event, handler);
  channel.addEventListener("message", onOtherTab);
  for (const [id, handler] of Object.entries({ new: newConversation, leave, switch: switchUser })) {
    $(id).addEventListener("click", handler);
  }
  $("jump").addEventListener("click", () => toLatest().then(() => composer.focus()));
  document.addEventListener("visibilitychange", onVisible);
  addEventListener("focus", onVisible);
  addEventListener("blur", () => list.soon());
  addEventListener("hashchange", () => show(fromAddress()));
}

$("my-name").textContent = me;
paintAvatar($("my-avatar"), me, false);
$("switch").hidden = !switchUrl;
wireEvents();
(await history.conversations()).forEach(take);
list.paint();
if (rid && !fromAddress()) globalThis.history.replaceState(null, "", addressOf(`u/${rid}`));
await show(fromAddress());
