// In-memory replacement of history.js where the browser stores nothing: until the page is reloaded.

import { changed, withMessage } from "./history.js";

const MAX_MESSAGES = 2_000; // per conversation
const MAX_READ = 300; // messages per conversation that are still read from the database

// As IndexedDB orders keys: an array is greater than every number and text.
const timeOf = (time) => (Array.isArray(time) ? Infinity : time);
const isAfter = (message, time, id) =>
  message.time === time ? !Array.isArray(id) && message.id > id : message.time > timeOf(time);
const isBefore = (message, time, id) =>
  message.time === time ? Array.isArray(id) || message.id < id : message.time < timeOf(time);

export class MemoryStore {
  #database;
  #records; // promises conv → conversation
  #messages = new Map(); // conv → promise of its messages, oldest first

  /** Starts with the data of a readable database, if there is one. */
  constructor(database) {
    this.#database = database;
    this.#records = this.#read("conversations", []).then((all) => new Map(all.map((record) => [record.conv, record])));
  }

  async #read(name, given) {
    try {
      return (await this.#database?.run(name, given)) ?? [];
    } catch {
      return [];
    }
  }

  #of(conv) {
    if (!this.#messages.has(conv)) this.#messages.set(conv, this.#read("before", [{ conv }, MAX_READ]));
    return this.#messages.get(conv);
  }

  async add(list) {
    const records = await this.#records;
    for (const message of list) {
      const all = await this.#of(message.conv);
      if (all.some(({ id }) => id === message.id)) continue;
      const place = all.findLastIndex((other) => isBefore(other, message.time, message.id)) + 1;
      all.splice(place, 0, message);
      if (all.length > MAX_MESSAGES) all.shift();
      records.set(message.conv, withMessage(records.get(message.conv), message));
    }
    return Promise.all([...new Set(list.map(({ conv }) => conv))].map((conv) => this.conversation(conv)));
  }

  async update(conv, change) {
    const records = await this.#records;
    records.set(conv, changed(conv, records.get(conv), change));
    return this.conversation(conv);
  }

  async conversation(conv) {
    const record = (await this.#records).get(conv);
    if (!record) return null;
    const all = await this.#of(conv);
    return { ...record, unread: all.filter(({ mine, time }) => !mine && time > record.readTime).length };
  }

  async conversations() {
    const all = [...(await this.#records).keys()];
    const records = await Promise.all(all.map((conv) => this.conversation(conv)));
    return records.sort((a, b) => b.at - a.at);
  }

  async remove(conv) {
    (await this.#records).delete(conv);
    this.#messages.set(conv, Promise.resolve([]));
  }

  async after({ conv, time, id = [] }, limit) {
    return (await this.#of(conv)).filter((message) => isAfter(message, time, id)).slice(0, limit);
  }

  async before({ conv, time = [], id = "" }, limit) {
    return (await this.#of(conv)).filter((message) => isBefore(message, time, id)).slice(-limit);
  }

  async newestOfTheirs(conv) {
    return (await this.#of(conv)).findLast(({ mine }) => !mine) ?? null;
  }
}
