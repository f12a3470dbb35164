/** The types of kschat.js. They need neither the types of a browser nor those of Node.js. */

/** What is used of a `Storage`. One that throws, or is full, costs only what a reload would have found. */
export interface KeyValueStorage {
  readonly length: number;
  key(index: number): string | null;
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

/** What to connect to, and as whom. All times are in milliseconds and have defaults. */
export interface Options {
  /**
   * Of the WebSocket stage, such as `wss://abc.execute-api.eu-central-1.amazonaws.com/prod`. `https:` stands for `wss:`; any
   * other scheme is a TypeError. What is stored in the browser belongs to this URL and this user.
   */
  url: string;
  /** The user whom the token names. As in all methods, an id that a double can't hold exactly must be a text. */
  user: string | number;
  /** The first token; the only one, if there is no `getToken`. */
  token?: string;
  /**
   * Fetches a JWT when one is needed. Nothing (`null`, `""`) ends the session; a rejection is tried again. Anything that is no
   * JWT, such as the page that tells somebody to log in, counts as a refusal (`maxRefusals`).
   */
  getToken?: () => string | null | undefined | Promise<string | null | undefined>;
  /** For Node.js before 22: the one of the package `ws`. */
  WebSocket?: new (url: string, protocols: string[]) => unknown;
  /** What keeps the outbox, the rooms and the ids of seen messages: `localStorage` in a page that has it, else the memory. */
  storage?: KeyValueStorage | null;
  /** How long opening may take: 10,000. */
  handshakeTimeout?: number;
  /** When what is not answered is tried again on a new connection: 10,000. */
  answerTimeout?: number;
  /** How long `join`, `leave`, `rooms`, `status` and `presence` wait for a connection before they fail with `offline`: 30,000. */
  requestTimeout?: number;
  /** The wait before connecting again is drawn from 0 to this, doubled with each attempt: 300. */
  backoffMin?: number;
  /** … and to this at most: 30,000. */
  backoffMax?: number;
  /** How long a connection must live to count as a good one: 5,000. */
  stableAfter?: number;
  /**
   * After how many refused handshakes in a row, each with a fresh token, the session ends: 5. A server that is out of reach, or
   * that says it is overloaded, does not count. `Infinity` never gives up.
   */
  maxRefusals?: number;
  /** If this client was connected before, only refusals count that come so long after the loss of its connection: 10 minutes. */
  refusalPeriod?: number;
  /** When a new connection takes the place of the old one: 110 minutes; the managed edge ends all after 120. */
  rolloverAfter?: number;
  /** How long both are heard: 3,000. */
  rolloverOverlap?: number;
  /** After which silence a ping is sent: 5 minutes; the managed edge ends what is silent for 10. */
  pingAfter?: number;
  /** When a connection that does not answer a ping is dead: 5,000. */
  probeTimeout?: number;
  /** How long before its end a token is renewed: 60,000, but at most a quarter of its life. */
  renewBefore?: number;
  /** When what was dealt with is acknowledged: 1,000. */
  ackAfter?: number;
  /** … or after how many messages: 16. */
  ackEvery?: number;
  /** How often a read receipt is sent at most: 1,000. */
  readEvery?: number;
  /** How often `typing` is repeated while it goes on: 3,000. */
  typingEvery?: number;
  /** How long it is shown: 6,000. */
  typingShown?: number;
  /** How often the question who is here is repeated: 5 minutes. */
  presenceEvery?: number;
}

/** A message that came. `time` is the server's, in milliseconds since 1970. */
export interface Message {
  id: string;
  from: string;
  /** The user, or the room. */
  to: string;
  /** The room, if it came to one. */
  room?: string;
  text: string;
  time: number;
  /** Whether the user wrote it, in another window or on another device. */
  mine: boolean;
  /** Whether it was on its way before. Repetitions are dropped all the same. */
  redelivered: boolean;
  /** Only of what the user wrote. */
  rno?: string;
}

export type SendState = "sending" | "accepted" | "delivered" | "read" | "failed";

/** A message that goes, and what has become of it. */
export interface Sent {
  /** Names it here; it is its idempotency key, too. */
  rno: string;
  /** Names it everywhere, once it is accepted. */
  id?: string;
  to: string;
  room?: string;
  text: string;
  /** When it was written; once it is accepted, when that was, by the server's clock. */
  time: number;
  state: SendState;
  error?: { code: number | string; message: string };
}

/**
 * - `connecting`: for the first time or again; `waiting`: until `retryAt`; `offline`: the same, and the machine has no network
 * - `connected`
 * - `ended`: the session is over, as there is no token, the server said so or refuses us; `closed`: by `close()`
 */
export interface ConnectionInfo {
  state: "connecting" | "connected" | "waiting" | "offline" | "ended" | "closed";
  /** How many attempts in a row did not last. */
  attempt?: number;
  retryAt?: number;
  reason?: string;
  /** Of `ended`: a code as that of a KschatError. */
  code?: number | string;
}

/** `user` has got, or has read, everything that `of` sent them, up to `id`. */
export interface Receipt {
  user: string;
  of: string;
  state: "delivered" | "read";
  id: string;
}

export interface Presence {
  user: string;
  on: boolean;
  /** When last seen, in milliseconds since 1970, if known. */
  last?: number;
}

export type Feature = "auth" | "typing" | "presence" | "receipts" | "rooms";

export interface Events {
  connection: ConnectionInfo;
  /**
   * A handler may return a promise. What it rejects is not acknowledged, and comes again. Without a handler, here or for
   * `messages`, nothing is acknowledged: what comes is held, 256 messages at most, for the first one.
   */
  message: Message;
  /** The same messages, as many as came together. */
  messages: Message[];
  state: Sent;
  receipt: Receipt;
  typing: { user: string; on: boolean };
  presence: Presence;
  room: { room: string; joined: boolean };
  /** The server does, or does not, know how to do this. */
  feature: { feature: Feature; on: boolean };
  /**
   * Nothing is lost by it: a send that is tried again, an answer to nothing. If it is final, the client does not try any
   * longer: `refused` or `token`.
   */
  error: KschatError;
}

/**
 * `code` is an ER of the protocol, or one of `closed`, `ended`, `full`, `timeout`, `offline`, `refused` (the server does not take
 * this client), `token` (that is no JWT), `unsure` (an earlier version stored this message, perhaps for another server).
 */
export class KschatError extends Error {
  readonly code: number | string;
  /** Of an `error` event: whether the client has given up. */
  readonly isFinal?: boolean;
  readonly frame?: object;
}

/** The server's answer to a message that it has accepted. */
export interface RespSend {
  event: "RESPSEND";
  ER: 0;
  MID: string;
  MSGTIME: number;
  DUP?: 1;
  [field: string]: unknown;
}

export class Kschat {
  constructor(options: Options);
  readonly user: string;
  readonly state: ConnectionInfo["state"];
  /** What is known of the server: `false` for what it does not know how to do. */
  readonly features: Partial<Record<Feature, boolean>>;
  /** What is not accepted yet, oldest first: `sending` or `failed`. */
  readonly outbox: Sent[];
  on<E extends keyof Events>(event: E, handler: (value: Events[E]) => unknown): this;
  once<E extends keyof Events>(event: E, handler: (value: Events[E]) => unknown): this;
  /** Without a handler, all of them. */
  off<E extends keyof Events>(event: E, handler?: (value: Events[E]) => unknown): this;
  /** The same as `on`, but returns a function that removes the handler. */
  subscribe<E extends keyof Events>(event: E, handler: (value: Events[E]) => unknown): () => void;
  /** Promises that there is a connection; rejects once the session has ended or the client is closed. */
  ready(): Promise<void>;
  /** Connects again after `close()` or the end of the session; else the same as `hurry()`. */
  connect(): void;
  /**
   * Sends when there is a connection, one after the other to each recipient. The promise is settled once the server has
   * accepted or refused it; the message outlives the page, the promise does not.
   * @throws {TypeError} at once, if `text` is not a string or `to` is not an id, as all methods do
   */
  send(to: string | number, text: string, options?: { rno?: string }): Promise<RespSend> & { rno: string };
  sendRoom(room: string | number, text: string, options?: { rno?: string }): Promise<RespSend> & { rno: string };
  /** Sends again what has failed; `null` if there is no such thing. What can't be taken now stays failed. */
  retry(rno: string): (Promise<RespSend> & { rno: string }) | null;
  /** Forgets what is not accepted. */
  discard(rno: string): boolean;
  /** Connects now instead of waiting. */
  hurry(): void;
  /** Tells a sender that everything up to this message has been read. */
  read(from: string | number, id: string): void;
  /** Tells that the user types; call it at every key. */
  typing(to: string | number, on?: boolean): void;
  /** Asks who is here, and hears of changes until other users are given; 100 at most. Waits for a connection. */
  presence(users: (string | number)[]): Promise<Presence[]>;
  /** How far these have got and read what was sent to them; 100 at most. */
  status(users: (string | number)[]): Promise<{ user: string; delivered: string; read: string }[]>;
  /**
   * Membership belongs to the user, and lasts. What the server has lost is joined again after a reconnect, before messages are
   * sent to rooms; what was left on another device is not.
   */
  join(room: string | number): Promise<{ room: string }>;
  leave(room: string | number): Promise<{ room: string }>;
  rooms(): Promise<string[]>;
  /** Ends the connection. What is not accepted is kept for the next one. */
  close(): void;
}

/** Connects, and stays connected until `close()`. Add handlers at once: the first events come right after. */
export function connect(options: Options): Kschat;
/** The largest message: its bytes of UTF-8 as a JSON string. */
export const MAX_MESSAGE_BYTES: number;
/** The size of a message as that limit counts it. */
export function sizeOf(text: string): number;
