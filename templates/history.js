// Storage of the chat page in this browser: messages and conversations, in IndexedDB; if that fails, in memory.js.
//
// A message:      { id, conv, from, text, time, mine: 0 | 1, rno? }
// A conversation: { conv, name, room, at, last, readTime, readId, delivered, seen, left? }
// `conv` is `u/` and a user, or `r/` and a room. All tabs of a user share the database, so every write is idempotent.

const MAX_MESSAGES = 10_000; // per conversation
const MAX_CONVERSATIONS = 500;
const PREVIEW_LENGTH = 200; // characters of the last message that a conversation stores for the list
const TRIM_AFTER = 200; // added messages
const OPEN_SECONDS = 10; // seconds that the database may take to open …
const ANSWER_SECONDS = 20; // … and to answer

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
  // The caller handles the error of its request.
  ended.catch(() => {});
  return ended;
}

// Browsers close databases on their own: when storage is cleared, after a disk failure, after a long sleep.
const CLOSED = new Set(["InvalidStateError", "UnknownError"]);

// In IndexedDB an array is greater than every number and text.
const between = (conv, from, to = [[]]) => IDBKeyRange.bound([conv, ...from], [conv, ...to], true, true);

const fresh = (conv) => ({
  conv, name: conv.slice(2), room: conv.startsWith("r/"), at: Date.now(), last: null, readTime: 0, readId: "",
  delivered: "", seen: "",
});

/** Returns a conversation with changes applied; a new one is created. */
export function changed(conv, record, change) {
  const before = record ?? fresh(conv);
  return { ...before, ...(typeof change === "function" ? change(before) : change) };
}

/** Returns a conversation with a message added. */
export function withMessage(record, message) {
  const { last, at } = record ?? fresh(message.conv);
  const newest = !last || message.time >= last.time ? { ...message, text: message.text.slice(0, PREVIEW_LENGTH) } : last;
  return changed(message.conv, record, { last: newest, at: Math.max(at, message.time), left: false });
}

/** Rejects on timeout. Time while the machine sleeps does not count. */
function within(seconds, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    let left = seconds;
    timer = setInterval(() => --left < 0 && reject(new Error("the database does not answer")), 1000);
  });
  return Promise.race([promise, late]).finally(() => clearInterval(timer));
}

/** The database of a user. */
class DatabaseStore {
  #user;
  #db;
  #opening = null;
  #added = new Map();

  constructor(user) {
    this.#user = user;
  }

  async open() {
    const request = indexedDB.open(`kschat ${this.#user}`, 1);
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

  /** Runs an idempotent operation, and retries it with a new handle if the database was closed. */
  async run(name, given) {
    const db = this.#db;
    try {
      return await this[name](...given);
    } catch (error) {
      if (!CLOSED.has(error?.name)) throw error;
    }
    if (db === this.#db) await (this.#opening ??= this.open().finally(() => (this.#opening = null)));
    return this[name](...given);
  }

  #stores(mode, ...names) {
    const transaction = this.#db.transaction(names, mode);
    return [transaction, ...names.map((name) => transaction.objectStore(name))];
  }

  /** Stores messages; returns their conversations. */
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
      conversations.put(withMessage(await done(conversations.get(conv)), newest));
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

  /** Changes a conversation; a new one is created. */
  async update(conv, change) {
    const [transaction, conversations] = this.#stores("readwrite", "conversations");
    const ended = complete(transaction);
    conversations.put(changed(conv, await done(conversations.get(conv)), change));
    await ended;
    return this.conversation(conv);
  }

  async conversation(conv) {
    const [, conversations, messages] = this.#stores("readonly", "conversations", "messages");
    const record = await done(conversations.get(conv));
    return record ? this.#counted(record, messages) : null;
  }

  /** Adds the number of unread messages. */
  async #counted(record, messages) {
    const { conv, readTime } = record;
    return { ...record, unread: await done(messages.index("theirs").count(between(conv, [0, readTime], [0, []]))) };
  }

  /** All conversations, the newest first. */
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

  /** Messages after a position, oldest first. */
  after({ conv, time, id = [] }, limit) {
    const [, messages] = this.#stores("readonly", "messages");
    return done(messages.index("place").getAll(between(conv, [time, id]), limit));
  }

  /** Messages before a position, or the newest, oldest first. */
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

  /** The newest message of others. */
  async newestOfTheirs(conv) {
    const [, messages] = this.#stores("readonly", "messages");
    const cursor = await done(messages.index("theirs").openCursor(between(conv, [0, 0], [0, []]), "prev"));
    return cursor?.value ?? null;
  }
}

export class History {
  /** Called when nothing can be stored any more. */
  lost = () => {};
  /** Whether added messages survive a reload. */
  isKept = true;
  #disk;
  #memory = null; // a promise, once the browser stores nothing

  static async open(user) {
    const history = new History();
    history.#disk = new DatabaseStore(user);
    try {
      await within(OPEN_SECONDS, history.#disk.open());
    } catch (error) {
      history.#forgo(error);
      history.#disk = null;
    }
    return history;
  }

  #forgo(error) {
    if (!this.isKept) return;
    console.warn("nothing is kept in this browser:", error);
    this.isKept = false;
    this.lost();
  }

  async #run(name, given) {
    if (this.isKept) {
      try {
        return await within(ANSWER_SECONDS, this.#disk.run(name, given));
      } catch (error) {
        this.#forgo(error);
      }
    }
    return (await this.#inMemory())[name](...given);
  }

  // Few browsers need it.
  async #inMemory() {
    // The database may still be readable.
    const disk = this.#disk && { run: (...what) => within(ANSWER_SECONDS, this.#disk.run(...what)) };
    this.#memory ??= import("./memory.js").then(({ MemoryStore }) => new MemoryStore(disk));
    try {
      return await this.#memory;
    } catch (error) {
      this.#memory = null;
      throw error;
    }
  }

  static {
    for (const name of ["add", "update", "conversation", "conversations", "remove", "after", "before", "newestOfTheirs"]) {
      History.prototype[name] = function (...given) {
        return this.#run(name, given);
      };
    }
  }
}
