// Persistent storage: per user and per server, and the ids of seen messages.

import { MAX_SEEN, MAX_SEEN_STORED } from "./common.js";

/** Replaces localStorage. */
class MemoryStorage {
  #map = new Map();
  get length() {
    return this.#map.size;
  }
  key = (index) => [...this.#map.keys()][index] ?? null;
  getItem = (key) => this.#map.get(key) ?? null;
  setItem = (key, value) => void this.#map.set(key, value);
  removeItem = (key) => void this.#map.delete(key);
}

function defaultStorage() {
  try {
    // In Node.js it is one file for all programs of a folder. A web view may have null.
    if (typeof document !== "undefined") return localStorage;
  } catch {
    // Forbidden.
  }
  return null;
}

/** A storage that may be full, forbidden or broken at any time: what it rejects is kept in memory. */
class ResilientStorage {
  #storage;
  #memory = new MemoryStorage();

  constructor(storage) {
    this.#storage = storage ?? new MemoryStorage();
  }

  #try(action, fallback) {
    try {
      return action(this.#storage);
    } catch {
      return fallback;
    }
  }

  get(key) {
    return this.#memory.getItem(key) ?? this.#try((storage) => storage.getItem(key), null);
  }

  set(key, value) {
    const isStored = this.#try((storage) => (storage.setItem(key, value), true), false);
    if (isStored) this.#memory.removeItem(key);
    else this.#memory.setItem(key, value);
  }

  remove(key) {
    this.#memory.removeItem(key);
    this.#try((storage) => storage.removeItem(key));
  }

  keys() {
    const all = (storage) => Array.from({ length: storage.length }, (_, index) => storage.key(index));
    return [...new Set([...this.#try(all, []), ...all(this.#memory)])].filter((key) => typeof key === "string");
  }
}

/** Part of a storage with a key prefix. A loss only affects what a reload would find. */
class Scope {
  prefix;
  #storage;

  constructor(storage, prefix) {
    this.#storage = storage;
    this.prefix = prefix;
  }

  get(name) {
    try {
      return JSON.parse(this.#storage.get(this.prefix + name));
    } catch {
      return null;
    }
  }

  set(name, value) {
    this.#storage.set(this.prefix + name, JSON.stringify(value));
  }

  remove(name) {
    this.#storage.remove(this.prefix + name);
  }

  names(start) {
    const keys = this.#storage.keys().filter((key) => key.startsWith(this.prefix + start));
    return keys.map((key) => key.slice(this.prefix.length)).sort();
  }
}

/** Storage of a user. Message ids are unique across URLs; outgoing messages belong to a URL. */
export class UserStore {
  ofUser;
  ofServer;

  constructor(storage, url, user) {
    const resilient = new ResilientStorage(storage === undefined ? defaultStorage() : storage);
    const { origin, pathname } = new URL(url);
    this.ofUser = new Scope(resilient, `kschat/${encodeURIComponent(user)}/`);
    this.ofServer = new Scope(resilient, `${this.ofUser.prefix}${encodeURIComponent(origin + pathname)}/`);
  }
}

// A UUIDv7 without its timestamp identifies one sender's send, even one that was retried after the server lost its
// data.
const sendOf = (id) => (id.length === 36 && id[14] === "7" ? id.slice(19) : id);

/**
 * Messages that were shown, as [sender, send]. Each tab has its own set in memory, as it must show messages that others have
 * shown. Earlier versions stored sends without senders.
 */
export class SeenMessages {
  #store;
  #keys;
  #withoutSender;
  #unsaved = []; // handled and not stored yet

  constructor(store) {
    this.#store = store;
    const stored = this.#stored();
    this.#keys = new Set(stored.filter(Array.isArray).map((key) => JSON.stringify(key)));
    this.#withoutSender = new Set(stored.filter((key) => !Array.isArray(key)));
  }

  #stored() {
    const stored = this.#store.get("seen");
    return Array.isArray(stored) ? stored : [];
  }

  /** Returns whether it is new. */
  add({ from, id }) {
    if (!id) return true;
    const send = sendOf(id);
    const key = JSON.stringify([from, send]);
    if (this.#keys.has(key) || this.#withoutSender.has(send)) return false;
    this.#keys.add(key);
    if (this.#keys.size > MAX_SEEN) this.#keys.delete(this.#keys.values().next().value);
    return true;
  }

  forget({ from, id }) {
    this.#keys.delete(JSON.stringify([from, sendOf(id)]));
  }

  /** Marks a handled message, which the next page skips. */
  handled({ from, id }) {
    if (id) this.#unsaved.push([from, sendOf(id)]);
  }

  save() {
    if (!this.#unsaved.length) return;
    const keys = new Set([...this.#stored(), ...this.#unsaved].map((key) => JSON.stringify(key)));
    this.#store.set("seen", [...keys].slice(-MAX_SEEN_STORED).map((key) => JSON.parse(key)));
    this.#unsaved = [];
  }
}
