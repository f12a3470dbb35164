// The chat page of kschat: conversations beside messages. Who is talking is told by data-* attributes of `.app`; the
// wire is kschat.js, what is kept is history.js, the messages are log.js. This file ties them to what people do.

import { History } from "./history.js";
import { connect, MAX_MESSAGE_BYTES, sizeOf } from "./kschat.js";
import { Log } from "./log.js";
import { $, lastSeen, make, paintAvatar, plural, preview, shortTime } from "./words.js";

const app = document.querySelector(".app");
const { uid: me, rid, random, tokenId, url, tokenUrl, switchUrl } = app.dataset;

const SHOW_LOSS_MS = 1_500; // a connection that is lost for less is not worth a word
const HINT_AFTER = 6; // attempts
const NOTE_MS = 8_000;
const MAX_WATCHED = 100; // people whose presence is asked for …
const WATCH_MS = 500; // … once in this time

// ---- what there is

const people = new Map(); // conv → conversation, with `unread`
const presence = new Map(); // user → { on, last }
const typing = new Set(); // users who type
const drafts = new Map(); // conv → what is written and not sent
let open; // the conversation that is shown

const convOf = ({ room, mine, from, to }) => (room ? `r/${room}` : `u/${mine === false ? from : to}`);
const isRoom = (conv) => conv.startsWith("r/");
const nameOf = (conv) => conv.slice(2);
const addressOf = (conv) => `#${conv.slice(0, 2)}${encodeURIComponent(nameOf(conv))}`;

let counter = 0;
const nonce = crypto.getRandomValues(new Uint32Array(1))[0].toString(36);
// The nonce keeps numbers apart when a browser shows this page again from its cache and `random` is the same.
const freshRno = () => `${random}-${nonce}-${++counter}`;

async function getToken() {
  const answer = await fetch(`${tokenUrl}?${new URLSearchParams({ uid: me })}`, { cache: "no-store" });
  // The host application does not know this user any more.
  if (answer.status === 401 || answer.status === 403) return null;
  if (!answer.ok) throw new Error(`the host answered with ${answer.status}`);
  return answer.text();
}

const history = await History.open(me).catch((error) => {
  banner("This browser lets the page keep nothing, and without that no message would outlive it.", "Reload", () => location.reload());
  throw error;
});
const channel = new BroadcastChannel(`kschat ${me}`);
const chat = connect({ ...clocks(), url, user: me, token: tokenId, getToken: tokenUrl ? getToken : undefined });
const log = new Log($("messages"), history, {
  moved: () => onMoved(),
  retry: (rno) => chat.retry(rno),
  discard: (rno) => discard(rno),
});

/** A host application may set the clocks of kschat.js, such as `data-ping-after`. */
function clocks() {
  const given = Object.entries(app.dataset).filter(([name]) => /(After|Before|Timeout|Overlap|Min|Max)$/.test(name));
  return Object.fromEntries(given.map(([name, value]) => [name, Number(value)]));
}

// ---- the list

const rows = new Map(); // conv → element
let listing = false;

function buildRow(conv) {
  const row = make("li");
  const link = make("a");
  link.href = addressOf(conv);
  const avatar = make("span", "avatar");
  avatar.append(make("span"), make("i", "dot"));
  avatar.setAttribute("aria-hidden", "true");
  const top = make("span", "row-top");
  const name = make("bdi", "row-name", nameOf(conv));
  top.append(name, make("time"));
  const bottom = make("span", "row-bottom");
  bottom.append(make("bdi", "row-text"), make("span", "badge"));
  link.append(avatar, top, bottom, make("span", "sr online"));
  row.append(link);
  paintAvatar(avatar, nameOf(conv), isRoom(conv));
  return row;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** What is looked at is about to be read: counting it would only flicker. */
const unreadOf = ({ conv, unread }) => (conv === open && log.following && isWatched() ? 0 : unread);

function paintRow(row, record) {
  const { conv, last, name } = record;
  const unread = unreadOf(record);
  const part = (selector) => row.querySelector(selector);
  const here = !record.room && presence.get(name)?.on;
  row.classList.toggle("here", Boolean(here));
  row.classList.toggle("unread", unread > 0);
  setText(part(".online"), here ? "online" : "");
  setText(part("time"), last ? shortTime(last.time) : "");
  const who = !last ? "" : last.mine ? "You: " : record.room ? `${last.from}: ` : "";
  const isTyping = !record.room && typing.has(name);
  row.classList.toggle("typing", isTyping);
  setText(part(".row-text"), isTyping ? "typing…" : last ? who + preview(last.text) : "No messages yet");
  const badge = part(".badge");
  setText(badge, unread ? (unread > 99 ? "99+" : String(unread)) : "");
  if (unread) badge.setAttribute("aria-label", `${unread} unread`);
  const link = part("a");
  if (conv === open) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

function listSoon() {
  if (listing) return;
  listing = true;
  (document.hidden ? setTimeout : requestAnimationFrame)(() => {
    listing = false;
    paintList();
  });
}

function paintList() {
  const wanted = $("search").value.trim().toLowerCase();
  const all = [...people.values()].sort((a, b) => b.at - a.at);
  const shown = all.filter(({ name }) => name.toLowerCase().includes(wanted));
  const nodes = shown.map((record) => {
    if (!rows.has(record.conv)) rows.set(record.conv, buildRow(record.conv));
    paintRow(rows.get(record.conv), record);
    return rows.get(record.conv);
  });
  // Moving what is in its place would take the focus from it.
  const list = $("list");
  for (const row of [...list.children]) if (!nodes.includes(row)) row.remove();
  nodes.forEach((row, index) => row === list.children[index] || list.insertBefore(row, list.children[index] ?? null));
  $("list-hint").hidden = shown.length > 0;
  setText($("list-hint"), wanted ? "Nobody by that name here. Start a new conversation with +." : "No conversations yet. Start one with +.");
  const unread = all.reduce((sum, record) => sum + unreadOf(record), 0);
  document.title = `${unread ? `(${unread}) ` : ""}${open ? `${nameOf(open)} · ` : ""}kschat`;
}

/** Takes what the history says of a conversation. */
function take(record) {
  if (!record) return;
  people.set(record.conv, record);
  if (record.conv === open) log.mark(record);
  listSoon();
}

async function change(conv, what) {
  take(await history.update(conv, what));
  channel.postMessage({ conv });
}

// Arrows walk through the list as through a menu.
function onListKey(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const links = [...$("list").querySelectorAll("a")];
  const next = links.indexOf(document.activeElement) + step;
  event.preventDefault();
  if (next < 0) $("search").focus();
  else links[next]?.focus();
}

// ---- the open conversation

async function show(conv) {
  if (conv === open && log.conv === conv) return;
  keepDraft();
  if (open) chat.typing(nameOf(open), false);
  open = conv;
  app.dataset.view = conv ? "chat" : "list";
  $("head").hidden = $("composer").hidden = !conv;
  if (!conv) {
    log.close();
    $("messages").hidden = true;
    onMoved();
    return listSoon();
  }
  if (!people.has(conv)) await change(conv, {});
  paintHead();
  const input = $("msg");
  input.value = drafts.get(conv) ?? load(conv);
  onInput();
  $("msg-label").textContent = `Message to ${nameOf(conv)}`;
  await log.show(people.get(conv), pendingOf);
  onMoved();
  watch();
  if (!isRoom(conv)) chat.status([nameOf(conv)]).then(onMarks, () => {});
  // A phone's keyboard would hide what there is to read.
  (matchMedia("(pointer: fine)").matches ? input : $("name")).focus();
  listSoon();
}

const pendingOf = (conv) => chat.outbox.filter((entry) => convOf(entry) === conv);

function paintHead() {
  const name = nameOf(open);
  $("name").textContent = name;
  paintAvatar($("avatar"), name, isRoom(open));
  $("leave").hidden = !isRoom(open);
  $("messages").setAttribute("aria-label", `Messages with ${name}`);
  paintPresence();
}

function paintPresence() {
  if (!open) return;
  const here = presence.get(nameOf(open));
  const isTyping = !isRoom(open) && typing.has(nameOf(open));
  const seen = here?.on ? "online" : here?.last ? lastSeen(here.last) : "";
  setText($("presence"), isRoom(open) ? "Room" : isTyping ? "typing…" : seen);
  $("presence").dataset.state = isTyping ? "typing" : here?.on ? "on" : "off";
}

const isWatched = () => !document.hidden && document.hasFocus();

let missed = 0; // messages that came while the newest was out of view

function onMoved() {
  if (log.following) missed = 0;
  $("jump").hidden = log.following || !open;
  setText($("jump").firstElementChild, missed ? `${plural(missed, "new message")}` : "Latest");
  $("empty").hidden = Boolean(open) && !log.isEmpty;
  setText($("empty-lead"), open ? `Say hello to ${nameOf(open)}` : "Pick a conversation");
  setText($("empty-more"), open ? "Enter sends, Shift + Enter starts a new line." : "or start a new one with +");
  readSoon();
}

let reading = false;

/** What is in view has been read. */
async function readSoon() {
  const record = people.get(open);
  if (reading || !record?.unread || !log.following || !isWatched() || log.conv !== open) return;
  reading = true;
  const newest = await history.newestOfTheirs(record.conv);
  if (newest) {
    await change(record.conv, { readTime: newest.time, readId: newest.id });
    if (!record.room) chat.read(record.name, newest.id);
  }
  reading = false;
}

// ---- drafts

const draftKey = (conv) => `kschat draft ${me} ${conv}`;

function load(conv) {
  try {
    return sessionStorage.getItem(draftKey(conv)) ?? "";
  } catch {
    return "";
  }
}

function keepDraft() {
  if (!open) return;
  drafts.set(open, $("msg").value);
  try {
    if ($("msg").value) sessionStorage.setItem(draftKey(open), $("msg").value);
    else sessionStorage.removeItem(draftKey(open));
  } catch {
    // Full, or forbidden: it is lost with the page.
  }
}

// ---- what comes and goes

const record = ({ id, from, text, time, mine, rno }, conv) => ({ id, conv, from, text, time, mine: mine ? 1 : 0, rno });

/** Only what is kept here is acknowledged: kschat.js waits for this. */
async function onMessages(messages) {
  const kept = messages.map((message) => record(message, convOf(message)));
  const conversations = await history.add(kept);
  conversations.forEach(take);
  const here = kept.filter(({ conv }) => conv === open && conv === log.conv);
  if (!log.following) missed += here.filter(({ mine }) => !mine).length;
  log.add(here, isWatched() && log.following);
  const theirs = kept.filter(({ mine }) => !mine);
  if (theirs.length) announce(theirs);
  watch();
}

function announce(messages) {
  const { from, text } = messages.at(-1);
  const words = messages.length > 1 ? plural(messages.length, "new message") : `${from}: ${text.slice(0, 200)}`;
  $("announce").textContent = words;
}

/** An own message is sending, accepted, delivered, read, or failed. */
async function onState(entry) {
  const conv = convOf(entry);
  const { id, state } = entry;
  if (conv === log.conv) log.put(entry);
  if (state !== "accepted") return;
  const [conversation] = await history.add([record({ ...entry, from: me, mine: true }, conv)]);
  take(conversation);
  channel.postMessage({ conv, id });
}

function discard(rno) {
  chat.discard(rno);
  log.discard(rno);
}

/** Another tab of ours has written. */
async function onOtherTab({ data: { conv } }) {
  take(await history.conversation(conv));
  if (conv !== log.conv) return;
  log.add(await history.before({ conv }, 20), true);
}

async function onReceipt({ user, of, state, id }) {
  const conv = `u/${user}`;
  if (of !== me || !people.has(conv)) return;
  const which = state === "read" ? "seen" : "delivered";
  if (people.get(conv)[which] < id) await change(conv, (now) => (now[which] < id ? { [which]: id } : {}));
}

function onMarks(marks) {
  for (const { user, delivered, read } of marks) {
    if (delivered) onReceipt({ user, of: me, state: "delivered", id: delivered });
    if (read) onReceipt({ user, of: me, state: "read", id: read });
  }
}

function onTyping({ user, on }) {
  if (on) typing.add(user);
  else typing.delete(user);
  paintPresence();
  listSoon();
}

function onPresence({ user, on, last }) {
  presence.set(user, { on, last });
  paintPresence();
  listSoon();
}

let watched = "";
let watching;

/** Asks who of those in the list is here, when that list has changed. */
function watch() {
  watching ??= setTimeout(() => {
    watching = undefined;
    const known = [...people.values()].filter(({ room }) => !room).sort((a, b) => b.at - a.at);
    const names = known.slice(0, MAX_WATCHED).map(({ name }) => name);
    if (open && !isRoom(open) && !names.includes(nameOf(open))) names.splice(-1, 1, nameOf(open));
    if (!names.length || watched === JSON.stringify([...names].sort())) return;
    watched = JSON.stringify([...names].sort());
    chat.presence(names).catch(() => {});
  }, WATCH_MS);
}

// ---- the connection

const WORDS = { connecting: "Connecting", connected: "Connected", waiting: "Reconnecting", offline: "Offline" };
let lossTimer;
let countdown;

function onConnection({ state, attempt = 0, retryAt, reason }) {
  const isOver = state === "ended" || state === "closed";
  app.dataset.link = $("status").dataset.state = state;
  setText($("status"), isOver ? "Signed out" : WORDS[state] ?? state);
  clearInterval(countdown);
  if (state === "connected" || isOver) clearTimeout(lossTimer);
  if (state === "connected") return onConnected();
  if (isOver) return banner(`You are signed out: ${reason ?? state}.`, "Reload", () => location.reload());
  lossTimer ??= setTimeout(() => tellLoss(), SHOW_LOSS_MS);
  if (!$("banner").hidden || attempt >= HINT_AFTER) tellLoss(state, attempt, retryAt);
}

function onConnected() {
  lossTimer = undefined;
  $("banner").hidden = true;
  watch();
  chat.rooms().then((rooms) => rooms.forEach((room) => people.has(`r/${room}`) || change(`r/${room}`, {})), () => {});
  if (open && !isRoom(open)) chat.status([nameOf(open)]).then(onMarks, () => {});
}

function tellLoss(state = chat.state, attempt = 0, retryAt = 0) {
  // A browser does not say why a handshake failed, so this is only a guess.
  const words = state === "offline"
    ? "You are offline. What you write is sent when you are back."
    : attempt >= HINT_AFTER && !tokenUrl
      ? "Still not connected. Your session may have ended: reload the page to start a new one."
      : "No connection. What you write is sent as soon as there is one.";
  banner(words, "Try now", () => chat.hurry());
  const tick = () => {
    const seconds = Math.ceil((retryAt - Date.now()) / 1000);
    $("banner-do").textContent = seconds > 1 ? `Try now (${seconds} s)` : "Try now";
  };
  clearInterval(countdown);
  tick();
  if (retryAt) countdown = setInterval(tick, 1000);
}

function banner(words, action, act) {
  setText($("banner-text"), words);
  $("banner-do").textContent = action;
  $("banner-do").onclick = act;
  $("banner").hidden = false;
}

let noteTimer;

function note(words) {
  clearTimeout(noteTimer);
  $("note").textContent = words;
  noteTimer = setTimeout(() => onInput(), NOTE_MS);
}

// ---- the composer

const draft = () => $("msg").value.replace(/^\s*\n/, "").trimEnd();

// Quiet until the limit is near; the button is off when it is passed.
function checkSize() {
  const text = draft();
  const room = MAX_MESSAGE_BYTES - (text.length * 6 < MAX_MESSAGE_BYTES ? 0 : sizeOf(text));
  const kib = `${(Math.ceil(Math.abs(room) / 102.4) / 10).toFixed(1)} KiB`;
  $("send").disabled = !text || room < 0;
  $("note").classList.toggle("over", room < 0);
  clearTimeout(noteTimer);
  setText($("note"), room < 0 ? `Too long by ${kib}. Please send it in parts.` : room < 4096 ? `${kib} left` : "");
}

function onInput() {
  const input = $("msg");
  input.style.height = "auto"; // else it would never shrink
  input.style.height = `${input.scrollHeight + 2}px`;
  checkSize();
}

function onWritten() {
  onInput();
  if (open && !isRoom(open)) chat.typing(nameOf(open), draft() !== "");
}

async function onSubmit(event) {
  event.preventDefault();
  checkSize();
  if ($("send").disabled || !open) return;
  const text = draft();
  const to = open;
  $("msg").value = "";
  onInput();
  keepDraft();
  $("msg").focus();
  log.undivide();
  await toLatest();
  if (isRoom(to)) chat.sendRoom(nameOf(to), text, { rno: freshRno() });
  else chat.send(nameOf(to), text, { rno: freshRno() });
}

// Enter that picks a word in an input method must not send.
function onKey(event) {
  const composing = event.isComposing || event.keyCode === 229;
  if (event.key !== "Enter" || event.shiftKey || composing) return;
  event.preventDefault();
  $("composer").requestSubmit();
}

async function toLatest() {
  log.following = true;
  await log.jump(people.get(open), pendingOf);
  onMoved();
}

// ---- the dialog, for a new conversation and for another user

let onDialog = () => {};

function ask({ title, label, ok, rooms, act }) {
  $("dialog-title").textContent = title;
  $("dialog-label").textContent = label;
  $("dialog-ok").textContent = ok;
  $("dialog-name").value = $("dialog-problem").textContent = "";
  $("kind").hidden = !rooms;
  document.querySelector("[name=kind]").checked = true;
  onDialog = act;
  $("dialog").showModal();
  $("dialog-name").focus();
}

async function onDialogSubmit(event) {
  event.preventDefault();
  const name = $("dialog-name").value.trim();
  const kind = document.querySelector("[name=kind]:checked").value;
  if (new TextEncoder().encode(name).length > 128) return void ($("dialog-problem").textContent = "This is too long.");
  try {
    if (name) await onDialog(name, kind);
    $("dialog").close();
  } catch (error) {
    $("dialog-problem").textContent = `That did not work: ${error.message}`;
  }
}

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
  ask({
    title: "Switch user", label: "I am", ok: "Switch",
    act: (name) => location.assign(`${switchUrl}?${new URLSearchParams({ uid: name })}`),
  });
}

async function leave() {
  const conv = open;
  try {
    await chat.leave(nameOf(conv));
    await history.remove(conv);
    people.delete(conv);
    location.hash = "";
  } catch (error) {
    note(`That did not work: ${error.message}`);
  }
}

// ---- start

function fromAddress() {
  const [, kind, name] = /^#([ur])\/(.+)$/.exec(location.hash) ?? [];
  if (!name) return null;
  try {
    return `${kind}/${decodeURIComponent(name)}`;
  } catch {
    return null;
  }
}

function onVisible() {
  if (document.hidden) return keepDraft();
  log.renameDays();
  readSoon();
}

function wireEvents() {
  for (const [event, handler] of Object.entries({
    connection: onConnection, messages: onMessages, state: onState, receipt: onReceipt, typing: onTyping,
    presence: onPresence, error: (error) => note(`${error.message}: trying again`),
    room: ({ room, joined }) => joined && !people.has(`r/${room}`) && change(`r/${room}`, {}),
  })) chat.on(event, handler);
  channel.addEventListener("message", onOtherTab);
  $("composer").addEventListener("submit", onSubmit);
  $("msg").addEventListener("input", onWritten);
  $("msg").addEventListener("keydown", onKey);
  $("jump").addEventListener("click", () => toLatest().then(() => $("msg").focus()));
  $("search").addEventListener("input", listSoon);
  document.querySelector(".side").addEventListener("keydown", onListKey);
  $("new").addEventListener("click", newConversation);
  $("leave").addEventListener("click", leave);
  $("switch").addEventListener("click", switchUser);
  $("dialog-form").addEventListener("submit", onDialogSubmit);
  $("dialog-cancel").addEventListener("click", () => $("dialog").close());
  document.addEventListener("visibilitychange", onVisible);
  addEventListener("focus", onVisible);
  addEventListener("pagehide", keepDraft);
  addEventListener("hashchange", () => show(fromAddress()));
}

$("my-name").textContent = me;
paintAvatar($("my-avatar"), me, false);
$("switch").hidden = !switchUrl;
wireEvents();
for (const conversation of await history.conversations()) people.set(conversation.conv, conversation);
paintList();
if (rid && !fromAddress()) globalThis.history.replaceState(null, "", addressOf(`u/${rid}`));
await show(fromAddress());
