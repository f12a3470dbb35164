/** The types of react.js: hooks for React 18 or newer. They need no types of React. */

import type { ConnectionInfo, Kschat, Message, Options, Presence, RespSend, Sent, SendState } from "./kschat.js";

export interface ChatOptions extends Options {
  /**
   * Stores received messages. It may return a promise: the messages are acknowledged once it has resolved, and come again if it
   * rejects. Without it, received messages are only in memory, and a reload loses them.
   */
  onMessages?: (messages: Message[]) => unknown;
}

/** A message of a conversation, received or sent. */
export interface ChatMessage {
  /** For React's `key`. */
  key: string;
  from: string;
  to: string;
  room?: string;
  text: string;
  time: number;
  mine: boolean;
  /** The message's id, once it is accepted. */
  id?: string;
  /** Only of what the user wrote. */
  rno?: string;
  /** Only of what this client sent. */
  state?: SendState;
  /** Why it failed. */
  error?: Sent["error"];
}

export interface Conversation {
  /** In the order in which they were sent or came; the newest 1,000. The array is replaced when a message changes. */
  messages: readonly ChatMessage[];
  /** `closed` without a client. */
  status: ConnectionInfo["state"];
  /** As `Kschat.send`, or `Kschat.sendRoom` in a room. A failed message is also in `messages`. Rejects without a client. */
  send(text: string): Promise<RespSend>;
  /** Sends a failed message again; `null` if there is no such message. */
  retry(rno: string): Promise<RespSend> | null;
  /** Removes a message that is not accepted. */
  discard(rno: string): boolean;
}

/**
 * Connects while the component is mounted, and closes the client when it is unmounted. Call it once, near the root. Without
 * options there is no client, as before a login. Another `url` or `user` replaces the client. `getToken` and `onMessages` may be
 * new functions in each render; other options are read when the client is created. The first render returns `null`.
 */
export function useChat(options: ChatOptions | null | undefined): Kschat | null;
/** The state of the connection; `closed` without a client. */
export function useConnection(client: Kschat | null): ConnectionInfo["state"];
/** The messages with a user, or of a room that the user has joined. */
export function useConversation(client: Kschat | null, partner: string | number | { room: string | number }): Conversation;
/**
 * Whether a user is online; `undefined` until it is known. All components share one request for at most 100 users, so do not
 * call `client.presence` as well.
 */
export function usePresence(client: Kschat | null, user: string | number | null | undefined): Presence | undefined;
