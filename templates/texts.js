// Texts and times of the page in the user's language. English is here; another language is loaded where it is used.

import { icon } from "./words.js";

const OTHERS = ["de"]; // each has a file texts.*.js with the same keys

/** `{n}` is a number: it chooses the plural form, as Intl.PluralRules names it. */
export const english = {
  allConversations: "All conversations",
  cancel: "Cancel",
  chats: "Chats",
  close: "Close",
  connected: "Connected",
  connecting: "Connecting",
  conversations: "Conversations",
  delete: "Delete",
  earlier: "Earlier messages, if any, are not on this device.",
  failed: "That did not work: {why}",
  found: { one: "{n} message found", other: "{n} messages found" },
  foundHint: "Only messages on this device are searched.",
  foundTitle: "Messages",
  iAm: "I am",
  id: "Id",
  keepsNothing: "This browser keeps nothing for this page: messages are shown, but not after a reload.",
  keys: "Enter sends, Shift + Enter starts a new line.",
  lastSeen: "last seen {when}",
  lastSeenAt: "last seen at {time}",
  lastSeenNow: "last seen just now",
  lastSeenOn: "last seen on {day}",
  latest: "Latest",
  leave: "Leave",
  left: "{size} left",
  message: "Message",
  messageTo: "Message to {name}",
  messagesWith: "Messages with {name}",
  newConversation: "New conversation",
  newDivider: "New messages",
  newMessages: { one: "{n} new message", other: "{n} new messages" },
  noConnection: "No connection. What you write is sent as soon as there is one.",
  noMessages: "No messages yet",
  nobody: "Nobody by that name here. Start a new conversation with +.",
  notSent: "Not sent: {why}",
  notifyMe: "Notify me of new messages",
  offline: "Offline",
  offlineNow: "You are offline. What you write is sent when you are back.",
  online: "online",
  open: "Open",
  orStartNew: "or start a new one with +",
  pageEnded: "This page can't connect: {why}.",
  person: "Person",
  pick: "Pick a conversation",
  reconnecting: "Reconnecting",
  reload: "Reload",
  retry: "Retry",
  room: "Room",
  sayHello: "Say hello to {name}",
  search: "Search",
  searchLabel: "Search conversations and messages",
  send: "Send",
  signedOut: "Signed out",
  start: "Start a conversation with +.",
  stateAccepted: "sent",
  stateDelivered: "delivered",
  stateFailed: "not sent",
  stateRead: "read",
  stateSending: "waiting to be sent",
  stillNot: "Still not connected. Your session may have ended: reload the page to start a new one.",
  switch: "Switch",
  switchUser: "Switch user",
  tooLong: "Too long by {size}. Please send it in parts.",
  tooLongId: "this is too long",
  tryNow: "Try now",
  tryNowIn: "Try now ({n} s)",
  tryingAgain: "{why}: trying again",
  typing: "typing…",
  unread: "{n} unread",
  whom: "With whom",
  you: "You",
  youEnded: "You are signed out: {why}.",
};

const languageOf = (tag) => {
  try {
    return new Intl.Locale(tag).language;
  } catch {
    return "";
  }
};

const wanted = [new URLSearchParams(location.search).get("lang"), ...navigator.languages];
let locale = wanted.find((tag) => ["en", ...OTHERS].includes(languageOf(tag)));
let texts = english;

if (OTHERS.includes(languageOf(locale))) {
  try {
    texts = { ...english, ...(await import(`./texts.${languageOf(locale)}.js`)).default };
  } catch {
    locale = "en";
  }
}

export const language = languageOf(locale) || "en";
document.documentElement.lang = language;

export const number = (value) => value.toLocaleString(locale);

const plural = new Intl.PluralRules(language);

/** A text with its placeholders replaced. */
export function t(key, values = {}) {
  const entry = texts[key];
  const text = entry.other ? (entry[plural.select(values.n)] ?? entry.other) : entry;
  return text.replace(/\{(\w+)\}/g, (_, name) => (name === "n" ? number(values.n) : values[name]));
}

/** What an error of kschat.js says; its own message is English. */
export const problem = ({ code, message }) => texts.errors?.[code] ?? message;

/** Fills in the texts of client.html, and its icons. */
export function fillIn() {
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = t(node.dataset.hint);
  for (const node of document.querySelectorAll("[data-label]")) {
    const text = t(node.dataset.label);
    node.setAttribute("aria-label", text);
    if (node.matches("button")) node.title = text;
  }
  for (const node of document.querySelectorAll("[data-icon]")) node.append(icon(node.dataset.icon));
}

// ---- times

// Numbers follow the browser where the page does not have its language.
const clock = new Intl.DateTimeFormat(locale, { timeStyle: "short" });
const shortDate = new Intl.DateTimeFormat(locale, { dateStyle: "short" });
const longDate = new Intl.DateTimeFormat(locale ?? language, { dateStyle: "full" });
const weekday = new Intl.DateTimeFormat(locale ?? language, { weekday: "short" });
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });

const daysAgo = (millis) => {
  const midnight = (time) => new Date(time).setHours(0, 0, 0, 0);
  return Math.round((midnight(Date.now()) - midnight(millis)) / 86_400_000);
};

const capital = (text) => text[0].toLocaleUpperCase(language) + text.slice(1);

export const hour = (millis) => clock.format(millis);
export const fullTime = (millis) => `${longDate.format(millis)}, ${clock.format(millis)}`;

export function dayName(millis) {
  const days = daysAgo(millis);
  return days === 0 || days === 1 ? capital(relative.format(-days, "day")) : longDate.format(millis);
}

/** A short form for lists. */
export function shortTime(millis) {
  const days = daysAgo(millis);
  if (days < 1) return hour(millis);
  return days < 7 ? weekday.format(millis) : shortDate.format(millis);
}

export function lastSeen(millis) {
  const minutes = Math.round((Date.now() - millis) / 60_000);
  if (minutes < 1) return t("lastSeenNow");
  if (minutes < 60) return t("lastSeen", { when: relative.format(-minutes, "minute") });
  return daysAgo(millis) < 1 ? t("lastSeenAt", { time: hour(millis) }) : t("lastSeenOn", { day: shortTime(millis) });
}
