// Connection status and the banner of the page.

import { problem, t } from "./texts.js";
import { $, setText } from "./words.js";

const SHOW_LOSS_MS = 1_500; // shorter losses are not shown
const HINT_AFTER = 6; // attempts

// Keys of texts.js.
const TEXTS = {
  connecting: "connecting", connected: "connected", waiting: "reconnecting", offline: "offline", ended: "signedOut",
  closed: "signedOut",
};

const REFUSALS = new Set(["refused", "token"]);

let lossTimer;
let countdown;

/** A banner at the top, with an optional action. */
export function banner(words, action, act) {
  setText($("banner-text"), words);
  $("banner-do").textContent = action;
  $("banner-do").onclick = act;
  $("banner").hidden = false;
}

/** A banner that the user closes. */
export function warn(words, closed = () => {}) {
  banner(words, t("close"), () => {
    $("banner").hidden = true;
    closed();
  });
}

/** Shows the connection state; `hurry` retries at once, `canRenew` says whether tokens are fetched. */
export function tellConnection({ state, attempt = 0, retryAt = 0, reason, code }, { hurry, canRenew }) {
  document.querySelector(".app").dataset.link = $("status").dataset.state = state;
  setText($("status"), t(TEXTS[state]));
  clearInterval(countdown);
  if (state === "connected" || TEXTS[state] === TEXTS.ended) {
    clearTimeout(lossTimer);
    lossTimer = undefined;
    if (state === "connected") $("banner").hidden = true;
    else tellEnd(code, problem({ code, message: reason }));
    return;
  }
  const tell = () => tellLoss(state, attempt, retryAt, { hurry, canRenew });
  lossTimer ??= setTimeout(tell, SHOW_LOSS_MS);
  if (!$("banner").hidden || attempt >= HINT_AFTER) tell();
}

function tellEnd(code, why) {
  banner(t(REFUSALS.has(code) ? "pageEnded" : "youEnded", { why }), t("reload"), () => location.reload());
}

function tellLoss(state, attempt, retryAt, { hurry, canRenew }) {
  // A browser gives no reason for a failed handshake, so this is a guess.
  const words = state === "offline"
    ? "offlineNow"
    : attempt >= HINT_AFTER && !canRenew ? "stillNot" : "noConnection";
  banner(t(words), t("tryNow"), hurry);
  const tick = () => {
    const seconds = Math.ceil((retryAt - Date.now()) / 1000);
    $("banner-do").textContent = seconds > 1 ? t("tryNowIn", { n: seconds }) : t("tryNow");
  };
  clearInterval(countdown);
  tick();
  if (retryAt) countdown = setInterval(tick, 1000);
}
