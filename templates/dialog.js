// The dialog that asks for an id; loaded with its first use.

import { problem, t } from "./texts.js";
import { make } from "./words.js";

const MAX_ID_BYTES = 128;

const style = Object.assign(make("link"), { rel: "stylesheet", href: "dialog.css" });
await new Promise((loaded) => {
  style.onload = style.onerror = loaded;
  document.head.append(style);
});

const input = (values) => Object.assign(make("input"), values);
const button = (className, type, text) => Object.assign(make("button", className, text), { type });

const title = make("h2");
title.id = "dialog-title";
const label = make("label");
label.htmlFor = "dialog-name";
const name = input({ id: "dialog-name", required: true, maxLength: MAX_ID_BYTES, dir: "auto", autocomplete: "off", autocapitalize: "none", spellcheck: false });
const [person, room] = ["u", "r"].map((value) => input({ type: "radio", name: "kind", value }));
const kind = make("fieldset", "", make("legend", "sr", t("whom")), make("label", "", person, ` ${t("person")}`), make("label", "", room, ` ${t("room")}`));
const trouble = make("p", "problem");
trouble.id = "dialog-problem";
trouble.setAttribute("role", "alert");
const cancel = button("plain", "button", t("cancel"));
const ok = button("main", "submit", "");
const form = make("form", "", title, kind, label, name, trouble, make("p", "buttons", cancel, ok));
form.method = "dialog";
const dialog = make("dialog", "", form);
dialog.setAttribute("aria-labelledby", title.id);
document.querySelector(".app").append(dialog);

let onAnswer;

/** Asks for an id, and perhaps for its kind; shows the error if `act(kind, id)` fails. */
function ask(texts, hasRooms, act) {
  [title.textContent, label.textContent, ok.textContent] = texts.map((key) => t(key));
  name.value = trouble.textContent = "";
  kind.hidden = !hasRooms;
  person.checked = true;
  onAnswer = act;
  dialog.showModal();
  name.focus();
}

export const askConversation = (hasRooms, act) => ask(["newConversation", "id", "open"], hasRooms, act);
export const askUser = (act) => ask(["switchUser", "iAm", "switch"], false, act);

async function onSubmit(event) {
  event.preventDefault();
  const id = name.value.trim();
  try {
    if (new TextEncoder().encode(id).length > MAX_ID_BYTES) throw new Error(t("tooLongId"));
    if (id) await onAnswer(room.checked ? room.value : person.value, id);
    dialog.close();
  } catch (error) {
    trouble.textContent = t("failed", { why: problem(error) });
  }
}

form.addEventListener("submit", onSubmit);
cancel.addEventListener("click", () => dialog.close());
