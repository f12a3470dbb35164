// Incoming messages: deduplicates, passes to the application, acknowledges once handled.

import { elapsed, listOf, MAX_HELD, plain, timeOf, Timer } from "./common.js";

/** Whether a client that has received up to `ours` has received `position`: `run.number`, counted within a run. */
function includes(ours, position) {
  const [run, number] = position.split(".");
  const [ourRun, ourNumber] = ours.split(".");
  return run === ourRun && Number(ourNumber) >= Number(number);
}

export class Inbox {
  #options;
  #seen;
  #user;
  #hooks;
  #received = { mId: "", pos: "" };
  #handled = this.#received;
  #unacked = 0; // messages handled and not acknowledged
  #ackedAt = -Infinity;
  #timer = new Timer();
  #turn = Promise.resolve();
  #era = 0; // counts handler failures
  #held = []; // while no handler is attached: { count, deliver }
  #heldCount = 0;

  /** `hooks`: send(frame), hasHandler(), echoed(message), and hand(messages), which promises for each whether it was handled. */
  constructor(options, seen, user, hooks) {
    this.#options = options;
    this.#seen = seen;
    this.#user = user;
    this.#hooks = hooks;
  }

  take(frame) {
    const items = listOf(frame.MSG);
    // Messages without space are redelivered, as lost ones are.
    if (!items.length || this.#heldCount >= MAX_HELD) return;
    // A frame before this one was lost: both are redelivered in order.
    if (frame.PREV && !includes(this.#received.pos, plain(frame.PREV))) return this.#askAgain();
    const messages = items.map((item) => this.#read(item)).filter((message) => message && this.#seen.add(message));
    const position = { mId: plain(items.at(-1).mId), pos: plain(frame.POS) };
    // A second socket repeats frames of the first one, a little later.
    if (!includes(this.#received.pos, position.pos)) this.#received = position;
    const era = this.#era;
    const handled = this.#hand(messages.filter((message) => !(message.mine && this.#hooks.echoed(message))));
    this.#turn = this.#turn.then(() => handled).then((failed) => {
      for (const message of messages) this.#seen[failed.has(message) ? "forget" : "handled"](message);
      if (failed.size) this.#undo();
      else if (era === this.#era && position.mId) this.#settle(position, items.length);
    });
  }

  #read(item) {
    const from = plain(item.uId);
    if (!from) return null;
    const message = {
      id: plain(item.mId), from, to: plain(item.pId), text: plain(item.msg), time: timeOf(item.msgTime),
      mine: from === this.#user, redelivered: item.redelivered === true,
    };
    if (plain(item.gId)) message.room = plain(item.gId);
    if (plain(item.rno)) message.rno = plain(item.rno);
    return message;
  }

  /** Promises the unhandled messages. */
  #hand(messages) {
    if (!messages.length) return new Set();
    if (this.#hooks.hasHandler() && !this.#held.length) return this.#deliver(messages);
    this.#heldCount += messages.length;
    return new Promise((resolve) => {
      this.#held.push({ count: messages.length, deliver: () => resolve(this.#deliver(messages)) });
    });
  }

  async #deliver(messages) {
    const well = await Promise.all(this.#hooks.hand(messages));
    return new Set(messages.filter((_, index) => !well[index]));
  }

  /** Delivers held messages once a handler is attached. */
  release() {
    while (this.#held.length && this.#hooks.hasHandler()) {
      const { count, deliver } = this.#held.shift();
      this.#heldCount -= count;
      deliver();
    }
  }

  // An ack covers all before it, so nothing is acknowledged until the server has redelivered these.
  #undo() {
    this.#era++;
    this.#received = this.#handled;
  }

  #settle(position, count) {
    if (!includes(this.#handled.pos, position.pos)) this.#handled = position;
    this.#unacked += count;
    const wait = this.#ackedAt + this.#options.ackAfter - elapsed();
    if (this.#unacked >= this.#options.ackEvery || wait <= 0) this.flush();
    else this.#timer.set(wait, () => this.flush());
  }

  /** Acknowledges now. An unsent ack follows after the next connect. */
  flush() {
    this.#timer.clear();
    this.#seen.save();
    if (!this.#unacked) return;
    const { mId, pos } = this.#handled;
    if (!this.#hooks.send({ action: "ack", mId, pos: pos || undefined })) return;
    this.#unacked = 0;
    this.#ackedAt = elapsed();
  }

  #askAgain() {
    const { mId, pos } = this.#handled;
    this.#hooks.send({ action: "ack", ...(mId && { mId, pos: pos || undefined }), again: true });
  }
}
