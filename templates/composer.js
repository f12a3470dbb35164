// Where messages are written: the field, its drafts, its limit, and the notes above it.

import { MAX_MESSAGE_BYTES, sizeOf } from "./kschat.js";
import { $ } from "./words.js";

const NOTE_MS = 8_000;
const NEARLY_FULL = 4_096; // bytes left, from which on they are counted

export class Composer {
  #drafts = new Map(); // conv → what is written and not sent
  #conv = null;
  #noteTimer;

  /** `send(text)` tells whether it was taken; `written(hasText)` at every key. */
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

  /** Shows the draft of a conversation, or nothing. */
  open(conv) {
    this.keep();
    this.#conv = conv;
    $("composer").hidden = !conv;
    if (!conv) return;
    this.input.value = this.#drafts.get(conv) ?? this.#stored(conv);
    $("msg-label").textContent = `Message to ${conv.slice(2)}`;
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
      // Full, or forbidden: it is lost with the page.
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

  // Quiet until the limit is near; the button is off when it is passed.
  #checkSize() {
    const text = this.#text();
    const room = MAX_MESSAGE_BYTES - (text.length * 6 < MAX_MESSAGE_BYTES ? 0 : sizeOf(text));
    const kib = `${(Math.ceil(Math.abs(room) / 102.4) / 10).toFixed(1)} KiB`;
    $("send").disabled = !text || room < 0;
    $("note").classList.toggle("over", room < 0);
    clearTimeout(this.#noteTimer);
    const words = room < 0 ? `Too long by ${kib}. Please send it in parts.` : room < NEARLY_FULL ? `${kib} left` : "";
    if ($("note").textContent !== words) $("note").textContent = words;
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
    // What is not taken stays in the field.
    if (!this.send(this.#text())) return this.keep();
    this.input.value = "";
    this.#fit();
    this.keep();
  }

  // Enter that picks a word in an input method must not send.
  #onKey(event) {
    const composing = event.isComposing || event.keyCode === 229;
    if (event.key !== "Enter" || event.shiftKey || composing) return;
    event.preventDefault();
    $("composer").requestSubmit();
  }
}
