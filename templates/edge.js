// The developer page of the local edge. It polls for new entries every second and shows them. Frames may hold anything,
// so they are inserted as text only.

import { $, make, setText, tone } from "./words.js";

const POLL_MS = 1000;
const RETRY_MS = 5000;
const MAX_ROWS = 1000; // rows in the page
const MAX_KEPT = 5000; // events kept for the filters
const MAX_TEXT = 400; // characters of a frame that the edge sends

const KINDS = {
  __proto__: null, connect: "→", message: "→", disconnect: "→", authorize: "→", out: "←", push: "←",
  describe: "·", delete: "·", close: "×", fault: "▲",
};
const MARKS = { __proto__: null, ok: "✓", refused: "⊘", failed: "✕", lost: "?" };

// ---- helpers

const on = (id, type, handler) => $(id).addEventListener(type, handler);

function makeButton(text, onclick, className = "") {
  return Object.assign(make("button", className, text), { onclick });
}

// Keeps one node per item, so focus is preserved.
function keyed(parent, key, build) {
  const shown = new Map();
  return (items) => {
    const keys = new Set(items.map((item) => item[key]));
    for (const [old, { node }] of shown) {
      if (!keys.has(old) && shown.delete(old)) node.remove();
    }
    items.forEach((item, index) => {
      if (!shown.has(item[key])) shown.set(item[key], build(item));
      const { node, fill } = shown.get(item[key]);
      fill(item);
      if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index]);
    });
  };
}

const number = (value) => Number(value).toLocaleString();
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const some = (count, word) => (count ? `${number(count)} ${word}` : "");
const joined = (...parts) => parts.filter(Boolean).join(" · ");

function clock(iso) {
  const at = new Date(iso);
  return `${at.toTimeString().slice(0, 8)}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

function span(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1) return `${Math.max(0, Math.floor(seconds))} s`;
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${some(minutes % 60, "min")}`.trim();
}

function sizeOf({ bytes }) {
  if (bytes === null) return "";
  return bytes < 1024 ? `${bytes} B` : `${(bytes / 1024).toFixed(1)} KB`;
}

function timeOf({ millis }) {
  if (millis === null) return "";
  return millis < 1000 ? `${millis.toFixed(1)} ms` : `${(millis / 1000).toFixed(2)} s`;
}

const dot = (id) => make("span", `dot ${tone(id)}`);

// Bidirectional control characters would reverse the row.
function harmless(text) {
  return text.replace(/\p{Bidi_Control}/gu, (char) => `\\u${char.charCodeAt(0).toString(16)}`);
}

// Indents without parsing: that also works for a truncated frame, and neither rounds nor drops anything.
function indent(text) {
  let depth = 0;
  const line = () => `\n${"  ".repeat(Math.min(depth, 12))}`;
  return text.replace(/"(?:[^"\\]|\\.)*"?|[[{]\s*[\]}]|[[{\]},:]|\s+/gs, (part) => {
    if (/^[[{]$/.test(part)) depth++;
    else if (/^[\]}]$/.test(part)) return (depth = Math.max(0, depth - 1)), line() + part;
    else if (part !== ",") return part === ":" ? ": " : part.trim();
    return part + line();
  });
}

function isJson(text) {
  try {
    return typeof JSON.parse(text) === "object";
  } catch {
    return false;
  }
}

// ---- state and filters

let started = null;
let seq = 0;
let kept = []; // events, oldest first
const chosen = new Set(); // kinds, or "problems"
let only = null; // a connection id
let words = "";
let pausedAt = null; // the last event shown while paused

const filtering = () => Boolean(chosen.size || only || words);

function fits(entry) {
  if (entry.gap) return !filtering();
  const problems = chosen.has("problems");
  if (problems && entry.outcome === "ok" && entry.kind !== "fault") return false;
  if (chosen.size > Number(problems) && !chosen.has(entry.kind)) return false;
  if (only && entry.connectionId !== only) return false;
  return !words || Object.values(entry).join("\n").toLowerCase().includes(words);
}

function setOnly(id) {
  only = id;
  refilter();
}

function clearFilters() {
  chosen.clear();
  words = $("find").value = "";
  setOnly(null);
  $("find").focus();
}

function refilter() {
  for (const chip of $("kinds").children) chip.ariaPressed = chosen.has(chip.value);
  for (const button of document.querySelectorAll(".connection")) button.ariaPressed = button.value === only;
  $("only").hidden = !only;
  $("only").ariaLabel = `Show all connections again, not only ${only}`;
  setText($("only"), `✕ ${only}`);
  redraw();
}

function addChip(value, text = value) {
  const chip = makeButton(text, () => {
    if (!chosen.delete(value)) chosen.add(value);
    refilter();
  });
  $("kinds").append(Object.assign(chip, { value, ariaPressed: false }));
}

// ---- the stream

const rows = $("rows");
const stream = $("stream");

function buildRow(entry) {
  if (entry.gap) return make("li", "gap", `${plural(entry.gap, "event")} missed: the edge keeps only the last ones`);
  const details = make("details", "", buildSummary(entry));
  details.addEventListener("toggle", () => details.children[1] || details.append(buildInside(entry)));
  return make("li", entry.outcome in MARKS ? entry.outcome : "", details);
}

function buildSummary(entry) {
  const { connectionId: id, kind, outcome } = entry;
  return make(
    "summary", "row",
    make("span", "time", clock(entry.at)),
    make("span", "kind", make("i", "", KINDS[kind] ?? "·"), kind),
    make("span", "conn mono", ...(id ? [dot(id), id.slice(0, 8)] : [])),
    buildWhat(entry),
    make("span", "size", sizeOf(entry)),
    make("span", "took", timeOf(entry)),
    make("span", "result", `${MARKS[outcome] ?? "•"} ${outcome} ${entry.status ?? ""}`),
  );
}

// The error is more useful than the frame that caused it.
function buildWhat({ route, target, outcome, text, note }) {
  const said = (outcome === "ok" ? text || note : note || text) ?? "";
  const way = [route, target].filter(Boolean).join(" → ");
  return make("span", "what", make("b", "", way), way && " ", make("bdi", "", harmless(said.slice(0, 240))));
}

function buildInside(entry) {
  const { connectionId: id, text, note } = entry;
  const facts = make("p", "facts");
  const { seq: event, route, target } = entry;
  const all = { event, connection: id, route, target, took: timeOf(entry), size: sizeOf(entry) };
  for (const [name, value] of Object.entries(all)) {
    if (value) facts.append(make("span", "", `${name} `, make("b", "", value)));
  }
  if (id) facts.append(makeButton("Only this connection", () => setOnly(id)));
  const inside = make("div", "inside", facts);
  if (note) inside.append(make("p", "", harmless(note)));
  if (text) inside.append(...buildFrame(text, entry));
  return inside;
}

function buildFrame(text, entry) {
  const cut = text.length >= MAX_TEXT && entry.bytes > new TextEncoder().encode(text).length;
  const json = cut ? /^\s*[{[]/.test(text) : isJson(text);
  const frame = make("pre", "", harmless(json ? indent(text) : text));
  frame.tabIndex = 0;
  return cut ? [frame, make("p", "faint", `Only the beginning: the frame has ${sizeOf(entry)}.`)] : [frame];
}

// The newest is on top. A reader who scrolled down keeps the view.
function prepend(entries) {
  const fragment = document.createDocumentFragment();
  for (const entry of entries.slice(-MAX_ROWS)) fragment.prepend(buildRow(entry));
  const { scrollTop, scrollHeight } = stream;
  rows.prepend(fragment);
  if (scrollTop > 0) stream.scrollTop = scrollTop + stream.scrollHeight - scrollHeight;
  while (rows.childElementCount > MAX_ROWS) rows.lastChild.remove();
  describeStream();
}

function redraw() {
  rows.replaceChildren();
  stream.scrollTop = 0;
  prepend(kept.filter((entry) => entry.seq <= (pausedAt ?? seq) && fits(entry)));
}

function take(entries, lost) {
  const fresh = entries.filter((entry) => entry.seq > seq);
  if (lost > 0) fresh.unshift({ seq: seq + 0.5, gap: lost });
  seq = Math.floor(fresh.at(-1)?.seq ?? seq);
  kept = kept.concat(fresh).slice(-MAX_KEPT);
  prepend(pausedAt === null ? fresh.filter(fits) : []);
}

function describeStream() {
  const shown = rows.childElementCount;
  const waiting = pausedAt === null ? 0 : kept.filter((entry) => entry.seq > pausedAt && fits(entry)).length;
  const count = filtering() ? `${number(shown)} of ${number(kept.length)}` : some(shown, "shown");
  setText($("events-count"), joined(count, some(waiting, "newer")));
  setText($("pause"), pausedAt === null ? "Pause" : "Resume");
  $("no-events").hidden = shown > 0;
  $("clear").hidden = !filtering();
  setText($("no-events-lead"), filtering() ? "No event fits the filters" : "No events until a client connects");
}

function togglePause() {
  pausedAt = pausedAt === null ? seq : null;
  $("pause").classList.toggle("main", pausedAt !== null);
  if (pausedAt === null) redraw();
  else describeStream();
}

// Arrow keys move through the rows: quicker than tabbing.
function onArrow(event) {
  const step = { ArrowDown: "nextSibling", ArrowUp: "previousSibling" }[event.key];
  const next = step && event.target.closest("summary")?.closest("li")[step]?.querySelector("summary");
  if (!next) return;
  event.preventDefault();
  next.focus();
}

// ---- totals and connections

const showTiles = keyed($("totals"), 0, ([name]) => {
  const [main, side] = [make("dd", ""), make("dd", "more")];
  const fill = ([, value, bad, more]) => {
    setText(main, number(value));
    setText(side, joined(bad, more));
    side.classList.toggle("bad", Boolean(bad));
  };
  return { node: make("div", "tile", make("dt", "", name), main, side), fill };
});

function showTotals(totals) {
  showTiles([
    ["Connections", totals.connections, "", some(totals.connecting, "connecting")],
    ["Accepted", totals.accepted, some(totals.refused, "refused")],
    ["Frames in", totals.framesIn],
    ["Frames out", totals.framesOut],
    ["Pushes", totals.pushes, some(totals.pushesRefused, "refused")],
    ["Function calls", totals.invocations, some(totals.failures, "failed"), some(totals.inFlight, "running")],
  ]);
}

const showConnections = keyed($("connections"), "connectionId", ({ connectionId: id }) => {
  const [age, state, line] = [make("span", "age"), make("span", "line"), make("span", "line")];
  const button = makeButton(dot(id), () => setOnly(only === id ? null : id), "connection");
  button.append(make("span", "id mono", id), age, state, line);
  Object.assign(button, { value: id, ariaPressed: id === only });
  const fill = (item) => {
    setText(age, span(item.age));
    setText(state, joined(
      item.state, `${number(item.framesIn)} in`, `${number(item.framesOut)} out`,
      some(item.waiting, "waiting"), some(item.inFlight, "running"), `quiet ${span(item.quiet)}`));
    setText(line, joined(item.subprotocol, item.compressed && "compressed", item.sourceIp, item.userAgent));
    line.title = line.textContent;
  };
  return { node: make("li", "", button), fill };
});

function showClients({ connections, totals, stage, now }) {
  // By the edge's own clock, not the browser's.
  const since = (iso) => (Date.parse(now) - Date.parse(iso)) / 1000;
  showConnections(connections.map((item) => ({ ...item, age: since(item.connectedAt), quiet: since(item.lastActiveAt) })));
  const { length } = connections;
  setText($("connections-count"), totals.connections > length ? `the newest ${length} of ${number(totals.connections)}` : "");
  $("connections").hidden = !length;
  $("nobody").hidden = length > 0;
  const { protocol, host } = location;
  setText($("ws-url"), `${protocol.replace("http", "ws")}//${host}/${stage}`);
  setText($("refused"), totals.refused ? `${plural(totals.refused, "client")} refused: the events say why.` : "");
  setText($("post-url"), `${protocol}//${host}/${stage}/@connections/{id}`);
  $("hint").hidden = !length || totals.pushes + totals.pushesRefused > 0;
}

// ---- faults

// Returns whether the edge has done it.
async function change(method, path = "", body) {
  const headers = body && { "content-type": "application/json" };
  const answer = await fetch(`/_edge/faults${path}`, { method, headers, body }).catch(() => null);
  const said = answer?.ok ? { message: "" } : await answer?.json().catch(() => null);
  setProblem(said?.message ?? `The edge did not do it: ${answer?.status ?? "no answer"}`);
  poll();
  return answer?.ok;
}

function setProblem(text) {
  setText($("problem"), text);
  $("rule").ariaInvalid = text ? true : null;
}

async function onSubmit(event) {
  event.preventDefault();
  const rule = $("rule").value.trim();
  $("rule").value = ""; // pressing Enter twice must not add two rules
  if (!(await change("POST", "", JSON.stringify({ rule })))) tryRule(rule);
}

function tryRule(rule) {
  $("rule").value = rule;
  $("rule").focus();
}

// The button disappears, so focus moves.
function switchOff(path) {
  $("faults-title").focus();
  change("DELETE", path);
}

const showRules = keyed($("faults"), "id", ({ id, rule }) => {
  const off = makeButton("Off", () => switchOff(`/${id}`));
  off.ariaLabel = `Switch off ${rule}`;
  const hits = make("span", "faint");
  const fill = (fault) => setText(hits, joined(plural(fault.hits, "hit"), fault.left === null ? "" : `${fault.left} left`));
  return { node: make("li", "", make("code", "", rule), hits, off), fill };
});

function showFaults(faults) {
  showRules(faults);
  const acting = faults.filter(({ left }) => left !== 0);
  const rules = acting.map(({ rule }) => rule).join(", ");
  setText($("alarm"), rules && `${plural(acting.length, "fault")} on: ${rules}`);
  $("alarm-off").hidden = !rules;
}

// ---- polling

let timer;
let asking = false;

function setStatus(state, text) {
  $("status").className = state;
  setText($("status"), text);
}

async function poll() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  timer = setTimeout(poll, await ask());
  asking = false;
}

// Returns the delay until the next poll.
async function ask() {
  try {
    const answer = await fetch(`/_edge/state?after=${seq}`, { cache: "no-store", signal: AbortSignal.timeout(RETRY_MS) });
    const state = await answer.json();
    setText($("banner"), "");
    if (started && started !== state.started) return startOver();
    show(state);
    return POLL_MS;
  } catch (error) {
    console.info(error);
    setStatus("offline", "No answer");
    setText($("banner"), "The edge does not answer; trying again");
    return RETRY_MS;
  }
}

function show(state) {
  started = state.started;
  setStatus("live", `Live · stage ${state.stage} · started ${clock(started).slice(0, 8)}`);
  const { idleSeconds, lifetimeSeconds, timeScale } = state.limits;
  setText($("limits"), joined(
    `Connections end after ${span(idleSeconds)} of silence, or ${span(lifetimeSeconds)} in all`,
    timeScale === 1 ? "" : `time runs ×${timeScale}`));
  showTotals(state.totals);
  showClients(state);
  showFaults(state.faults);
  take(state.entries, state.lost);
  $("main").hidden = false; // not before there is something to show
}

// The edge has restarted: reload everything at once.
function startOver() {
  started = only = pausedAt = null;
  seq = 0;
  kept = [];
  $("pause").classList.remove("main");
  refilter();
  return 0;
}

// ---- start

let typing;

function onFind() {
  clearTimeout(typing);
  typing = setTimeout(() => {
    words = $("find").value.trim().toLowerCase();
    redraw();
  }, 120);
}

addChip("problems", "Problems");
for (const kind in KINDS) addChip(kind);
for (const button of $("examples").children) button.onclick = () => tryRule(button.textContent);
on("find", "input", onFind);
on("pause", "click", togglePause);
on("only", "click", () => {
  setOnly(null);
  stream.focus(); // the button is gone
});
on("clear", "click", clearFilters);
on("rows", "keydown", onArrow);
on("fault-form", "submit", onSubmit);
on("rule", "input", () => setProblem(""));
on("alarm-off", "click", () => switchOff(""));
document.addEventListener("visibilitychange", poll);
poll();
