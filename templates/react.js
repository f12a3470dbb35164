"use client";
// React hooks for kschat.js. react.d.ts documents them.

import { useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { connect, KschatError } from "./kschat.js";

const MAX_SHOWN = 1_000; // messages per conversation
const NO_MESSAGES = [];
const unsubscribed = () => () => {};

class Store {
  #listeners = new Set();

  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  changed() {
    for (const listener of [...this.#listeners]) listener();
  }
}

const conversationOf = ({ room, user }) => JSON.stringify(room ? ["room", room] : ["user", user]);
const shownSent = (sent, from) => ({ key: sent.rno, from, mine: true, ...sent });
const shownReceived = (message) => ({ key: (message.mine && message.rno) || `${message.from}/${message.id}`, ...message });

/** The messages of all conversations of one user. */
class MessageLog extends Store {
  #conversations = new Map(); // key of the conversation → its messages; an array never changes

  attach(client) {
    client.on("state", (sent) => this.#put([shownSent(sent, client.user)]));
    client.on("messages", (messages) => this.#put(messages.map(shownReceived)));
    this.#put(client.outbox.map((sent) => shownSent(sent, client.user)));
    return this;
  }

  of(conversation) {
    return this.#conversations.get(conversation) ?? NO_MESSAGES;
  }

  #put(messages) {
    for (const message of messages) {
      const user = message.mine ? message.to : message.from;
      const conversation = conversationOf({ room: message.room, user });
      const all = [...this.of(conversation)];
      const place = all.findIndex(({ key }) => key === message.key);
      if (place < 0) all.push(message);
      else all[place] = message;
      this.#conversations.set(conversation, all.slice(-MAX_SHOWN));
    }
    this.changed();
  }

  remove(conversation, key) {
    this.#conversations.set(conversation, this.of(conversation).filter((message) => message.key !== key));
    this.changed();
  }
}

/** The presence of all users that components show. */
class PresenceWatch extends Store {
  #client;
  #counts = new Map(); // user → number of components
  #known = new Map(); // user → presence
  #requested = "[]";
  #isScheduled = false;

  constructor(client) {
    super();
    this.#client = client;
    client.on("presence", (presence) => {
      this.#known.set(presence.user, presence);
      this.changed();
    });
  }

  of(user) {
    return this.#known.get(user);
  }

  watch(user) {
    this.#count(user, 1);
    return () => this.#count(user, -1);
  }

  #count(user, change) {
    const count = (this.#counts.get(user) ?? 0) + change;
    if (count) this.#counts.set(user, count);
    else if (this.#counts.delete(user)) this.#known.delete(user);
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(() => this.#request());
  }

  /** One request for all components that were mounted or unmounted together. */
  #request() {
    this.#isScheduled = false;
    const users = [...this.#counts.keys()].sort();
    if (JSON.stringify(users) === this.#requested) return;
    this.#requested = JSON.stringify(users);
    this.#client.presence(users);
  }
}

const logs = new WeakMap(); // client → MessageLog
const watches = new WeakMap(); // client → PresenceWatch

function logOf(client) {
  if (!logs.has(client)) logs.set(client, new MessageLog().attach(client));
  return logs.get(client);
}

function watchOf(client) {
  if (!watches.has(client)) watches.set(client, new PresenceWatch(client));
  return watches.get(client);
}

export function useChat(options) {
  const [client, setClient] = useState(null);
  const latest = useRef(options);
  const shown = useRef({}); // Hot reload replaces the client. Its messages stay.
  useEffect(() => {
    latest.current = options;
  });
  const url = options?.url;
  const user = options ? String(options.user) : undefined;
  useEffect(() => {
    if (user === undefined) return undefined;
    const { getToken, onMessages, ...fixed } = latest.current;
    const opened = connect({ ...fixed, getToken: getToken && (() => latest.current.getToken()) });
    opened.on("messages", (messages) => latest.current?.onMessages?.(messages));
    if (shown.current.url !== url || shown.current.user !== user) shown.current = { url, user, log: new MessageLog() };
    logs.set(opened, shown.current.log.attach(opened));
    setClient(opened);
    return () => {
      opened.close();
      setClient(null);
    };
  }, [url, user]);
  return client;
}

export function useConnection(client) {
  const subscribe = useMemo(() => (client ? (listener) => client.subscribe("connection", listener) : unsubscribed), [client]);
  return useSyncExternalStore(subscribe, () => client?.state ?? "closed", () => "closed");
}

export function useConversation(client, partner) {
  const room = partner?.room === undefined ? undefined : String(partner.room);
  const user = room === undefined ? String(partner) : undefined;
  const conversation = conversationOf({ room, user });
  const log = client && logOf(client);
  const messages = useSyncExternalStore(
    log?.subscribe ?? unsubscribed,
    () => log?.of(conversation) ?? NO_MESSAGES,
    () => NO_MESSAGES,
  );
  const status = useConnection(client);
  const actions = useMemo(() => actionsOf(client, log, conversation, { room, user }), [client, log, conversation]);
  return { messages, status, ...actions };
}

function actionsOf(client, log, conversation, { room, user }) {
  return {
    send(text) {
      if (!client) return Promise.reject(new KschatError("closed"));
      return room === undefined ? client.send(user, text) : client.sendRoom(room, text);
    },
    retry(rno) {
      const promise = client?.retry(rno) ?? null;
      if (promise && promise.rno !== rno) log.remove(conversation, rno);
      return promise;
    },
    discard(rno) {
      const isDiscarded = client?.discard(rno) ?? false;
      if (isDiscarded) log.remove(conversation, rno);
      return isDiscarded;
    },
  };
}

export function usePresence(client, user) {
  const id = user === undefined || user === null ? "" : String(user);
  const watch = client && watchOf(client);
  useEffect(() => (watch && id ? watch.watch(id) : undefined), [watch, id]);
  const presence = () => watch?.of(id);
  return useSyncExternalStore(watch?.subscribe ?? unsubscribed, presence, () => undefined);
}
