// Search in the messages that this browser stores; loaded with the first search.

import { addressOf, newestFirst, titleOf } from "./list.js";
import { fullTime, shortTime, t } from "./texts.js";
import { $, make } from "./words.js";

const MAX_FOUND = 50; // the newest
const LEAD = 24; // characters before the match
const PREVIEW = 160; // characters of a message
const PAUSE_MS = 150;

const list = make("ul");
list.setAttribute("aria-label", t("foundTitle"));
const section = make("section", "found", make("h2", "", t("foundTitle")), list, make("p", "hint", t("foundHint")));
section.hidden = true;
$("lists").append(section);

const byTime = (a, b) => b.time - a.time;
const lower = (text) => text.toLowerCase();

/** The text around the match, which is marked. */
function excerpt(text, words) {
  const line = text.replace(/\s+/gu, " ");
  const at = lower(line).indexOf(words);
  // Lower case may have another length.
  if (at < 0 || lower(line).length !== line.length) return [line.slice(0, PREVIEW)];
  const end = at + words.length;
  const start = at > LEAD ? at - LEAD : 0;
  return [(start ? "…" : "") + line.slice(start, at), make("mark", "", line.slice(at, end)), line.slice(end, end + PREVIEW)];
}

function build(message, words, open) {
  const { conv, time, text } = message;
  const stamp = make("time", "", shortTime(time));
  stamp.title = fullTime(time);
  const link = make("a", "", make("span", "row-top", make("bdi", "row-name", titleOf(conv)), stamp), make("bdi", "row-text", ...excerpt(text, words)));
  link.href = addressOf(conv);
  link.addEventListener("click", (event) => event.ctrlKey || event.metaKey || open(message));
  return make("li", "", link);
}

let current;

/** The newest messages that contain the words, or nothing if another search has begun. */
async function search(history, words) {
  const own = (current = {});
  let found = [];
  for (const { conv, at } of newestFirst()) {
    if (found.length === MAX_FOUND && found.at(-1).time > at) break;
    const all = await history.after({ conv, time: 0 });
    if (own !== current) return null;
    const here = all.filter(({ text }) => lower(text).includes(words));
    found = [...found, ...here].sort(byTime).slice(0, MAX_FOUND);
  }
  return found;
}

/** Shows the messages that contain what is searched, below the conversations; `open(message)` shows one of them. */
async function show(history, open) {
  const words = lower($("search").value.trim());
  const found = words ? await search(history, words) : (current = []);
  if (!found) return;
  list.replaceChildren(...found.map((message) => build(message, words, open)));
  section.hidden = !words;
  $("announce").textContent = words ? t("found", { n: found.length }) : "";
}

let waiting;

/** The same once the user pauses. */
export function find(history, open) {
  clearTimeout(waiting);
  waiting = setTimeout(() => show(history, open), PAUSE_MS);
}
