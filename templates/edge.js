// The developer page of the local edge. It asks for what is new every second
// and shows it. Frames may hold anything, so all text goes in as text.

const POLL_MS = 1000;
const RETRY_MS = 5000;
const MAX_ROWS = 1000; // rows in the page
const MAX_KEPT = 5000; // events kept for the filters
const MAX_TEXT = 400; // characters of a frame that the edge sends

const WAYS = {
  connect: "in", message: "in", disconnect: "in", authorize: "in", out: "out", push: "out",
  describe: "api", delete: "api", close: "end", fault: "fault",
};
const MARKS = { ok: "✓", refused: "⊘", failed: "✕", lost: "?" };

// ---- small tools

const $ = (id) => document.getElementById(id);

function make(tag, className, ...content) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...content.filter((part) => part !== null && part !== undefined));
  return node;
}

function makeButton(className, text, onClick) {
  const button = make("button", className, text);
  button.type = "button";
  button.addEventListener("click", onClick);
  return button;
}

// Writing the same text again would disturb selections and screen readers.
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const list = (value) => (Array.isArray(value) ? value : []);
const number = (value) => (Number(value) || 0).toLocaleString("en").replaceAll(",", "\u202f");
const many = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const joined = (...parts) => parts.filter(Boolean).join(" · ");
const pad = (value, width = 2) => String(value).padStart(width, "0");

function clock(iso) {
  const at = new Date(iso);
  if (isNaN(at)) return "";
  return `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}.${pad(at.getMilliseconds(), 3)}`;
}

function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds)) || 0;
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  const minutes = Math.floor((whole % 3600) / 60);
  return `${Math.floor(whole / 3600)} h${minutes ? ` ${minutes} min` : ""}`;
}

function bytes(count) {
  if (typeof count !== "number") return "";
  return count < 1024 ? `${count} B` : `${(count / 1024).toFixed(1)} KB`;
}

function took(millis) {
  if (typeof millis !== "number") return "";
  return millis < 1000 ? `${millis.toFixed(1)} ms` : `${(millis / 1000).toFixed(2)} s`;
}

// A connection always gets the same of six colours.
function dot(id) {
  let sum = 0;
  for (const char of id) sum = (sum * 31 + char.codePointAt(0)) % 9973;
  return make("span", `dot tone-${sum % 6}`);
}

// ---- JSON, also when it was cut: indents without parsing, so that nothing
// of what was sent is rounded, reordered or lost.

function isJson(text, cut) {
  if (!/^\s*[{[]/.test(text)) return false;
  if (cut) return true;
  try {
    return Boolean(JSON.parse(text));
  } catch {
    return false;
  }
}

function indent(text) {
  let depth = 0;
  const line = () => `\n${"  ".repeat(Math.min(depth, 12))}`;
  return text.replace(/"(?:[^"\\]|\\.)*"?|[[{]\s*[\]}]|[[{\]},:]|\s+/gs, (part) => {
    if (part === "{" || part === "[") return depth++, part + line();
    if (part === "}" || part === "]") return (depth = Math.max(0, depth - 1)), line() + part;
    if (part === ",") return part + line();
    if (part === ":") return ": ";
    return part.trim();
  });
}

// ---- what is known

const base = `${location.host}/`;
let started = null;
let stage = "";
let seq = 0;
let kept = []; // events, oldest first
let rates = null; // the totals before, for what happens in a second

// ---- filters

const kinds = new Set();
let problemsOnly = false;
let only = null; // a connection id
let words = "";
let pausedAt = null; // the last event that shows while paused

const known = (kind) => (Object.hasOwn(WAYS, kind) ? kind : "other");
const filtering = () => Boolean(kinds.size || problemsOnly || only || words);

function fits(entry) {
  if (entry.gap) return !filtering();
  if (kinds.size && !kinds.has(known(entry.kind))) return false;
  if (problemsOnly && entry.outcome === "ok" && entry.kind !== "fault") return false;
  if (only && entry.connectionId !== only) return false;
  return !words || haystack(entry).includes(words);
}

function haystack({ kind, connectionId, route, target, outcome, status, text, note }) {
  return [kind, connectionId, route, target, outcome, status, text, note].join("\n").toLowerCase();
}

function setOnly(id) {
  only = only === id ? null : id;
  refilter();
}

function clearFilters() {
  kinds.clear();
  problemsOnly = false;
  only = null;
  words = $("find").value = "";
  refilter();
}

function refilter() {
  for (const chip of $("kinds").children) {
    chip.setAttribute("aria-pressed", chip.value === "problems" ? problemsOnly : kinds.has(chip.value));
  }
  for (const node of $("connections").querySelectorAll("button")) {
    node.setAttribute("aria-pressed", node.value === only);
  }
  $("only").hidden = !only;
  write($("only"), only ? `✕ ${only}` : "");
  $("only").setAttribute("aria-label", `Show all connections again, not only ${only}`);
  redraw();
}

function addChip(value, text) {
  const chip = makeButton("", text, () => {
    if (value === "problems") problemsOnly = !problemsOnly;
    else if (!kinds.delete(value)) kinds.add(value);
    refilter();
  });
  chip.value = value;
  chip.setAttribute("aria-pressed", "false");
  $("kinds").append(chip);
}

// ---- the stream

const rows = $("rows");

function buildRow(entry) {
  if (entry.gap) return make("li", "gap", `${many(entry.gap, "event")} came and went unseen: the edge keeps only the last ones`);
  const summary = make("summary", "row", ...buildCells(entry));
  const details = make("details", "", summary);
  details.addEventListener("toggle", () => details.childElementCount > 1 || details.append(buildMore(entry)));
  const row = make("li", "", details);
  row.dataset.way = WAYS[known(entry.kind)] ?? "other";
  row.dataset.outcome = Object.hasOwn(MARKS, entry.outcome) ? entry.outcome : "other";
  return row;
}

function buildCells(entry) {
  const id = entry.connectionId;
  const mark = make("span", "", `${MARKS[entry.outcome] ?? "•"} `);
  mark.ariaHidden = "true";
  return [
    make("span", "time", clock(entry.at)),
    make("span", "kind", entry.kind),
    id ? make("span", "conn", dot(id), id.slice(0, 8)) : make("span", "conn"),
    buildWhat(entry),
    make("span", "size", bytes(entry.bytes)),
    make("span", "took", took(entry.millis)),
    make("span", "result", mark, [entry.outcome, entry.status].filter((part) => part ?? false).join(" ")),
  ];
}

// What went wrong says more than the frame it went wrong with.
function buildWhat({ route, target, outcome, text, note }) {
  const said = outcome === "ok" ? text || note : note || text;
  const way = [route, target].filter(Boolean).join(" → ");
  return make("span", "what", way ? make("b", "", way) : null, way && said ? " " : null, said ? make("bdi", "", said.slice(0, 240)) : null);
}

function buildMore(entry) {
  const { connectionId: id, text, note } = entry;
  const fact = (name, value) => (value ? make("span", "", `${name} `, make("b", "", value)) : null);
  const facts = make("p", "facts",
    fact("event", String(entry.seq)), fact("connection", id), fact("route", entry.route), fact("to", entry.target),
    fact("took", took(entry.millis)), fact("size", bytes(entry.bytes)),
    id ? makeButton("", "Only this connection", () => only === id || setOnly(id)) : null);
  const more = make("div", "more-of", facts, note ? make("p", "said", note) : null);
  if (text) more.append(...buildText(text, entry.bytes));
  return more;
}

function buildText(text, size) {
  const cut = text.length >= MAX_TEXT && size > new TextEncoder().encode(text).length;
  const frame = make("pre", "", isJson(text, cut) ? indent(text) : text);
  frame.tabIndex = 0;
  frame.setAttribute("aria-label", "Frame");
  frame.setAttribute("role", "group");
  return cut ? [frame, make("p", "faint", `This is the beginning; the frame has ${bytes(size)}.`)] : [frame];
}

// The newest is on top. Who has scrolled down keeps what is in view.
function prepend(entries) {
  const fragment = document.createDocumentFragment();
  for (const entry of entries.slice(-MAX_ROWS)) fragment.prepend(buildRow(entry));
  const { scrollTop, scrollHeight } = $("stream");
  rows.prepend(fragment);
  if (scrollTop > 0) $("stream").scrollTop = scrollTop + $("stream").scrollHeight - scrollHeight;
  while (rows.childElementCount > MAX_ROWS) rows.lastElementChild.remove();
}

const visible = () => kept.filter((entry) => (pausedAt === null || entry.seq <= pausedAt) && fits(entry));

function redraw() {
  rows.replaceChildren();
  $("stream").scrollTop = 0;
  prepend(visible());
  describeStream();
}

function take(entries, lost) {
  const fresh = entries.filter((entry) => entry?.seq > seq);
  if (!fresh.length) return;
  if (lost > 0) fresh.unshift({ seq: fresh[0].seq - 0.5, gap: lost });
  seq = fresh.at(-1).seq;
  kept = kept.concat(fresh).slice(-MAX_KEPT);
  if (fresh.some(({ gap, kind }) => !gap && known(kind) === "other") && !$("kinds").querySelector("[value=other]")) addChip("other", "other");
  if (pausedAt === null) prepend(fresh.filter(fits));
  describeStream();
}

function describeStream() {
  const shown = rows.childElementCount;
  write($("events-count"), filtering() ? `${number(shown)} of ${number(kept.length)}` : shown ? `last ${number(shown)}` : "");
  const waiting = pausedAt === null ? 0 : kept.filter((entry) => entry.seq > pausedAt && fits(entry)).length;
  write($("pause"), pausedAt === null ? "Pause" : waiting ? `Resume (${number(waiting)})` : "Resume");
  $("no-events").hidden = shown > 0;
  $("clear").hidden = !filtering();
  write($("no-events-lead"), filtering() ? "No event fits the filters" : "No events yet");
  write($("no-events-more"), filtering() ? "" : "They appear here as soon as a client connects.");
}

function togglePause() {
  pausedAt = pausedAt === null ? seq : null;
  $("pause").setAttribute("aria-pressed", pausedAt !== null);
  if (pausedAt === null) redraw();
  else describeStream();
}

// Arrow keys walk through the rows, which is quicker than tabbing.
function onArrow(event) {
  const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  if (!step || event.target.tagName !== "SUMMARY") return;
  let row = event.target.closest("li")[step];
  if (row?.className === "gap") row = row[step];
  if (!row) return;
  event.preventDefault();
  row.querySelector("summary").focus();
}

// ---- totals and connections

const tiles = new Map();

function tile(name, value, more, bad = false) {
  if (!tiles.has(name)) {
    const parts = [make("dd"), make("dd", "more")];
    $("totals").append(make("div", "", make("dt", "", name), ...parts));
    tiles.set(name, parts);
  }
  const [main, side] = tiles.get(name);
  write(main, number(value));
  write(side, more);
  side.toggleAttribute("data-bad", bad);
}

function perSecond(totals, now) {
  const seconds = rates ? (now - rates.now) / 1000 : 0;
  const before = rates?.totals;
  rates = { totals, now };
  return (name) => {
    const rate = seconds > 0 ? Math.round((totals[name] - before[name]) / seconds) : 0;
    return rate > 0 ? `${number(rate)}/s` : "";
  };
}

function showTotals(totals, now) {
  const rate = perSecond(totals, now);
  const count = (value, word) => (value ? `${number(value)} ${word}` : "");
  tile("Connections", totals.connections, count(totals.connecting, "connecting"));
  tile("Accepted", totals.accepted, count(totals.refused, "refused"), totals.refused > 0);
  tile("Frames in", totals.framesIn, rate("framesIn"));
  tile("Frames out", totals.framesOut, rate("framesOut"));
  tile("Pushes", totals.pushes, joined(count(totals.pushesRefused, "refused"), rate("pushes")), totals.pushesRefused > 0);
  tile("Function calls", totals.invocations, joined(count(totals.failures, "failed"), count(totals.inFlight, "running")), totals.failures > 0);
}

const shownConnections = new Map(); // id → its parts

function showConnections(connections, totals, now) {
  const present = new Set(connections.map(({ connectionId }) => connectionId));
  for (const [id, { item }] of shownConnections) {
    if (present.has(id)) continue;
    item.remove();
    shownConnections.delete(id);
  }
  // The order never changes, so only new ones move: focus stays where it is.
  let place = $("connections").firstElementChild;
  for (const connection of connections) {
    const parts = shownConnections.get(connection.connectionId) ?? buildConnection(connection);
    fillConnection(parts, connection, now);
    if (parts.item === place) place = place.nextElementSibling;
    else $("connections").insertBefore(parts.item, place);
  }
  write($("connections-count"), totals.connections > connections.length ? `the newest ${connections.length} of ${number(totals.connections)}` : "");
  $("nobody").hidden = connections.length > 0;
  write($("refused-hint"), totals.refused ? `${many(totals.refused, "handshake")} refused: the events say why.` : "");
}

function buildConnection({ connectionId: id }) {
  const [age, state, line] = [make("span", "age"), make("span", "line"), make("span", "line")];
  const button = makeButton("plain connection", dot(id), () => setOnly(id));
  button.append(make("span", "id mono", id), age, state, line);
  button.value = id;
  button.setAttribute("aria-pressed", id === only);
  const parts = { item: make("li", "", button), age, state, line };
  shownConnections.set(id, parts);
  return parts;
}

function fillConnection({ age, state, line }, connection, now) {
  const since = (iso) => span((now - Date.parse(iso)) / 1000);
  write(age, since(connection.connectedAt));
  write(state, joined(
    connection.state, `${number(connection.framesIn)} in`, `${number(connection.framesOut)} out`,
    connection.waiting ? `${connection.waiting} waiting` : "", connection.inFlight ? `${connection.inFlight} running` : "",
    `quiet for ${since(connection.lastActiveAt)}`));
  write(line, joined(connection.subprotocol, connection.compressed ? "compressed" : "", connection.sourceIp, connection.userAgent));
  line.title = line.textContent;
}

// ---- what to look at when nothing arrives

function showHint(totals) {
  const nobodyPosts = totals.connections > 0 && !totals.pushes && !totals.pushesRefused;
  if ($("hint").hidden === nobodyPosts) {
    $("hint").hidden = !nobodyPosts;
    const url = `${location.protocol}//${base}${stage}/@connections/{id}`;
    $("hint").replaceChildren("No pushes: nobody has posted to ", make("code", "", url), " yet.");
  }
}

// ---- faults

async function change(method, path = "", body = undefined) {
  const headers = body ? { "content-type": "application/json" } : {};
  try {
    const answer = await fetch(`/_edge/faults${path}`, { method, headers, body });
    // Somebody else may have taken the fault away already.
    if (answer.ok || (method === "DELETE" && answer.status === 404)) return showProblem("");
    const { message } = await answer.json().catch(() => ({}));
    showProblem(message ?? `The edge answered ${answer.status}.`);
  } catch {
    showProblem("The edge does not answer.");
  } finally {
    poll();
  }
}

function showProblem(text) {
  write($("rule-problem"), text);
  $("rule").toggleAttribute("aria-invalid", Boolean(text));
  if (text) $("rule").setAttribute("aria-invalid", "true");
}

async function onSubmit(event) {
  event.preventDefault();
  await change("POST", "", JSON.stringify({ rule: $("rule").value.trim() }));
  if ($("rule-problem").textContent) $("rule").focus();
  else $("rule").value = "";
}

const shownFaults = new Map(); // id → its parts

function showFaults(faults) {
  const present = new Set(faults.map(({ id }) => id));
  for (const [id, { item }] of shownFaults) {
    if (present.has(id)) continue;
    item.remove();
    shownFaults.delete(id);
  }
  for (const fault of faults) {
    const parts = shownFaults.get(fault.id) ?? buildFault(fault);
    write(parts.hits, joined(many(fault.hits, "hit"), fault.left === null ? "" : `${fault.left} left`));
  }
  const rules = faults.map(({ rule }) => rule);
  const named = rules.length > 3 ? `${rules.slice(0, 3).join(", ")}, …` : rules.join(", ");
  write($("alarm-text"), rules.length ? `${rules.length === 1 ? "A fault is" : `${rules.length} faults are`} on: ${named}` : "");
  $("alarm-off").hidden = !rules.length;
}

function buildFault({ id, rule }) {
  const off = makeButton("", "Off", () => change("DELETE", `/${encodeURIComponent(id)}`));
  off.setAttribute("aria-label", `Switch off ${rule}`);
  const hits = make("span");
  const parts = { item: make("li", "", make("code", "", rule), hits, off), hits };
  shownFaults.set(id, parts);
  $("faults").append(parts.item);
  return parts;
}

function buildExamples() {
  for (const { value, text } of $("examples").options) {
    const button = makeButton("", value, () => {
      $("rule").value = value;
      showProblem("");
      $("rule").focus();
    });
    button.title = text;
    $("example-buttons").append(button);
  }
}

// ---- asking

let timer;
let asking = false;

function setStatus(state, text) {
  $("status").dataset.state = state;
  write($("status"), text);
}

async function poll() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  let pause = POLL_MS;
  try {
    const answer = await fetch(`/_edge/state?after=${seq}`, { cache: "no-store", signal: AbortSignal.timeout(RETRY_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    if (!show(await answer.json())) pause = 0;
    write($("banner"), "");
  } catch (error) {
    // A broken answer is worth a look; that nobody answers is plain already.
    if (!(error instanceof TypeError && error.message.includes("fetch"))) console.warn(error);
    setStatus("offline", "No answer");
    write($("banner"), "The edge does not answer; trying again");
    pause = RETRY_MS;
  }
  asking = false;
  timer = setTimeout(poll, pause);
}

// Says false if all has to be asked for again, because the edge has started anew.
function show(state) {
  const again = started !== null && started !== state.started;
  if (again) startOver();
  started = state.started;
  if (again) return false;
  stage = String(state.stage);
  const now = Date.parse(state.now);
  setStatus("live", `Live · stage ${stage} · since ${clock(started).slice(0, 8)}`);
  showLimits(state.limits);
  showTotals(state.totals, now);
  showConnections(list(state.connections), state.totals, now);
  showFaults(list(state.faults));
  showHint(state.totals);
  write($("ws-url"), `${location.protocol.replace("http", "ws")}//${base}${stage}`);
  take(list(state.entries), state.lost);
  return true;
}

function showLimits({ idleSeconds, lifetimeSeconds, timeScale }) {
  const scale = timeScale === 1 ? "" : `time runs ×${timeScale}`;
  write($("limits"), joined(`closed after ${span(idleSeconds)} of silence`, `or ${span(lifetimeSeconds)} in all`, scale));
}

function startOver() {
  seq = 0;
  kept = [];
  rates = null;
  only = null;
  if (pausedAt !== null) togglePause();
  refilter();
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

function wireEvents() {
  $("find").addEventListener("input", onFind);
  $("pause").addEventListener("click", togglePause);
  $("only").addEventListener("click", () => setOnly(null));
  $("clear").addEventListener("click", clearFilters);
  rows.addEventListener("keydown", onArrow);
  $("fault-form").addEventListener("submit", onSubmit);
  $("rule").addEventListener("input", () => showProblem(""));
  $("alarm-off").addEventListener("click", () => change("DELETE"));
  document.addEventListener("visibilitychange", poll);
}

addChip("problems", "Problems");
for (const kind of Object.keys(WAYS)) addChip(kind, kind);
buildExamples();
wireEvents();
poll();
