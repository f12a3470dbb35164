// The connection: its tokens, and one WebSocket, or two during a rollover.

import { backoff, elapsed, KschatError, meaningOf, now, parseFrame, plain, Timer } from "./common.js";

const JWT = /^[\w-]+\.[\w-]+\.[\w-]*$/;

/** When a JWT expires, in milliseconds since 1970; infinite if it does not say. */
function expiryOf(token) {
  try {
    const claims = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return Number.isFinite(claims.exp) ? claims.exp * 1000 : Infinity;
  } catch {
    return Infinity;
  }
}

export class TokenSource {
  #options;
  #token;
  #renewAt = Infinity;

  constructor(options) {
    this.#options = options;
    const token = plain(options.token).trim();
    if (JWT.test(token)) this.#take(token);
  }

  get isRenewable() {
    return typeof this.#options.getToken === "function";
  }

  #take(token) {
    this.#token = token;
    this.#plan(expiryOf(token));
    return token;
  }

  // With a clock that runs ahead a fresh token seems expired: then the server decides.
  #plan(expiry) {
    const lifetime = expiry - now();
    this.#renewAt = lifetime > 0 ? expiry - Math.min(this.#options.renewBefore, lifetime / 4) : Infinity;
  }

  get renewIn() {
    return this.isRenewable ? this.#renewAt - now() : Infinity;
  }

  /** A token, or null if the session has ended. */
  async get(isFresh) {
    const isStale = isFresh || !this.#token || now() >= this.#renewAt;
    if (!this.isRenewable) {
      if (!this.#token && this.#options.token) throw new KschatError("token", "`token` is not a JWT");
      return this.#token;
    }
    if (!isStale) return this.#token;
    const token = await this.#fetch();
    if (!token) return null;
    const text = String(token).trim();
    // Such as a login page.
    if (!JWT.test(text)) throw new KschatError("token");
    return this.#take(text);
  }

  #fetch() {
    const timer = new Timer();
    const late = new Promise((_, reject) => {
      timer.set(this.#options.handshakeTimeout, () => reject(new KschatError("timeout", "no token came in time")));
    });
    return Promise.race([(async () => this.#options.getToken())(), late]).finally(() => timer.clear());
  }

  /** Sets the expiry that the server reports, in seconds since 1970. */
  confirmed(exp) {
    if (Number.isFinite(exp)) this.#plan(exp * 1000);
  }
}

/** One WebSocket. */
class Socket {
  openedAt = 0;
  heardAt = 0;
  activeAt = 0;
  probedAt = 0;
  opened;
  #heardOn = 0; // by the wall clock
  #socket;
  #lost;
  #refuse;

  constructor({ WebSocket, url, handshakeTimeout }, token, { heard, lost }) {
    this.#lost = lost;
    this.#socket = new WebSocket(url, ["kschat.v2", `bearer.${token}`]);
    const timer = new Timer();
    let isLate = false;
    timer.set(handshakeTimeout, () => {
      isLate = true;
      this.drop();
    });
    let failure;
    this.opened = new Promise((resolve, reject) => {
      this.#socket.onopen = () => {
        timer.clear();
        this.openedAt = this.activeAt = elapsed();
        this.#hear();
        resolve(this);
      };
      this.#refuse = () => {
        timer.clear();
        const error = new KschatError("offline", "the connection was refused");
        reject(Object.assign(error, { handshake: { isLate, failure } }));
      };
    });
    this.#socket.onmessage = ({ data }) => {
      this.activeAt = elapsed();
      this.#hear();
      heard(this, data);
    };
    this.#socket.onerror = (event) => {
      failure = event; // A close follows.
    };
    this.#socket.onclose = () => this.drop();
  }

  #hear() {
    this.heardAt = elapsed();
    this.#heardOn = now();
  }

  get isOpen() {
    return this.#socket?.readyState === 1;
  }

  /** Time since the last received data, including sleep of the machine. */
  get silence() {
    return Math.max(elapsed() - this.heardAt, now() - this.#heardOn);
  }

  send(frame) {
    if (!this.isOpen) return false;
    this.#socket.send(JSON.stringify(frame));
    this.activeAt = elapsed();
    return true;
  }

  /** Closes it in any state. A dead socket would report its close late. */
  drop() {
    const socket = this.#socket;
    if (!socket) return;
    this.#socket = null;
    socket.onopen = socket.onmessage = socket.onclose = null;
    try {
      socket.close();
    } catch {
      // It never opened.
    }
    this.#refuse();
    this.#lost(this);
  }
}

/** Keeps one socket open: reconnects, rolls over, renews the token, and notices when a socket is dead. */
export class Connection {
  socket = null;
  state = "connecting";
  #options;
  #tokens;
  #hooks;
  #sockets = new Set();
  #attempt = 0;
  #isDialing = false;
  #wasRefused = false; // The last handshake failed, possibly for its token.
  #refusals = 0; // in a row
  #lastOpen = null; // time of the last open connection, by elapsed()
  #isRenewing = false;
  #notBefore = 0; // when the server accepts connections again
  #epoch = 0; // counts calls of open()
  #timers = { dial: new Timer(), rollover: new Timer(), idle: new Timer(), probe: new Timer(), renew: new Timer() };

  /** `hooks`: opened(), heard(frame), lost(socket), changed(state, more), authenticate(token), gaveUp(error). */
  constructor(options, tokens, hooks) {
    this.#options = options;
    this.#tokens = tokens;
    this.#hooks = hooks;
  }

  get isOver() {
    return this.state === "closed" || this.state === "ended";
  }

  #change(state, more = {}) {
    this.state = state;
    this.#hooks.changed(state, more);
  }

  /** Connects, also after the session has ended or was closed. */
  open() {
    this.#epoch++;
    if (this.isOver) {
      this.#attempt = this.#refusals = 0;
      this.#wasRefused = true; // The token may have ended the session.
      this.#isDialing = false;
      this.state = "connecting";
    }
    this.dial();
  }

  /** Opens a socket; an existing one continues until the new one is open. */
  async dial() {
    if (this.#isDialing || this.isOver) return;
    this.#isDialing = true;
    const epoch = this.#epoch;
    this.#timers.dial.clear();
    if (!this.socket) this.#change("connecting", { attempt: this.#attempt });
    try {
      const socket = await this.#handshake(epoch);
      if (epoch !== this.#epoch || this.isOver) return socket.drop();
      this.#isDialing = false;
      if (socket.isOpen) this.#promote(socket);
      else this.#failed(new KschatError("offline"));
    } catch (error) {
      if (epoch !== this.#epoch) return;
      this.#isDialing = false;
      if (!this.isOver) this.#failed(error);
    }
  }

  async #handshake(epoch) {
    const token = await this.#tokens.get(this.#wasRefused);
    if (!token) throw new KschatError("ended");
    if (this.isOver || epoch !== this.#epoch) throw new KschatError("closed");
    this.#wasRefused = true;
    const socket = this.#newSocket(token);
    this.#sockets.add(socket);
    await socket.opened;
    this.#wasRefused = false;
    return socket;
  }

  #newSocket(token) {
    try {
      return new Socket(this.#options, token, {
        heard: (socket, data) => this.#sockets.has(socket) && this.#heard(data),
        lost: (socket) => this.#onLost(socket),
      });
    } catch (error) {
      // Such as `ws:` in a page loaded by `https:`.
      throw new KschatError("refused", `the browser refuses the connection: ${error.message}`);
    }
  }

  #failed(error) {
    if (error.code === "ended") return this.end(error);
    const delay = Math.max(backoff(this.#attempt++, this.#options), this.#notBefore - elapsed());
    this.#timers.dial.set(delay, () => this.dial());
    const more = { attempt: this.#attempt, retryAt: now() + delay, reason: error.message };
    if (!this.socket) this.#change("waiting", more);
    this.#countRefusal(error);
  }

  /** Gives up after repeated handshake refusals, but not while the server is unreachable. */
  async #countRefusal(error) {
    const { maxRefusals, refusalPeriod } = this.#options;
    // After a recent connection, a refusal may be an outage.
    if (this.#lastOpen !== null && elapsed() - this.#lastOpen < refusalPeriod) return;
    const epoch = this.#epoch;
    if (!(await this.#isRefusal(error)) || this.socket || this.isOver || epoch !== this.#epoch) return;
    if (++this.#refusals < maxRefusals) return;
    const final = error.code === "offline" ? new KschatError("refused") : error;
    this.#hooks.gaveUp(final);
    this.end(final);
  }

  async #isRefusal(error) {
    if (error.code !== "offline") return ["token", "refused"].includes(error.code);
    if (!error.handshake || error.handshake.isLate || globalThis.navigator?.onLine === false) return false;
    try {
      // Loaded on demand; if loading fails, the server is unreachable, too.
      const { isRefusal } = await import("./refusal.js");
      return await isRefusal(error.handshake.failure, this.#options, this.#lastOpen !== null);
    } catch {
      return false;
    }
  }

  #promote(socket) {
    const old = this.socket;
    this.socket = socket;
    this.#refusals = 0;
    // Jitter, so that clients that were cut off together do not roll over together.
    this.#timers.rollover.set(this.#options.rolloverAfter * (0.95 + Math.random() * 0.05), () => this.dial());
    this.#timers.renew.set(this.#tokens.renewIn, () => this.renew());
    this.#watch(socket);
    if (old) setTimeout(() => old.drop(), this.#options.rolloverOverlap);
    this.state = "connected";
    this.#hooks.opened();
    this.#change("connected");
  }

  #heard(data) {
    const frame = parseFrame(data);
    if (frame) this.#hooks.heard(frame);
  }

  #onLost(socket) {
    if (!this.#sockets.delete(socket) || !socket.openedAt) return;
    const isCurrent = socket === this.socket;
    if (isCurrent) this.socket = null;
    this.#hooks.lost(socket, isCurrent);
    if (!isCurrent) return;
    this.#lastOpen = elapsed();
    for (const timer of Object.values(this.#timers)) timer.clear();
    if (this.isOver) return;
    if (elapsed() - socket.openedAt > this.#options.stableAfter) this.#attempt = 0;
    if (this.#isDialing) this.#change("connecting", { attempt: this.#attempt });
    else this.#failed(new KschatError("offline", "the connection was lost"));
  }

  /** The whole path to the broker works. */
  works() {
    this.#attempt = 0;
  }

  #watch(socket) {
    const rest = socket.activeAt + this.#options.pingAfter - elapsed();
    this.#timers.idle.set(rest, () => {
      if (socket !== this.socket) return;
      if (elapsed() - socket.activeAt >= this.#options.pingAfter) this.probe();
      this.#watch(socket);
    });
  }

  /** Pings the socket, and drops it without an answer. */
  probe() {
    const { socket } = this;
    if (!socket || socket.probedAt > socket.heardAt) return;
    socket.probedAt = elapsed();
    socket.send({ action: "ping" });
    this.#timers.probe.set(this.#options.probeTimeout, () => socket.heardAt < socket.probedAt && socket.drop());
  }

  /** Connects now, or probes a socket that was silent for this long. */
  hurry(silentFor = 0) {
    if (this.isOver) return;
    if (!this.socket) {
      this.#attempt = 0;
      this.dial();
    } else if (this.socket.silence >= silentFor) {
      this.probe();
    }
  }

  /** Presents a new token: in band, or by a new socket to a server without that feature. */
  async renew() {
    if (this.#isRenewing || this.isOver) return;
    if (!this.#tokens.isRenewable) return this.end(new KschatError("ended"));
    this.#isRenewing = true;
    try {
      const token = await this.#tokens.get(true);
      if (this.isOver) return;
      if (!token) this.end(new KschatError("ended"));
      else if (!this.socket) this.dial();
      else await this.#present(token);
    } catch (error) {
      if (this.isOver) return;
      this.#hooks.changed(this.state, { reason: `no new token: ${error.message}` });
      this.#timers.renew.set(backoff(4, this.#options), () => this.renew());
    } finally {
      this.#isRenewing = false;
    }
  }

  async #present(token) {
    try {
      this.#tokens.confirmed((await this.#hooks.authenticate(token)).EXP);
      this.#timers.renew.set(this.#tokens.renewIn, () => this.renew());
    } catch {
      this.dial();
    }
  }

  /** The server requests a reconnect. */
  reconnectAfter(millis) {
    this.#notBefore = elapsed() + millis;
    this.#timers.rollover.set(millis + Math.random() * this.#options.backoffMin, () => this.dial());
  }

  end({ code, message }) {
    this.#stop("ended", { code, reason: message });
  }

  close() {
    this.#stop("closed", { reason: meaningOf("closed") });
  }

  #stop(state, more) {
    if (this.isOver) return;
    this.#epoch++;
    this.#isDialing = false;
    this.#change(state, more);
    for (const timer of Object.values(this.#timers)) timer.clear();
    for (const socket of [...this.#sockets]) socket.drop();
  }
}
