// What the parts of the chat page know together: who talks, with whom, and who is there.

/** What the host application has rendered. */
export const given = document.querySelector(".app").dataset;

export const people = new Map(); // conv → conversation, as history.js has it
export const presence = new Map(); // user → { on, last }
export const typing = new Set(); // users who type

/** The conversation that is shown. */
export const shown = { conv: undefined };

/** A conversation is named `u/` and a user, or `r/` and a room. */
export const convOf = ({ room, mine, from, to }) => (room ? `r/${room}` : `u/${mine === false ? from : to}`);
export const isRoom = (conv) => conv.startsWith("r/");
export const nameOf = (conv) => conv.slice(2);
export const addressOf = (conv) => `#${conv.slice(0, 2)}${encodeURIComponent(nameOf(conv))}`;

/** Which one the address of the page names. */
export function fromAddress() {
  const [, kind, name] = /^#([ur])\/(.+)$/.exec(location.hash) ?? [];
  if (!name) return null;
  try {
    return `${kind}/${decodeURIComponent(name)}`;
  } catch {
    return null;
  }
}
