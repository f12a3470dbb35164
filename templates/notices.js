// What the page says of its connection, and what it asks in a dialog.

import { $ } from "./words.js";

const SHOW_LOSS_MS = 1_500; // a connection that is lost for less is not worth a word
const HINT_AFTER = 6; // attempts
const MAX_ID_BYTES = 128;

const WORDS = {
  connecting: "Connecting", connected: "Connected", waiting: "Reconnecting", offline: "Offline", ended: "Signed out",
  closed: "Signed out",
};

let lossTimer;
let countdown;

/** A word at the top, with something that can be done. */
export function banner(words, action, act) {
  if ($("banner-text").textContent !== words) $("banner-text").textContent = words;
  $("banner-do").textContent = action;
  $("banner-do").onclick = act;
  $("banner").hidden = false;
}

/** Tells how the connection is; `hurry` tries again at once, `canRenew` says whether tokens are fetched. */
export function tellConnection({ state, attempt = 0, retryAt = 0, reason }, { hurry, canRenew }) {
  document.querySelector(".app").dataset.link = $("status").dataset.state = state;
  // Writing the same text again would make a screen reader repeat it.
  if ($("status").textContent !== WORDS[state]) $("status").textContent = WORDS[state];
  clearInterval(countdown);
  if (state === "connected" || WORDS[state] === WORDS.ended) {
    clearTimeout(lossTimer);
    lossTimer = undefined;
    if (state === "connected") $("banner").hidden = true;
    else banner(`You are signed out: ${reason ?? state}.`, "Reload", () => location.reload());
    return;
  }
  const tell = () => tellLoss(state, attempt, retryAt, { hurry, canRenew });
  lossTimer ??= setTimeout(tell, SHOW_LOSS_MS);
  if (!$("banner").hidden || attempt >= HINT_AFTER) tell();
}

function tellLoss(state, attempt, retryAt, { hurry, canRenew }) {
  // A browser does not say why a handshake failed, so this is only a guess.
  const words = state === "offline"
    ? "You are offline. What you write is sent when you are back."
    : attempt >= HINT_AFTER && !canRenew
      ? "Still not connected. Your session may have ended: reload the page to start a new one."
      : "No connection. What you write is sent as soon as there is one.";
  banner(words, "Try now", hurry);
  const tick = () => {
    const seconds = Math.ceil((retryAt - Date.now()) / 1000);
    $("banner-do").textContent = seconds > 1 ? `Try now (${seconds} s)` : "Try now";
  };
  clearInterval(countdown);
  tick();
  if (retryAt) countdown = setInterval(tick, 1000);
}

// ---- the dialog

let onAnswer = () => {};

/** Asks for an id; `act(name, kind)` may fail, which is told. */
export function ask({ title, label, ok, rooms = false, act }) {
  $("dialog-title").textContent = title;
  $("dialog-label").textContent = label;
  $("dialog-ok").textContent = ok;
  $("dialog-name").value = $("dialog-problem").textContent = "";
  $("kind").hidden = !rooms;
  document.querySelector("[name=kind]").checked = true;
  onAnswer = act;
  $("dialog").showModal();
  $("dialog-name").focus();
}

async function onSubmit(event) {
  event.preventDefault();
  const name = $("dialog-name").value.trim();
  const kind = document.querySelector("[name=kind]:checked").value;
  try {
    if (new TextEncoder().encode(name).length > MAX_ID_BYTES) throw new Error("this is too long");
    if (name) await onAnswer(name, kind);
    $("dialog").close();
  } catch (error) {
    $("dialog-problem").textContent = `That did not work: ${error.message}`;
  }
}

$("dialog-form").addEventListener("submit", onSubmit);
$("dialog-cancel").addEventListener("click", () => $("dialog").close());
