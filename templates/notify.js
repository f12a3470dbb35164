// Notifications of messages that are not in view; loaded once the user has allowed them.

import { addressOf, isWatched, lastWords, people, shown, titleOf } from "./list.js";

const SETTLE_MS = 700; // another tab may have the conversation in view

const notifications = new Map(); // by conversation

function present(record) {
  const { conv, unread } = record;
  const title = unread > 1 ? `${titleOf(conv)} (${unread})` : titleOf(conv);
  const notification = new Notification(title, { body: lastWords(record), tag: conv, renotify: true });
  notification.onclick = () => {
    notification.close();
    focus();
    location.hash = addressOf(conv);
  };
  notifications.set(conv, notification);
}

async function presentUnread(conv) {
  await new Promise((settled) => setTimeout(settled, SETTLE_MS));
  const record = people.get(conv);
  const isInView = conv === shown.conv && isWatched();
  if (record?.unread && !isInView) present(record);
}

/** Notifies of a conversation's unread messages; of all tabs of the user, one does. */
export function notify(user, conv) {
  const once = { ifAvailable: true };
  const request = navigator.locks.request(`kschat notify ${user} ${conv}`, once, (lock) => lock && presentUnread(conv));
  // Some browsers refuse a notification that they have allowed.
  request.catch(() => {});
}

/** Removes the notification of a conversation that has been read. */
export function settle({ conv, unread }) {
  if (unread) return;
  notifications.get(conv)?.close();
  notifications.delete(conv);
}
