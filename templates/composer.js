// The message composer: the field, its drafts, its limit, and notes above it.

import { MAX_MESSAGE_BYTES, sizeOf } from "./kschat.js";
import { titleOf } from "./list.js";
import { number, t } from "./texts.js";
import { $, setText } from "./words.js";

const NOTE_MS = 8_000;
const NEARLY_FULL = 4_096; // bytes left below which the counter shows

export class Composer {
  #drafts = new Map(); // conv → unsent text
  #conv = null;
  #noteTimer;

  /** `send(text)` returns whether it was accepted; `written(hasText)` runs at every key. */
  constructor(user, { send, written }) {
    Object.assign(this, { user, send, written, input: $("msg") });
    $("composer").addEventListener("submit", (event) => this.#onSubmit(event));
    this.input.addEventListener("input", () => {
      this.#fit();
      written(this.#text() !== "");
    });
    this.input.addEventListener("keydown", (event) => this.#onKey(event));
    addEventListener("pagehide", () => this.keep());
  }

  /** Shows the draft of a conversation, or none. */
  open(conv) {
    this.keep();
    this.#conv = conv;
    $("composer").hidden = !conv;
    if (!conv) return;
    this.input.value = this.#drafts.get(conv) ?? this.#stored(conv);
    $("msg-label").textContent = t("messageTo", { name: titleOf(conv) });
    this.#fit();
  }

  focus() {
    this.input.focus();
  }

  #key(conv) {
    return `kschat draft ${this.user} ${conv}`;
  }

  #stored(conv) {
    try {
      return sessionStorage.getItem(this.#key(conv)) ?? "";
    } catch {
      return "";
    }
  }

  keep() {
    if (!this.#conv) return;
    const { value } = this.input;
    this.#drafts.set(this.#conv, value);
    try {
      if (value) sessionStorage.setItem(this.#key(this.#conv), value);
      else sessionStorage.removeItem(this.#key(this.#conv));
    } catch {
      // Full or forbidden: the draft is lost with the page.
    }
  }

  #text() {
    return this.input.value.replace(/^\s*\n/, "").trimEnd();
  }

  #fit() {
    this.input.style.height = "auto"; // else it would never shrink
    this.input.style.height = `${this.input.scrollHeight + 2}px`;
    this.#checkSize();
  }

  // Hidden until the limit is near; disables the button beyond it.
  #checkSize() {
    const text = this.#text();
    const room = MAX_MESSAGE_BYTES - (text.length * 6 < MAX_MESSAGE_BYTES ? 0 : sizeOf(text));
    const size = `${number(Math.ceil(Math.abs(room) / 102.4) / 10)} KiB`;
    $("send").disabled = !text || room < 0;
    $("note").classList.toggle("over", room < 0);
    clearTimeout(this.#noteTimer);
    const words = room < 0 ? t("tooLong", { size }) : room < NEARLY_FULL ? t("left", { size }) : "";
    setText($("note"), words);
  }

  note(words) {
    clearTimeout(this.#noteTimer);
    $("note").textContent = words;
    this.#noteTimer = setTimeout(() => this.#checkSize(), NOTE_MS);
  }

  #onSubmit(event) {
    event.preventDefault();
    this.#checkSize();
    if ($("send").disabled || !this.#conv) return;
    this.focus();
    // A rejected text stays in the field.
    if (!this.send(this.#text())) return this.keep();
    this.input.value = "";
    this.#fit();
    this.keep();
  }

  // Enter that confirms a word in an input method must not send.
  #onKey(event) {
    const composing = event.isComposing || event.keyCode === 229;
    if (event.key !== "Enter" || event.shiftKey || composing) return;
    event.preventDefault();
    $("composer").requestSubmit();
  }
}
