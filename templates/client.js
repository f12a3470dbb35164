// The chat page of kschat: connects its modules, and shows one conversation.

import { Composer } from "./composer.js";
import { History } from "./history.js";
import { connect, KschatError } from "./kschat.js";
import {
  addressOf, convOf, displayName, fromAddress, given, isRoom, isWatched, List, nameOf, people, presence, shown, titleOf,
  typing,
} from "./list.js";
import { Log } from "./log.js";
import { tellConnection, warn } from "./status.js";
import { fillIn, lastSeen, problem, t } from "./texts.js";
import { $, paintAvatar } from "./words.js";

const { uid: me, rid, tokenId, url, tokenUrl, switchUrl } = given;

const MAX_WATCHED = 100; // users in a presence request …
const WATCH_MS = 500; // … sent once in this time
const LATELY = 20; // messages that another tab may just have stored …
const MEANWHILE = 300; // … or received while this one had no connection

async function getToken() {
  const answer = await fetch(`${tokenUrl}?${new URLSearchParams({ uid: me })}`, { cache: "no-store" });
  // The host application does not know this user.
  if (answer.status === 401 || answer.status === 403) return null;
  if (!answer.ok) throw new Error(`the host answered with ${answer.status}`);
  return answer.text();
}

/** A host application may set timeouts of kschat.js, such as `data-ping-after`. */
function clocks() {
  const numbers = Object.entries(given).filter(([, value]) => /^\d+$/.test(value));
  return Object.fromEntries(numbers.map(([name, value]) => [name, Number(value)]));
}

const history = await History.open(me);
let isWarned = history.isKept;

const warnOfLoss = () => warn(t("keepsNothing"), () => (isWarned = true));

history.lost = () => {
  isWarned = false;
  warnOfLoss();
};
const channel = new BroadcastChannel(`kschat ${me}`);
const chat = connect({ ...clocks(), url, user: me, token: tokenId, getToken: tokenUrl ? getToken : undefined });
const log = new Log($("messages"), history, { moved: () => onMoved(), retry, discard });
const list = new List({ isLookedAt: (conv) => conv === shown.conv && log.following && isWatched() });
const composer = new Composer(me, { send, written });

// ---- conversations

function take(record) {
  if (!record) return;
  notifier?.settle(record);
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
  const found = takeFound(conv);
  await log.show(people.get(conv), pendingOf, found);
  watch();
  askMarks();
  if (found) return;
  // A phone's keyboard would hide the messages.
  if (matchMedia("(pointer: fine)").matches) composer.focus();
  else $("name").focus();
}

let foundMessage = null; // where the next conversation opens

function takeFound(conv) {
  const found = foundMessage;
  foundMessage = null;
  return found?.conv === conv ? found : null;
}

/** Opens a conversation at a message; the caller follows the link to the conversation. */
function openAt(message) {
  foundMessage = message;
  if (message.conv === shown.conv) fill(message.conv);
}

function paintHead() {
  if (!shown.conv) return;
  const name = titleOf(shown.conv);
  $("name").textContent = name;
  paintAvatar($("avatar"), name, isRoom(shown.conv));
  $("leave").hidden = !isRoom(shown.conv);
  $("messages").setAttribute("aria-label", t("messagesWith", { name }));
  paintPresence();
}

function paintPresence() {
  if (!shown.conv) return;
  const here = presence.get(nameOf(shown.conv));
  const isTyping = !isRoom(shown.conv) && typing.has(nameOf(shown.conv));
  const seen = here?.on ? t("online") : here?.last ? lastSeen(here.last) : "";
  $("presence").textContent = isRoom(shown.conv) ? t("room") : isTyping ? t("typing") : seen;
  $("presence").dataset.state = isTyping ? "typing" : here?.on ? "on" : "off";
}

const missed = new Set(); // ids of messages that arrived while the newest was out of view

function onMoved() {
  const { conv } = shown;
  if (log.following) missed.clear();
  $("jump").hidden = log.following || !conv;
  $("jump").firstElementChild.textContent = missed.size ? t("newMessages", { n: missed.size }) : t("latest");
  $("empty").hidden = Boolean(conv) && !log.isEmpty;
  $("empty-lead").textContent = conv ? t("sayHello", { name: titleOf(conv) }) : t("pick");
  $("empty-more").textContent = t(conv ? "keys" : "orStartNew");
  readSoon();
}

const shownAgain = () => new Promise((shows) => document.addEventListener("visibilitychange", shows, { once: true }));

let reading = false;

/** Marks visible messages as read. */
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

// ---- received messages and events

const kept = ({ id, from, text, time, mine, rno }, conv) => ({ id, conv, from, text, time, mine: mine ? 1 : 0, rno });

/** Acknowledges only what is stored or shown here: kschat.js awaits this. */
async function onMessages(messages) {
  const records = messages.map((message) => kept(message, convOf(message)));
  (await history.add(records)).forEach(take);
  // After the ack, a tab without a connection learns of it only from here.
  for (const conv of new Set(records.map((record) => record.conv))) {
    channel.postMessage({ conv, records: records.filter((record) => record.conv === conv) });
  }
  const theirs = records.filter(({ mine }) => !mine);
  bring(records);
  if (theirs.length) announce(theirs);
  watch();
  // Messages that are stored nowhere are acknowledged only once the page is visible.
  if (!history.isKept && document.hidden) await shownAgain();
}

function bring(records) {
  const here = records.filter(({ conv }) => conv === log.conv);
  if (!log.following) for (const { id, mine } of here) if (!mine) missed.add(id);
  log.add(here, isWatched() && log.following);
}

function announce(messages) {
  const { from, text } = messages.at(-1);
  const n = messages.length;
  $("announce").textContent = n > 1 ? t("newMessages", { n }) : `${displayName(from, false)}: ${text.slice(0, 200)}`;
  for (const conv of new Set(messages.map((message) => message.conv))) notifier?.notify(me, conv);
}

/** Returns whether it was accepted. */
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

const tellNotTaken = (answer) => answer.catch((error) => composer.note(`${t("notSent", { why: problem(error) })}.`));

function retry(rno) {
  const answer = chat.retry(rno);
  if (answer && chat.outbox.some((entry) => entry.rno === rno && entry.state === "failed")) tellNotTaken(answer);
  // It continues under another number.
  else if (answer?.rno !== rno) log.discard(rno);
}

function written(hasText) {
  if (shown.conv && !isRoom(shown.conv)) chat.typing(nameOf(shown.conv), hasText);
}

/** State of an own message: sending, accepted, delivered, read, or failed. */
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

/** Another tab has written, has received `records`, or has left a room. */
async function onOtherTab({ data: { conv, records, gone } }) {
  if (gone) return drop(conv);
  if (records && !history.isKept) await history.add(records);
  take(await history.conversation(conv));
  if (records) return bring(records);
  if (conv !== log.conv) return;
  const latest = await history.before({ conv }, LATELY);
  if (conv === log.conv) log.add(latest, true);
}

/** Loads what other tabs received while this one was frozen or offline. */
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

/** Requests the presence of listed users when the list has changed. */
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
  if (!isWarned) warnOfLoss();
  if (info.state !== "connected") return;
  watch();
  askMarks();
  catchUp();
  chat.rooms().then(onRooms, () => {});
}

/** Shows the server's rooms. */
function onRooms(rooms) {
  const gone = [...people.values()].filter(({ name, room }) => room && !rooms.includes(name));
  for (const { conv } of gone) change(conv, { left: true });
  rooms.forEach(onRoom);
}

/** Hides a conversation. */
function drop(conv) {
  people.delete(conv);
  list.soon();
  if (conv === shown.conv) location.hash = "";
}

function onRoom(room) {
  if (!people.has(`r/${room}`)) change(`r/${room}`, { left: false });
}

function onLeft(room) {
  if (people.has(`r/${room}`)) change(`r/${room}`, { left: true });
}

// ---- user actions

const suffixes = {}; // Not every browser loads a module whose URL has failed again.

/** Passes a rarely needed module to `act`. */
async function rarely(name, act) {
  let loaded;
  try {
    loaded = await import(`./${name}.js${suffixes[name] ?? ""}`);
  } catch {
    suffixes[name] = `?${Date.now()}`;
    return warn(t("failed", { why: problem(new KschatError("offline")) }));
  }
  act(loaded);
}

function newConversation() {
  const enter = async (kind, name) => {
    if (kind === "r") await chat.join(name);
    await change(`${kind}/${name}`, { at: Date.now() });
    location.hash = addressOf(`${kind}/${name}`);
  };
  rarely("dialog", (dialog) => dialog.askConversation(chat.features.rooms === true, enter));
}

function switchUser() {
  const enter = (kind, name) => location.assign(`${switchUrl}?${new URLSearchParams({ uid: name })}`);
  rarely("dialog", (dialog) => dialog.askUser(enter));
}

async function leave() {
  const { conv } = shown;
  try {
    await chat.leave(nameOf(conv));
    await history.remove(conv);
    drop(conv);
    channel.postMessage({ conv, gone: true });
  } catch (error) {
    composer.note(t("failed", { why: problem(error) }));
  }
}

const onSearch = () => rarely("find", ({ find }) => find(history, openAt));

let notifier = null; // notify.js, once notifications are allowed

/** Offers notifications where the browser has not been asked yet; some have the API, but not for pages. */
function offerNotifications() {
  try {
    $("notify").hidden = Notification.permission !== "default" || !new Notification("");
    if (Notification.permission === "granted") import("./notify.js").then((loaded) => (notifier = loaded), () => {});
  } catch {
    $("notify").hidden = true;
  }
}

const allowNotifications = () => Notification.requestPermission().then(offerNotifications);

function onNames() {
  paintSelf();
  paintHead();
  onMoved();
  log.rename();
}

function paintSelf() {
  const name = displayName(me, false);
  $("my-name").textContent = name;
  paintAvatar($("my-avatar"), name, false);
}

function onVisible() {
  if (document.hidden) return composer.keep();
  log.arrange();
  list.soon();
  readSoon();
}

function wireEvents() {
  for (const [event, handler] of Object.entries({
    connection: onConnection, messages: onMessages, state: onState, receipt: onReceipt, typing: onTyping,
    presence: onPresence, error: (error) => error.isFinal || composer.note(t("tryingAgain", { why: problem(error) })),
    room: ({ room, joined }) => (joined ? onRoom(room) : onLeft(room)),
  })) chat.on(event, handler);
  channel.addEventListener("message", onOtherTab);
  for (const [id, handler] of Object.entries({ new: newConversation, notify: allowNotifications, leave, switch: switchUser })) {
    $(id).addEventListener("click", handler);
  }
  $("jump").addEventListener("click", () => toLatest().then(() => composer.focus()));
  $("search").addEventListener("input", onSearch);
  document.addEventListener("visibilitychange", onVisible);
  addEventListener("names", onNames);
  addEventListener("focus", onVisible);
  addEventListener("blur", () => list.soon());
  addEventListener("hashchange", () => show(fromAddress()));
}

fillIn();
paintSelf();
$("switch").hidden = !switchUrl;
wireEvents();
offerNotifications();
(await history.conversations()).forEach(take);
list.paint();
if (rid && !fromAddress()) globalThis.history.replaceState(null, "", addressOf(`u/${rid}`));
await show(fromAddress());
