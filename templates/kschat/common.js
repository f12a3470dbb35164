// Shared by all modules: options and limits, errors, frames and arguments, clocks, events.

// ---- options of connect(), and limits

/** kschat.d.ts documents each; times in milliseconds. */
export const DEFAULTS = {
  handshakeTimeout: 10_000,
  answerTimeout: 10_000,
  requestTimeout: 30_000,
  backoffMin: 300,
  backoffMax: 30_000,
  stableAfter: 5_000,
  maxRefusals: 5,
  refusalPeriod: 10 * 60_000,
  rolloverAfter: 110 * 60_000,
  rolloverOverlap: 3_000,
  pingAfter: 5 * 60_000,
  probeTimeout: 5_000,
  renewBefore: 60_000,
  ackAfter: 1_000,
  ackEvery: 16,
  readEvery: 1_000,
  typingEvery: 3_000,
  typingShown: 6_000,
  presenceEvery: 5 * 60_000,
};

/** The largest message, in bytes of UTF-8 as a JSON string. */
export const MAX_MESSAGE_BYTES = 28 * 1024;
export const MAX_OUTBOX = 5_000; // messages that wait to be sent
export const MAX_FAILED = 100; // failed messages that are kept
export const MAX_IN_FLIGHT = 8; // sends in flight, each to another recipient
export const MAX_HELD = 256; // messages held while no handler is attached
export const MAX_REQUESTS = 100; // queued requests
export const MAX_SEEN = 4_096; // message ids remembered by a page …
export const MAX_SEEN_STORED = 1_024; // … and in the storage
export const MAX_TRACKED = 2_000; // accepted messages that still get `delivered` and `read`
export const MAX_READ_MARKS = 1_000; // senders whose newest read message is remembered
export const MAX_TYPING = 100; // recipients whose last `typing` is remembered
export const MAX_ROOMS = 200; // rooms remembered over a reload
export const MAX_QUERIED = 100; // users in one request about presence or receipts
export const MAX_TRIES = 8; // for failures that may be permanent
export const MAX_RETRY_AFTER = 60_000; // the longest wait that a server may ask of a send
export const RNO_WINDOW = 23 * 3_600_000; // the server remembers an idempotency key for a day
export const MARK_LIFETIME = 7 * 24 * 3_600_000; // the server keeps receipts at least this long

// ---- errors

export const OK = 0;
export const INTERNAL = 1;
export const TOO_LARGE = 8;
export const RATE_LIMITED = 9;
export const REUSED_RNO = 13;
export const NOT_ALLOWED = 14;
export const UNKNOWN_ACTION = 15;
export const FORGOTTEN = 17; // or the registry is unavailable
export const OUTCOME_UNKNOWN = 18;
export const KICKED = 19;

/** The token is missing, invalid or expired. */
export const TOKEN_CODES = new Set([3, 4]);
/** A retry can succeed. */
export const TRANSIENT_CODES = new Set([1, 2, RATE_LIMITED, FORGOTTEN, OUTCOME_UNKNOWN, 20]);

const MEANINGS = {
  1: "the server failed", 2: "the message broker is unavailable", 3: "the token is not valid",
  4: "the token has expired", 5: "this is another user's token", 6: "the frame is not valid",
  7: "a field is missing or invalid", 8: "the message is too large", 9: "too many messages",
  10: "nobody is known by this name", 11: "the recipient's queue is full", 12: "the message has expired",
  13: "this number stands for another message", 14: "not allowed", 15: "the server does not know how to do this",
  17: "the server has to look up who you are", 18: "the outcome is not known", 19: "signed out by the server",
  20: "the server is going away", 21: "too many connections", 22: "too many rooms",
  closed: "the client is closed", ended: "the session has ended", full: "too many messages wait to be sent",
  timeout: "the server did not answer", offline: "there is no connection",
  refused: "the server refuses the connection: check the URL, its stage and the token",
  token: "`getToken` has returned something that is not a JWT",
  unsure: "an earlier version wrote this, perhaps for another server",
};

export const meaningOf = (code) => MEANINGS[code] ?? `the server answered with error ${code}`;

export class KschatError extends Error {
  constructor(code, message, frame) {
    super(message || meaningOf(code));
    this.name = "KschatError";
    this.code = code;
    if (frame) this.frame = frame;
  }
}

// ---- parsing of frames, which may have any shape and must never throw

/** A string or number as a string, anything else as "": String() of an odd object could throw. */
export const plain = (value) => (["string", "number"].includes(typeof value) ? String(value) : "");
export const isObject = (value) => typeof value === "object" && value !== null;
export const codeOf = (frame) => Number(plain(frame.ER) || INTERNAL);
export const listOf = (value) => (Array.isArray(value) ? value.filter(isObject) : []);

export function errorOf(frame) {
  const message = plain(frame.ERMSG ?? frame.message).replace(/[.\s]+$/, "");
  return new KschatError(codeOf(frame), message, frame);
}

export function timeOf(value) {
  const millis = Number(plain(value));
  return millis > 0 && millis < 8.64e15 ? millis : now();
}

// Rounding a large integer would yield another user's id. Older engines do not provide the source.
const exact = (_, value, context) => {
  const { source } = context ?? {};
  return typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(source) ? source : value;
};

export function parseFrame(data) {
  try {
    const frame = JSON.parse(data, /\d{16}/.test(data) ? exact : undefined);
    return isObject(frame) ? frame : null;
  } catch {
    return null;
  }
}

/** An id as a string. Throws a TypeError, as the next two do. */
export function idOf(value, name) {
  if (typeof value === "string" && value) return value;
  if (Number.isSafeInteger(value)) return String(value);
  const hint = typeof value === "number" ? "; give large numbers as text" : "";
  throw new TypeError(`\`${name}\` must be a text or an integer${hint}`);
}

export function idsOf(values, name) {
  if (!Array.isArray(values)) throw new TypeError(`\`${name}\` must be an array`);
  return values.map((value) => idOf(value, name));
}

/** Replaces lone surrogates, which are not valid UTF-8. */
export function textOf(value) {
  if (typeof value !== "string") throw new TypeError("`text` must be a text");
  return value.replace(/\p{Surrogate}/gu, "\uFFFD");
}

const encoder = new TextEncoder();

/** Size of a message as the limit counts it. */
export const sizeOf = (text) => encoder.encode(JSON.stringify(text)).length;

// ---- clocks, events

const MAX_TIMEOUT = 0x7fff_ffff; // setTimeout fires at once for more

export const now = () => Date.now();

/** Monotonic, unlike `now()`; it may stand still while the machine sleeps. */
export const elapsed = () => performance.now();

export const sleep = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

/** Full jitter keeps many clients from reconnecting at the same instant. */
export const backoff = (attempt, { backoffMin, backoffMax }) =>
  Math.random() * Math.min(backoffMax, backoffMin * 2 ** attempt);

/** Holds at most one pending timeout. */
export class Timer {
  #id;

  set(millis, action) {
    clearTimeout(this.#id);
    this.#id = setTimeout(action, Math.min(Math.max(millis, 0), MAX_TIMEOUT));
  }

  clear() {
    clearTimeout(this.#id);
  }
}

function report(error) {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}

export class Emitter {
  #handlers = new Map();

  on(event, handler) {
    if (typeof handler !== "function") throw new TypeError("`handler` must be a function");
    this.#handlers.set(event, [...(this.#handlers.get(event) ?? []), handler]);
  }

  once(event, handler) {
    const only = (...values) => {
      this.off(event, only);
      return handler(...values);
    };
    only.handler = handler;
    this.on(event, only);
  }

  /** Without a handler, removes all of them. */
  off(event, handler) {
    const kept = handler && this.#handlers.get(event)?.filter((one) => one !== handler && one.handler !== handler);
    this.#handlers.set(event, kept ?? []);
  }

  has(event) {
    return Boolean(this.#handlers.get(event)?.length);
  }

  /** Returns the handlers' results; one that throws does not affect the others. */
  emit(event, value) {
    return (this.#handlers.get(event) ?? []).map((handler) => {
      let result;
      try {
        result = handler(value);
      } catch (error) {
        result = Promise.reject(error);
      }
      result?.catch?.(report);
      return result;
    });
  }
}
