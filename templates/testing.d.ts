/** The types of testing.js: a server in memory, for tests of applications. It needs no network and no test framework. */

import type { Kschat, Options } from "./kschat.js";

/** A message that the server has accepted. */
export interface SentMessage {
  to: string;
  room?: string;
  text: string;
  rno: string;
  id: string;
  time: number;
}

/**
 * The server of one user. Its clients are those of kschat.js: only the server behind them is replaced. It answers at once, accepts
 * every message, and has nobody online. Message ids are the same in each run of a test.
 */
export class TestServer {
  constructor(user: string | number);
  /**
   * Options of `connect` or `useChat` for this server, with short timers and without storage. A `getToken` of yours must return
   * three parts with dots between them; they are not verified.
   */
  readonly options: Options;
  /** A client of this server. */
  connect(options?: Partial<Options>): Kschat;
  /** What was accepted, oldest first. */
  readonly sent: SentMessage[];
  /** All frames of the clients, oldest first. */
  readonly frames: { action: string; [field: string]: unknown }[];
  /**
   * Delivers a message to the user. The promise resolves once the application's handlers have finished. Without a connection the
   * message waits for one.
   */
  deliver(message: { from: string | number; text: string; room?: string; time?: number }): Promise<void>;
  /** Delivers again what is not acknowledged, as a server does after a while. */
  redeliver(): void;
  /** Refuses the next sends with an ER of the protocol. The client itself repeats after 1, 2, 9, 17, 18 and 20. */
  refuse(code: number, count?: number): void;
  /** A user has received, or read, the user's messages up to this one. */
  receipt(user: string | number, state: "delivered" | "read", id: string): void;
  /** A user comes or goes. */
  presence(user: string | number, on: boolean): void;
  typing(user: string | number, on: boolean): void;
  /** Any other frame of the protocol. `RC` and `ER` may be missing. */
  push(frame: object): void;
  /** Ends the connections. The clients connect again. */
  drop(): void;
  /** Ends the connections and accepts none until `start()`. */
  stop(): void;
  start(): void;
}
