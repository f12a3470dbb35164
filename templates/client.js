// The chat page of kschat. Read it top to bottom: settings, small tools, what
// is kept over a reload, the view, sending, receiving, the connection, the
// composer. The page is told who is talking by data-* attributes on <main>.

const page = document.querySelector("main");
const { uid: me, rid: other, random, tokenId: token, url } = page.dataset;

// ---- settings

const MAX_MESSAGE_BYTES = 28 * 1024;
const MAX_SHOWN = 2000; // messages kept in the page
const ACK_AT_ONCE = 16; // messages
const ACK_MS = 1_000;
const MAX_SEEN = 4000; // message ids remembered to drop redeliveries
const MAX_ASIDES = 50; // messages kept from people other than `other`
const ANSWER_MS = 10_000; // a send or a handshake without answer is given up
const STABLE_MS = 5_000; // a connection that lived this long was a good one
const BACKOFF_MIN_MS = 300;
const BACKOFF_MAX_MS = 15_000;
const MAX_RETRY_MS = 60_000; // a longer wait asked for by the server is cut
const MAX_TRIES = 8; // for failures that may never pass by waiting
const HINT_AFTER = 6; // handshakes that never opened
const GROUP_MS = 5 * 60_000; // a longer pause starts a new group of bubbles

const ENDED = new Set([3, 4]);
const TRANSIENT = new Set([1, 2, 9, 17, 18, 20]);
const INTERNAL = 1;
const UNKNOWN = 17; // or it can't be asked
const REUSED_RNO = 13;

// ---- small tools

const $ = (id) => document.getElementById(id);
const now = () => Date.now();

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Full jitter keeps many pages from coming back at the same instant.
function backoff(attempt) {
  const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** (attempt + 1));
  return Math.max(BACKOFF_MIN_MS, Math.random() * ceiling);
}

// The limit counts the text as it travels: JSON-encoded UTF-8.
const encoder = new TextEncoder();
const sizeOf = (text) => encoder.encode(JSON.stringify(text)).length;

// Half a surrogate pair is no valid UTF-8; a strict server would refuse it.
const wellFormed = (text) => text.replace(/\p{Surrogate}/gu, "\uFFFD");

// The drawn nonce keeps ids apart when a browser restores this page from its
// cache and `random` comes back unchanged.
const nonce = crypto.getRandomValues(new Uint32Array(1))[0].toString(36);
let counter = 0;
const freshRno = () => `${random}-${nonce}-${++counter}`;

const initial = (name) => ([...name.trim()][0] ?? "?").toUpperCase();

// A name always gets the same of six colours.
function tone(name) {
  let sum = 0;
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)) % 9973;
  return `tone-${sum % 6}`;
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const longDate = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });

function dayName(millis) {
  const day = new Date(millis).toDateString();
  const today = new Date();
  if (day === today.toDateString()) return "Today";
  today.setDate(today.getDate() - 1);
  return day === today.toDateString() ? "Yesterday" : longDate.format(millis);
}

// What comes from the network may have any shape, and nothing here may throw:
// String() of an odd object would, and so would a date out of range.
const plain = (value) => (["string", "number"].includes(typeof value) ? String(value) : "");
const errorCode = (frame) => Number(plain(frame.ER) || INTERNAL);

function validTime(value) {
  const millis = Number(plain(value));
  return millis > 0 && millis < 8.64e15 ? millis : now();
}

// ---- kept over a reload (this tab only)
// Only what would otherwise be lost: own messages not yet accepted, and
// messages of people whose conversation has not been opened.

const OUTBOX_KEY = `kschat outbox ${JSON.stringify([me, other])}`;
const ASIDES_KEY = `kschat asides ${JSON.stringify([me])}`;

function load(key) {
  try {
    const list = JSON.parse(sessionStorage.getItem(key));
    return Array.isArray(list) ? list : [];
  } catch {
    return [];
  }
}

function save(key, list) {
  try {
    if (list.length) sessionStorage.setItem(key, JSON.stringify(list));
    else sessionStorage.removeItem(key);
  } catch {
    // Storage full or forbidden: the page works without it.
  }
}

// ---- the log of messages

const log = $("messages");
const jump = $("jump");
let following = true; // is the newest message in view?
let missed = 0; // messages that arrived while it was not
let unread = 0; // messages that arrived while the page was hidden

const EMOJI_ONLY = /^(?:\p{Emoji_Presentation}|\p{Extended_Pictographic}\uFE0F|[\p{Emoji_Modifier}\u200D\uFE0F])+$/u;

function buildMessage({ text, time, mine }) {
  const node = make("div", `message ${mine ? "mine" : "theirs"}`);
  const bubble = make("div", "bubble");
  const body = make("div", "text", text);
  body.dir = "auto";
  if (text.length <= 16 && EMOJI_ONLY.test(text)) node.classList.add("emoji");
  const meta = make("div", "meta");
  meta.append(make("time"));
  if (mine) {
    const state = make("span", "state");
    state.setAttribute("role", "img");
    meta.append(state);
  }
  bubble.append(make("span", "sr", `${mine ? "You" : other}: `), body, meta);
  node.append(bubble);
  setTime(node, time);
  return node;
}

function setTime(node, millis) {
  const stamp = node.querySelector("time");
  stamp.dateTime = new Date(millis).toISOString();
  stamp.textContent = clock.format(millis);
  stamp.title = longDate.format(millis);
  node.dataset.time = millis;
}

const timeOf = (node) => Number(node.dataset.time);

// Messages the server kept back may arrive after newer ones, so each finds its
// place from the end. Own messages still waiting will get a later time than all
// that is here, so they stay below. Within a second the order of arrival wins.
function findPlace(millis) {
  let before = null;
  for (let last = log.lastElementChild; last; last = last.previousElementSibling) {
    const { state } = last.dataset;
    if (state === "failed" || (state !== "waiting" && timeOf(last) <= millis + 1000)) break;
    before = last;
  }
  return before;
}

function place(node, before = null) {
  log.insertBefore(node, before);
  arrange(node);
  arrange(node.nextElementSibling);
  while (log.childElementCount > MAX_SHOWN) {
    log.firstElementChild.remove();
    arrange(log.firstElementChild);
  }
}

// Day separators and grouping depend on the neighbour above, nothing else.
function arrange(node) {
  if (!node) return;
  const above = node.previousElementSibling;
  const day = dayName(timeOf(node));
  const newDay = !above || dayName(timeOf(above)) !== day;
  if (newDay) node.dataset.day = day;
  else delete node.dataset.day;
  const sameSide = above?.classList.contains("mine") === node.classList.contains("mine");
  const close = above && Math.abs(timeOf(node) - timeOf(above)) < GROUP_MS;
  node.classList.toggle("joined", Boolean(sameSide && close && !newDay));
}

// "Today" turns into "Yesterday" when the page stays open over midnight.
function renameDays() {
  for (const node of log.querySelectorAll("[data-day]")) node.dataset.day = dayName(timeOf(node));
}

function scrollDown() {
  log.scrollTop = log.scrollHeight;
  following = true;
  missed = 0;
}

function updateJump() {
  jump.hidden = following;
  jump.textContent = missed ? `${missed} new message${missed > 1 ? "s" : ""}` : "Newest messages";
}

function onScroll() {
  following = log.scrollHeight - log.scrollTop - log.clientHeight < 48;
  if (following) missed = 0;
  updateJump();
}

function showIncoming({ text, time, mid }) {
  const node = buildMessage({ text, time, mine: false });
  node.dataset.mid = mid;
  place(node, findPlace(time));
  if (!following) missed++;
}

// Once per frame of messages: asking for the height makes the browser lay out.
function settle() {
  if (following) scrollDown();
  updateJump();
}

function updateTitle() {
  document.title = `${unread ? `(${unread}) ` : ""}${other} · kschat`;
}

// A dot runs along the line between the two names whenever a message passes.
function pulse(direction) {
  if (document.hidden || $("thread").childElementCount > 2) return;
  const dot = make("span", direction);
  dot.addEventListener("animationend", () => dot.remove());
  dot.addEventListener("animationcancel", () => dot.remove());
  $("thread").append(dot);
}

// ---- notices

let noteTimer;

function showNote(text) {
  clearTimeout(noteTimer);
  $("note").textContent = text;
  noteTimer = setTimeout(() => ($("note").textContent = ""), 8000);
}

function showBanner(text) {
  $("banner-text").textContent = text;
  $("banner").hidden = false;
}

// ---- messages from other people
// They are not mixed into this conversation, but they were delivered here and
// will not come again: keep them until their conversation is opened.

let asides = load(ASIDES_KEY);

function setAsides(list) {
  asides = list.slice(-MAX_ASIDES);
  save(ASIDES_KEY, asides);
  const senders = new Map();
  for (const item of asides) senders.set(item.from, [...(senders.get(item.from) ?? []), item]);
  $("asides").replaceChildren(...[...senders].map(([from, items]) => buildAside(from, items)));
}

function buildAside(from, items) {
  const row = make("div", "aside");
  const words = make("p");
  const name = make("bdi", "name", from);
  const quote = make("bdi", "", items.at(-1).text);
  words.append(name, ` wrote${items.length > 1 ? ` ${items.length} messages` : ""}: `, quote);
  const open = make("a", "", "Open");
  open.href = `/?${new URLSearchParams({ uid: me, rid: from })}`;
  open.setAttribute("aria-label", `Open the conversation with ${from}`);
  const close = make("button", "plain", "Dismiss");
  close.type = "button";
  close.addEventListener("click", () => setAsides(asides.filter((item) => item.from !== from)));
  row.append(words, open, close);
  return row;
}

// Those that waited for exactly this conversation move into its log.
function takeAsides() {
  for (const item of asides.filter(({ from }) => from === other)) {
    firstSight(item.mid);
    showIncoming(item);
  }
  setAsides(asides.filter(({ from }) => from !== other));
}

// ---- sending
// Own messages leave in order, one at a time. A message keeps its rno for every
// attempt, so the server can tell a repeat from a new message.

const unsent = new Map(); // rno → entry, waiting or failed
const queue = []; // entries waiting, oldest first
let inFlight = null;
let answerTimer;
let holdTimer = null; // set while a pause before the next attempt lasts

function keepUnsent() {
  save(OUTBOX_KEY, [...unsent.values()].map(({ rno, text, time, error }) => ({ rno, text, time, error })));
}

function addOwn(entry) {
  entry.tries = 0;
  entry.node = buildMessage({ text: entry.text, time: entry.time * 1000, mine: true });
  unsent.set(entry.rno, entry);
  place(entry.node);
  if (entry.error) return markFailed(entry, entry.error);
  setState(entry, "waiting");
  queue.push(entry);
  keepUnsent();
  pump();
}

function setState(entry, state) {
  const words = { waiting: "waiting to be sent", sent: "sent", failed: "not sent" }[state];
  const icon = entry.node.querySelector(".state");
  icon.setAttribute("aria-label", words);
  icon.title = words;
  entry.node.dataset.state = state;
  if (state !== "failed") entry.node.querySelector(".problem")?.remove();
}

function pump() {
  if (inFlight || holdTimer || sessionEnded || !queue.length) return;
  if (socket?.readyState !== WebSocket.OPEN) return;
  inFlight = queue[0];
  const { rno, text, time } = inFlight;
  // Whoever answers has read what came.
  sendAck();
  socket.send(JSON.stringify({ action: "send", uId: me, pId: other, msg: text, rno, time }));
  answerTimer = setTimeout(onNoAnswer, ANSWER_MS);
}

// The connection may be dead without knowing it: a new one tells.
function onNoAnswer() {
  const entry = inFlight;
  releaseFlight();
  countTry(entry, "the server did not answer");
  giveUp();
}

function releaseFlight() {
  clearTimeout(answerTimer);
  inFlight = null;
}

// Returns whether the message may be tried again.
function countTry(entry, problem) {
  if (++entry.tries < MAX_TRIES) return true;
  markFailed(entry, problem);
  return false;
}

function hold(millis) {
  clearTimeout(holdTimer);
  holdTimer = setTimeout(() => {
    holdTimer = null;
    pump();
  }, millis);
}

function unqueue(entry) {
  const index = queue.indexOf(entry);
  if (index >= 0) queue.splice(index, 1);
  if (inFlight === entry) releaseFlight();
}

function markSent(entry, frame) {
  unqueue(entry);
  unsent.delete(entry.rno);
  keepUnsent();
  setState(entry, "sent");
  attempt = 0; // the whole way works
  entry.node.dataset.mid = plain(frame.MID);
  setTime(entry.node, validTime(frame.MSGTIME));
  arrange(entry.node);
  arrange(entry.node.nextElementSibling);
  pulse("out");
  pump();
}

function markFailed(entry, problem, code) {
  unqueue(entry);
  entry.error = problem;
  keepUnsent();
  setState(entry, "failed");
  entry.node.querySelector(".problem")?.remove();
  entry.node.append(buildProblem(entry, code));
  if (following) scrollDown();
  pump();
}

function buildProblem(entry, code) {
  const row = make("p", "problem");
  const retry = make("button", "", "Retry");
  const remove = make("button", "plain", "Remove");
  for (const button of [retry, remove]) button.type = "button";
  retry.addEventListener("click", () => retryEntry(entry, code));
  remove.addEventListener("click", () => discard(entry));
  row.append(make("span", "", `Not sent: ${entry.error}`), retry, remove);
  return row;
}

// A retried message goes out after all others, so it also moves to the end.
function retryEntry(entry, code) {
  discard(entry);
  const rno = code === REUSED_RNO ? freshRno() : entry.rno;
  addOwn({ rno, text: entry.text, time: entry.time });
  scrollDown();
  input.focus();
}

function discard(entry) {
  const below = entry.node.nextElementSibling;
  unsent.delete(entry.rno);
  keepUnsent();
  entry.node.remove();
  arrange(below);
}

// ---- answers to a send

function onSendAnswer(frame) {
  const code = errorCode(frame);
  const rno = plain(frame.RANDOMNO);
  const entry = rno ? unsent.get(rno) : code && inFlight;
  if (!entry) return;
  if (code === 0) return markSent(entry, frame);
  if (entry === inFlight) onRefused(code, frame);
}

// What to do with the message in flight after an error.
function onRefused(code, frame) {
  const entry = inFlight;
  if (ENDED.has(code)) return endSession();
  if (!TRANSIENT.has(code)) return markFailed(entry, describe(code, frame), code);
  releaseFlight();
  // The server may have forgotten who we are, and nobody is left to tell it.
  if (code === UNKNOWN && (entry.waits ?? 0) >= 2) socket?.close();
  if (code === INTERNAL && !countTry(entry, describe(code, frame))) return;
  entry.waits = (entry.waits ?? 0) + 1;
  if (entry.waits > 1) showNote(`${describe(code, frame)} — trying again`);
  hold(Math.max(backoff(entry.waits), Math.min(Number(plain(frame.RETRY)) || 0, MAX_RETRY_MS)));
}

function describe(code, frame) {
  if (typeof frame.ERMSG === "string" && frame.ERMSG) return frame.ERMSG.replace(/[.\s]+$/, "");
  return `the server answered with error ${code}`;
}

// ---- receiving

const seen = new Set();

// Delivery is at least once: a message may come again after a reconnect.
function firstSight(mid) {
  if (!mid) return true;
  if (seen.has(mid)) return false;
  seen.add(mid);
  if (seen.size > MAX_SEEN) seen.delete(seen.values().next().value);
  return true;
}

function onIncoming(frame) {
  if (!Array.isArray(frame.MSG)) return;
  // A frame before this one was lost: ask for it. It comes again, and this one after it.
  if (frame.PREV && !isBeyond(plain(frame.PREV))) return askAgain();
  for (const item of frame.MSG) {
    if (item && typeof item === "object") receive(item);
  }
  acknowledge(frame);
  settle();
}

// ---- acknowledging: until then the server keeps what it has sent

let lastMid = "";
let lastPos = "";
let unacknowledged = 0;
let ackedAt = 0;
let ackTimer;

// Whether we have got what stood at that place: `run.number`, counted within a run.
function isBeyond(pos) {
  const [run, number] = pos.split(".");
  const [ourRun, ourNumber] = lastPos.split(".");
  return run === ourRun && Number(ourNumber) >= Number(number);
}

// One ack stands for all before it. The first one goes at once, the next ones together; but the server waits for
// room after many.
function acknowledge(frame) {
  const mid = plain(frame.MSG.at(-1)?.mId);
  if (!mid) return;
  lastMid = mid;
  lastPos = plain(frame.POS);
  unacknowledged += frame.MSG.length;
  clearTimeout(ackTimer);
  const wait = ackedAt + ACK_MS - now();
  if (unacknowledged >= ACK_AT_ONCE || wait <= 0) sendAck();
  else ackTimer = setTimeout(sendAck, wait);
}

// What can't be sent is acknowledged when it comes again.
function sendAck() {
  if (!unacknowledged || socket?.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify({ action: "ack", mId: lastMid, pos: lastPos || undefined }));
  unacknowledged = 0;
  ackedAt = now();
}

// Says what we have, too: a frame that was lost may be an old one.
function askAgain() {
  if (socket?.readyState !== WebSocket.OPEN) return;
  const known = lastMid && { mId: lastMid, pos: lastPos || undefined };
  socket.send(JSON.stringify({ action: "ack", again: true, ...known }));
}

// Whoever leaves has seen what is here.
addEventListener("pagehide", sendAck);

function receive(item) {
  const mid = plain(item.mId);
  const from = plain(item.uId);
  const message = { mid, from, text: plain(item.msg), time: validTime(item.msgTime) };
  if (!from || !firstSight(mid)) return;
  if (from === other) {
    showIncoming(message);
    pulse("in");
  } else {
    setAsides([...asides, message]);
  }
  if (document.hidden) unread++;
  updateTitle();
}

// An error that belongs to no message. With a send in flight it most likely
// means that send, so it is handled like a refusal.
function onError(frame) {
  const code = errorCode(frame);
  if (ENDED.has(code)) return endSession();
  if (inFlight) return onRefused(code, frame);
  showNote(describe(code, frame));
}

// The managed edge answers in its own shape when the code behind it broke.
function onEdgeError(frame) {
  if (inFlight) onRefused(INTERNAL, { ERMSG: frame.message });
}

function onFrame(data) {
  let frame;
  try {
    frame = JSON.parse(data);
  } catch {
    return;
  }
  if (!frame || typeof frame !== "object") return;
  if (frame.event === "RESPSEND") onSendAnswer(frame);
  else if (frame.event === "RESPRECEIVER") onIncoming(frame);
  else if (frame.event === "RESPERROR") onError(frame);
  else if (frame.event === undefined && typeof frame.message === "string") onEdgeError(frame);
}

// ---- the connection

let socket = null;
let attempt = 0; // connections in a row that did not last
let neverOpened = 0; // of these, handshakes that failed
let connectTimer; // next attempt, or the limit of the running handshake
let countdownTimer;
let sessionEnded = false;

function setStatus(state, text) {
  clearInterval(countdownTimer);
  $("countdown").textContent = "";
  $("status").dataset.state = state;
  page.dataset.link = state;
  // Writing the same text again would make a screen reader repeat it.
  if ($("status-text").textContent !== text) $("status-text").textContent = text;
}

// Only the word is announced; the seconds tick for the eye alone.
function showCountdown(until) {
  const tick = () => {
    const seconds = Math.ceil((until - now()) / 1000);
    $("countdown").textContent = seconds > 0 ? ` in ${seconds} s` : "";
  };
  tick();
  countdownTimer = setInterval(tick, 1000);
}

function connect() {
  if (sessionEnded) return;
  clearTimeout(connectTimer);
  setStatus("connecting", attempt ? "Reconnecting" : "Connecting…");
  try {
    socket = new WebSocket(url, ["kschat.v2", `bearer.${token}`]);
  } catch {
    return endSession("This page was opened without a valid session — reload the page.");
  }
  connectTimer = setTimeout(giveUp, ANSWER_MS);
  listen(socket);
}

// Events of a socket that was replaced meanwhile must not touch the new one.
function listen(current) {
  let openedAt = 0;
  const when = (handler) => (event) => current === socket && handler(event);
  current.addEventListener("open", when(() => {
    openedAt = now();
    onOpen();
  }));
  current.addEventListener("message", when((event) => onFrame(event.data)));
  current.addEventListener("close", when(() => onClose(openedAt)));
}

function onOpen() {
  clearTimeout(connectTimer);
  neverOpened = 0;
  $("banner").hidden = true;
  setStatus("connected", "Connected");
  pump();
}

function onClose(openedAt) {
  drop();
  if (sessionEnded) return;
  if (openedAt && now() - openedAt > STABLE_MS) attempt = 0;
  if (!openedAt && navigator.onLine) neverOpened++;
  connectLater();
}

function connectLater() {
  // A browser does not say why a handshake failed, so this is only a guess.
  if (neverOpened >= HINT_AFTER) {
    showBanner("Still not connected. Your session may have ended — reloading the page starts a new one.");
  }
  clearTimeout(connectTimer);
  const delay = backoff(attempt++);
  if (navigator.onLine) setStatus("connecting", "Reconnecting");
  else setStatus("offline", "Offline");
  if (delay > 1000) showCountdown(now() + delay);
  connectTimer = setTimeout(connect, delay);
}

// Lets go of the connection, whatever its state. The message in flight goes
// first again on the next one, with the same rno.
function drop() {
  const old = socket;
  socket = null;
  releaseFlight();
  old?.close();
}

function giveUp() {
  if (socket?.readyState === WebSocket.CONNECTING) neverOpened++;
  drop();
  connectLater();
}

function endSession(text = "Your session has ended — reload the page.") {
  sessionEnded = true;
  releaseFlight();
  clearTimeout(connectTimer);
  setStatus("offline", "Session ended");
  showBanner(text);
}

function hurry() {
  if (sessionEnded || socket) return;
  attempt = 0;
  connect();
}

// A connection that was open while the network went away is rarely alive.
function onOnline() {
  if (sessionEnded) return;
  attempt = 0;
  drop();
  connect();
}

function onOffline() {
  if (!socket && !sessionEnded) setStatus("offline", "Offline");
}

// ---- the composer

const input = $("msg");

const draft = () => wellFormed(input.value).replace(/^\s*\n/, "").trimEnd();

// Quiet until the limit is near; the button is off when it is passed.
function checkSize() {
  const text = draft();
  const room = MAX_MESSAGE_BYTES - (text.length * 6 < MAX_MESSAGE_BYTES ? 0 : sizeOf(text));
  const kib = (bytes) => `${(Math.ceil(Math.abs(bytes) / 102.4) / 10).toFixed(1)} KiB`;
  $("send").disabled = !text || room < 0;
  $("size").classList.toggle("over", room < 0);
  if (room < 0) $("size").textContent = `Too long by ${kib(room)}. Please send it in parts.`;
  else $("size").textContent = room < 4096 ? `${kib(room)} left` : "";
}

function onInput() {
  input.style.height = "auto"; // else it would never shrink
  input.style.height = `${input.scrollHeight + 2}px`;
  checkSize();
}

function onSubmit(event) {
  event.preventDefault();
  checkSize();
  if ($("send").disabled) return;
  const text = draft();
  input.value = "";
  onInput();
  addOwn({ rno: freshRno(), text, time: Math.floor(now() / 1000) });
  scrollDown();
  updateJump();
  input.focus();
}

// Enter that picks a word in an input method must not send.
function onKey(event) {
  const composing = event.isComposing || event.keyCode === 229;
  if (event.key !== "Enter" || event.shiftKey || composing) return;
  event.preventDefault();
  $("composer").requestSubmit();
}

// ---- start

function onVisible() {
  if (document.hidden) return;
  unread = 0;
  updateTitle();
  renameDays();
  hurry(); // timers of hidden pages are slow
}

function nameEverything() {
  $("other-name").textContent = other;
  $("my-name").textContent = me;
  for (const [id, name] of [["other-avatar", other], ["my-avatar", me]]) {
    $(id).textContent = initial(name);
    $(id).classList.add(tone(name));
  }
  $("empty-lead").textContent = `Say hello to ${other}`;
  $("msg-label").textContent = `Message to ${other}`;
  log.setAttribute("aria-label", `Messages with ${other}`);
  updateTitle();
}

function wireEvents() {
  $("composer").addEventListener("submit", onSubmit);
  input.addEventListener("input", onInput);
  input.addEventListener("keydown", onKey);
  log.addEventListener("scroll", onScroll, { passive: true });
  jump.addEventListener("click", () => {
    scrollDown();
    updateJump();
    input.focus();
  });
  $("reload").addEventListener("click", () => location.reload());
  document.addEventListener("visibilitychange", onVisible);
  addEventListener("online", onOnline);
  addEventListener("offline", onOffline);
  // The keyboard of a phone or a growing composer must not hide the newest message.
  new ResizeObserver(() => following && scrollDown()).observe(log);
}

nameEverything();
wireEvents();
takeAsides();
for (const entry of load(OUTBOX_KEY)) addOwn(entry);
scrollDown();
onInput();
if (matchMedia("(pointer: fine)").matches) input.focus();
connect();
