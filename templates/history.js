// What the chat page keeps in this browser, so that a reload shows it: messages and conversations, in IndexedDB.
//
// A message:      { id, conv, from, text, time, mine: 0 | 1, rno? }
// A conversation: { conv, name, room, at, last, readTime, readId, delivered, seen, left? }
// `conv` is `u/` and a user, or `r/` and a room. All tabs of a user share this, so every write can be repeated.

const MAX_MESSAGES = 10_000; // of a conversation
const MAX_CONVERSATIONS = 500;
const WORDS = 200; // characters of the last message that a conversation keeps for the list
const TRIM_AFTER = 200; // messages that were added

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

function complete(transaction) {
  const ended = new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = transaction.onerror = () => reject(transaction.error ?? new Error("aborted"));
  });
  // Whoever waits for a request before it hears of it there.
  ended.catch(() => {});
  return ended;
}

// Browsers close databases on their own: when storage is cleared, when a disk fails, after a long sleep.
const CLOSED = new Set(["InvalidStateError", "UnknownError"]);

// An array is greater than every number and text.
const between = (conv, from, to = [[]]) => IDBKeyRange.bound([conv, ...from], [conv, ...to], true, true);

const fresh = (conv) => ({
  conv, name: conv.slice(2), room: conv.startsWith("r/"), at: Date.now(), last: null, readTime: 0, readId: "",
  delivered: "", seen: "",
});

export class History {
  /** Called when nothing can be kept any more. */
  lost = () => {};
  #db;
  #opening = null;
  #added = new Map();

  static async open(user) {
    const history = new History();
    history.user = user;
    await history.#open();
    return history;
  }

  async #open() {
    const request = indexedDB.open(`kschat ${this.user}`, 1);
    request.onupgradeneeded = () => {
      const messages = request.result.createObjectStore("messages", { keyPath: "id" });
      messages.createIndex("place", ["conv", "time", "id"]);
      messages.createIndex("theirs", ["conv", "mine", "time"]);
      request.result.createObjectStore("conversations", { keyPath: "conv" });
    };
    const db = await done(request);
    db.onversionchange = () => db.close();
    this.#db = db;
  }

  /** Does it, and once more with a new handle if the database was closed under it: all of it can be repeated. */
  async #safely(action) {
    const db = this.#db;
    try {
      return await action();
    } catch (error) {
      if (!CLOSED.has(error?.name)) throw error;
    }
    try {
      if (db === this.#db) await (this.#opening ??= this.#open().finally(() => (this.#opening = null)));
      return await action();
    } catch (error) {
      this.lost();
      throw error;
    }
  }

  static {
    for (const name of ["add", "update", "conversation", "conversations", "remove", "after", "before", "newestOfTheirs"]) {
      const once = History.prototype[name];
      History.prototype[name] = function (...given) {
        return this.#safely(() => once.apply(this, given));
      };
    }
  }

  #stores(mode, ...names) {
    const transaction = this.#db.transaction(names, mode);
    return [transaction, ...names.map((name) => transaction.objectStore(name))];
  }

  /** Keeps messages; returns their conversations as they are then. */
  async add(list) {
    const [transaction, messages, conversations] = this.#stores("readwrite", "messages", "conversations");
    const ended = complete(transaction);
    const touched = new Map();
    for (const message of list) {
      messages.put(message);
      const newest = touched.get(message.conv);
      if (!newest || message.time >= newest.time) touched.set(message.conv, message);
      this.#added.set(message.conv, (this.#added.get(message.conv) ?? 0) + 1);
    }
    for (const [conv, newest] of touched) {
      const record = (await done(conversations.get(conv))) ?? fresh(conv);
      const last = { ...newest, text: newest.text.slice(0, WORDS) };
      if (!record.last || last.time >= record.last.time) record.last = last;
      record.at = Math.max(record.at, newest.time);
      record.left = false;
      conversations.put(record);
    }
    await ended;
    for (const conv of touched.keys()) if (this.#added.get(conv) >= TRIM_AFTER) await this.#trim(conv);
    return Promise.all([...touched.keys()].map((conv) => this.conversation(conv)));
  }

  async #trim(conv) {
    this.#added.delete(conv);
    const [transaction, messages] = this.#stores("readwrite", "messages");
    const ended = complete(transaction);
    const index = messages.index("place");
    const surplus = (await done(index.count(between(conv, [0])))) - MAX_MESSAGES;
    if (surplus > 0) {
      for (const { id } of await done(index.getAll(between(conv, [0]), surplus))) messages.delete(id);
    }
    await ended;
  }

  /** Changes some of a conversation, which begins with that if it is new. */
  async update(conv, change) {
    const [transaction, conversations] = this.#stores("readwrite", "conversations");
    const ended = complete(transaction);
    const record = (await done(conversations.get(conv))) ?? fresh(conv);
    conversations.put({ ...record, ...(typeof change === "function" ? change(record) : change) });
    await ended;
    return this.conversation(conv);
  }

  async conversation(conv) {
    const [, conversations, messages] = this.#stores("readonly", "conversations", "messages");
    const record = await done(conversations.get(conv));
    return record ? this.#counted(record, messages) : null;
  }

  /** With the number of messages that have not been read. */
  async #counted(record, messages) {
    const { conv, readTime } = record;
    return { ...record, unread: await done(messages.index("theirs").count(between(conv, [0, readTime], [0, []]))) };
  }

  /** All of them, the newest first. */
  async conversations() {
    const [, conversations, messages] = this.#stores("readonly", "conversations", "messages");
    const all = (await done(conversations.getAll())).sort((a, b) => b.at - a.at);
    const counted = all.slice(0, MAX_CONVERSATIONS).map((record) => this.#counted(record, messages));
    const kept = await Promise.all(counted);
    for (const { conv } of all.slice(MAX_CONVERSATIONS)) await this.remove(conv);
    return kept;
  }

  async remove(conv) {
    const [transaction, messages, conversations] = this.#stores("readwrite", "messages", "conversations");
    const ended = complete(transaction);
    conversations.delete(conv);
    for (const key of await done(messages.index("place").getAllKeys(between(conv, [0])))) messages.delete(key);
    await ended;
  }

  /** Up to so many messages after a place, oldest first. */
  after({ conv, time, id = [] }, limit) {
    const [, messages] = this.#stores("readonly", "messages");
    return done(messages.index("place").getAll(between(conv, [time, id]), limit));
  }

  /** Up to so many messages before a place, or the newest, oldest first. */
  async before({ conv, time = [], id = "" }, limit) {
    const [, messages] = this.#stores("readonly", "messages");
    const found = [];
    const request = messages.index("place").openCursor(between(conv, [0], [time, id]), "prev");
    await new Promise((resolve, reject) => {
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor || found.push(cursor.value) >= limit) resolve();
        else cursor.continue();
      };
    });
    return found.reverse();
  }

  /** The newest message of the others. */
  async newestOfTheirs(conv) {
    const [, messages] = this.#stores("readonly", "messages");
    const cursor = await done(messages.index("theirs").openCursor(between(conv, [0, 0], [0, []]), "prev"));
    return cursor?.value ?? null;
  }
}
