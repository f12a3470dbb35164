// The chat page in Chromium, as people use it: windows that chat, go offline, are reloaded, and are looked at closely.
//
// Usage: with_page.mjs PAGE_URL SECRET FOLDER [PART...]; screenshots are left in FOLDER.

import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline/promises";
import { chromium } from "playwright-core";
import { WebSocketServer } from "ws";
import { check, deadline, eventually, fail, sign, sleep, wire } from "./kit.mjs";

const [page, secret, folder, ...wanted] = process.argv.slice(2);
deadline(290);

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const DESK = { viewport: { width: 1280, height: 800 } };
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
let number = 0;
const somebody = (name) => `${name}-${++number}`;

/** A window of its own, or one more of the same browser. */
async function open(me, other = "", { at = page, context, token, clocks = {}, ...options } = {}) {
  const home = context ?? (await browser.newContext({ ...DESK, ...options }));
  const window = await home.newPage();
  window.home = home;
  window.on("pageerror", (error) => window.mayFail || fail("no error in the page", "none", error.stack));
  window.on("console", (message) => {
    const text = message.text();
    if (message.type() === "error" && !window.mayFail && !/ERR_|WebSocket|Failed to load resource/.test(text)) fail("a quiet console", "nothing", text);
  });
  if (token) {
    await window.route("**/token?*", (route) => {
      const body = token();
      return route.fulfill(body ? { body } : { status: 401 });
    });
  }
  // As a host application would render it.
  await window.addInitScript((values) => {
    document.addEventListener("readystatechange", () => Object.assign(document.querySelector(".app").dataset, values));
  }, { ...clocks, ...(token && { tokenId: token() }) });
  await window.goto(`${at}?${new URLSearchParams({ uid: me, ...(other && { rid: other }) })}`);
  return window;
}

const link = (window) => window.locator(".app").getAttribute("data-link");
const connected = (window) => eventually("a window is connected", "connected", () => link(window));
const texts = (window, kind = "") => window.locator(`#messages .message${kind && `.${kind}`} .text`).allTextContents();
const ticks = (window) => window.locator("#messages .message.mine").evaluateAll((all) => all.map((node) => node.dataset.state));
// Whether the other one has got it as well is another question.
const states = async (window) => (await ticks(window)).map((state) => state.replace(/delivered|read/, "accepted"));
const row = (window, name) => window.locator("#list li", { has: window.locator(".row-name", { hasText: new RegExp(`^${name}$`) }) });
const shot = (window, name) => window.screenshot({ path: `${folder}/${name}.png` });
const range = (count, word = "n") => Array.from({ length: count }, (_, index) => `${word}${index}`);

async function say(window, ...words) {
  for (const text of words) {
    await window.fill("#msg", text);
    await window.press("#msg", "Enter");
  }
}

/** Says it without the keyboard, as fast as a program. */
const burst = (window, words) =>
  window.evaluate((all) => {
    const input = document.getElementById("msg");
    for (const text of all) {
      input.value = text;
      input.dispatchEvent(new Event("input"));
      document.getElementById("composer").requestSubmit();
    }
  }, words);

async function chatting() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const [a, b] = [await open(alice, bob), await open(bob, alice, PHONE)];
  await say(a, "Hi Bob! Are you coming to the demo this afternoon?", "It starts at three.");
  await eventually("two messages arrive", 2, async () => (await texts(b, "theirs")).length);
  await say(b, "Yes, I'll be there 🎉", "Can you send me the link?");
  await eventually("two come back", ["Yes, I'll be there 🎉", "Can you send me the link?"], () => texts(a, "theirs"));
  await say(a, "Sure: https://example.com/demo?room=7 – bring questions.");
  await eventually("all have a tick", true, async () => (await states(a)).every((state) => state !== "sending"));
  check("an address is a link", "https://example.com/demo?room=7", await a.locator(".text a").getAttribute("href"));
  check("bubbles of one person are joined", 2, await a.locator(".message.joined").count());
  check("a day has a separator", ["Today"], await a.locator("[data-day]").evaluateAll((all) => all.map((one) => one.dataset.day)));

  await b.locator("#msg").pressSequentially("I am");
  await eventually("who types is shown", "typing…", () => a.locator("#presence").textContent());
  await b.fill("#msg", "");
  await eventually("and who stops", true, async () => (await a.locator("#presence").textContent()) !== "typing…");

  await eventually("what the other one has read has blue ticks", ["read", "read", "read"], () => ticks(a));
  await eventually("who is here is shown", "online", () => a.locator("#presence").textContent());

  await a.fill("#msg", "one line");
  await a.press("#msg", "Shift+Enter");
  await a.locator("#msg").pressSequentially("another");
  await a.press("#msg", "Enter");
  await eventually("Shift and Enter start a new line", "one line\nanother", async () => (await texts(b)).at(-1));

  const carol = await open(somebody("carol"), alice);
  await say(carol, "Lunch tomorrow?", "The place with the noodles");
  await eventually("others are counted in the list", "2", () => row(a, "carol-\\d+").locator(".badge").textContent());
  await eventually("and in the title", true, async () => (await a.title()).startsWith("(2) "));
  check("not in this conversation", 2, (await texts(a, "theirs")).length);
  await eventually("everything has arrived", 4, async () => (await texts(b, "theirs")).length);
  await shot(a, "chat-desk");
  await shot(b, "chat-phone");
  await row(a, "carol-\\d+").locator("a").click();
  await eventually("a conversation opens", ["Lunch tomorrow?", "The place with the noodles"], () => texts(a));
  check("what is new has a divider", 1, await a.locator("[data-divider]").count());
  await eventually("what is seen is not counted any more", "", () => row(a, "carol-\\d+").locator(".badge").textContent());

  await a.reload();
  await eventually("a reload shows what was there", ["Lunch tomorrow?", "The place with the noodles"], () => texts(a));
  await row(a, bob).locator("a").click();
  await eventually("and the others", 6, async () => (await texts(a)).length);
  await b.locator(".back").click();
  await eventually("on a phone the list has a page of its own", true, () => row(b, alice).isVisible());
  check("and the conversation is away", false, await b.locator("#chat").isVisible());
  await shot(b, "list-phone");
  await b.goBack();
  await eventually("the browser's back button leads back", true, () => b.locator("#chat").isVisible());

  await a.goto(`${page}?uid=${alice}`);
  await eventually("without anybody the page asks for somebody", "Pick a conversation", () => a.locator("#empty-lead").textContent());
  check("in sight", true, await a.locator("#empty-lead").isVisible());
  await shot(a, "nobody");

  await a.fill("#search", "CAR");
  await eventually("the list can be searched", 1, () => a.locator("#list li").count());
  await a.fill("#search", "");
  await a.click("#new");
  await a.fill("#dialog-name", "dave & co");
  await a.press("#dialog-name", "Enter");
  await eventually("a new conversation begins by an id", "dave & co", () => a.locator("#name").textContent());
  await say(a, "hello");
  await eventually("and can be written to", ["accepted"], () => states(a));
  await a.click("#switch");
  await a.fill("#dialog-name", bob);
  await a.press("#dialog-name", "Enter");
  await eventually("the user can be switched", bob, () => a.locator("#my-name").textContent());
  for (const window of [a, b, carol]) await window.home.close();
}

async function tabs() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const line = await wire(page);
  const first = await open(alice, bob, { at: line.url });
  const second = await open(alice, bob, { at: line.url, context: first.home, clocks: { backoffMax: 500 } });
  const b = await open(bob, alice);
  await say(b, "to both");
  for (const tab of [first, second]) await eventually("each tab shows it", ["to both"], () => texts(tab));
  await say(first, "from the first");
  await eventually("the other tab shows what this one wrote", ["to both", "from the first"], () => texts(second));
  line.cut();
  await say(first, "left behind");
  await eventually("a tab waits for its connection", "sending", async () => (await states(first)).at(-1));
  await first.close();
  line.mend();
  await eventually("the other tab sends what a closed one has left", true, async () => (await texts(b)).includes("left behind"));
  await eventually("and shows it", "left behind", async () => (await texts(second)).at(-1));
  await first.home.close();
  await b.home.close();
  line.close();
  await asleep();
  await closed();
}

/** A browser closes the database under the page. */
async function closed() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const a = await open(alice);
  const b = await open(bob, alice);
  await say(b, "before");
  await eventually("a message comes", "before", () => row(a, bob).locator(".row-text").textContent());
  // The page itself closes it when somebody asks for it to be deleted.
  const remove = (window, name) => window.evaluate((user) => new Promise((done) => {
    indexedDB.deleteDatabase(`kschat ${user}`).onsuccess = () => done();
  }), name);
  await remove(a, alice);
  await say(b, "after");
  await eventually("one more comes though the database was closed", "after", () => row(a, bob).locator(".row-text").textContent());
  check("and nobody is told", false, await a.locator("#banner").isVisible());
  await a.evaluate(() => (IDBFactory.prototype.open = () => { throw new DOMException("gone", "UnknownError"); }));
  await remove(a, alice);
  a.mayFail = true;
  await say(b, "lost");
  await eventually("where it can't be opened the page says so", true, async () => /keeps nothing/.test(await a.locator("#banner-text").textContent()));
  await a.reload();
  await eventually("a reload shows what was not kept", "lost", () => row(a, bob).locator(".row-text").textContent());
  await a.home.close();
  await b.home.close();
}

/** A tab whose own connection is down while another one takes the messages. */
async function asleep() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const line = await wire(page);
  const url = String(new URL("dev", line.url)).replace("http", "ws");
  const awake = await open(alice, bob, { bypassCSP: true });
  const cut = await open(alice, bob, { context: awake.home, clocks: { url, backoffMax: 500 } });
  const b = await open(bob, alice);
  await Promise.all([connected(awake), connected(cut)]);
  line.cut();
  await say(b, "one", "two");
  await eventually("a tab takes what comes", ["one", "two"], () => texts(awake));
  await eventually("one without a connection shows it, too", ["one", "two"], () => texts(cut));
  line.mend();
  await connected(cut);
  await say(b, "three");
  await eventually("and goes on once it has one", ["one", "two", "three"], () => texts(cut));
  await awake.home.close();
  await b.home.close();
  line.close();
}

async function offline() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const line = await wire(page);
  const a = await open(alice, bob, { at: line.url, clocks: { probeTimeout: 800, backoffMax: 500 } });
  const b = await open(bob, alice);
  await say(a, "before");
  await eventually("it has a tick", ["accepted"], () => states(a));
  line.cut();
  await eventually("a lost connection is told", true, () => a.locator("#banner").isVisible());
  await say(a, "meanwhile", "and more");
  await eventually("what is written waits", ["accepted", "sending", "sending"], () => states(a));
  await shot(a, "offline");
  line.mend();
  await eventually("it is sent once the wire is back", ["accepted", "accepted", "accepted"], () => states(a));
  await eventually("in order, once", ["before", "meanwhile", "and more"], () => texts(b));
  await eventually("the banner goes", false, () => a.locator("#banner").isVisible());

  line.cut();
  await say(a, ...range(5, "left"));
  await eventually("five wait", 5, async () => (await states(a)).filter((state) => state === "sending").length);
  await a.close();
  line.mend();
  const again = await open(alice, bob, { at: line.url, context: a.home });
  await eventually("a closed window's messages are sent by the next one", range(5, "left"), async () => (await texts(b)).slice(-5));
  await eventually("and shown there", 8, async () => (await texts(again)).length);
  check("all with a tick", true, (await states(again)).every((state) => state === "accepted"));
  line.isFrozen = true;
  await say(b, "into the void");
  await again.evaluate(() => dispatchEvent(new Event("offline")));
  await sleep(1_500);
  line.mend();
  await eventually("a frozen wire is noticed", true, async () => (await texts(again)).includes("into the void"));
  await a.home.close();
  await b.home.close();
  line.close();
}

async function bursting() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const [a, b] = [await open(alice, bob), await open(bob, alice)];
  await Promise.all([connected(a), connected(b)]);
  const words = range(1_000);
  const began = Date.now();
  await burst(a, words.slice(0, 500));
  // In the middle of it both are reloaded.
  await sleep(400);
  await b.reload();
  await sleep(200);
  await a.reload();
  await connected(a);
  await burst(a, words.slice(500));
  await eventually("the last of a thousand arrives", "n999", () => row(b, alice).locator(".row-text").textContent(), 90);
  console.log(`# a thousand took ${Date.now() - began} ms`);
  const all = await b.evaluate(async (name) => {
    const { History } = await import("./history.js");
    return (await (await History.open(name)).before({ conv: location.hash.slice(1) }, 5_000)).map(({ id, text }) => [text, id]);
  }, bob);
  const astray = all.filter(([text], place) => text !== words[place]);
  check("a thousand came through two reloads: all, once, in order", [1_000, []], [all.length, astray]);
  check("only a window of them is in the page", true, (await b.locator(".message").count()) <= 300);
  await eventually("alice has ticks for hers", true, async () => (await states(a)).every((state) => state !== "sending"));
  await a.home.close();
  await b.home.close();
}

async function scrolling() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const line = await wire(page);
  const a = await open(alice, bob, { at: line.url });
  const kept = await a.evaluate(async ([name, other]) => {
    const { History } = await import("./history.js");
    const history = await History.open(name);
    const start = Date.now() - 10_500 * 60_000;
    const long = (index) => `message ${index} ${"word ".repeat((index * 7) % 40)}`;
    for (let from = 0; from < 10_500; from += 750) {
      await history.add(Array.from({ length: 750 }, (_, step) => {
        const index = from + step;
        const mine = index % 3 ? 0 : 1;
        const id = `0000-${String(index).padStart(6, "0")}`;
        return { id, conv: `u/${other}`, from: mine ? name : other, text: long(index), time: start + index * 60_000, mine };
      }));
    }
    await history.update(`u/${other}`, { readTime: Date.now() });
    return (await history.before({ conv: `u/${other}` }, 20_000)).length;
  }, [alice, bob]);
  check("the oldest are forgotten beyond ten thousand", 10_000, kept);
  const began = Date.now();
  await a.reload();
  await eventually("ten thousand messages are there", true, async () => (await texts(a)).at(-1)?.startsWith("message 10499"));
  check("and shown in a few seconds, on a machine that does much else", true, Date.now() - began < 5_000);
  const shifts = await a.evaluate(async () => {
    const seen = await new Promise((done) => {
      new PerformanceObserver((list) => done(list.getEntries())).observe({ type: "layout-shift", buffered: true });
      setTimeout(() => done([]), 500);
    });
    return seen.filter(({ value }) => value > 0.001).map(({ value, sources }) => `${value} ${sources.map(({ node }) => node?.id || node?.className || node?.nodeName)}`);
  });
  check("nothing in the page moves while it loads", [], shifts);
  // While the reader scrolls far up, what is in view must move by what was scrolled, and by nothing else.
  const worst = await a.evaluate(async () => {
    const log = document.getElementById("messages");
    const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    let worst = 0;
    for (let step = 0; step < 150; step++) {
      const middle = log.getBoundingClientRect().top + log.clientHeight / 2;
      const node = [...log.children].find((one) => one.getBoundingClientRect().bottom > middle);
      const top = node.querySelector(".bubble").getBoundingClientRect().top;
      const before = log.scrollTop;
      const moved = Math.min(300, before);
      log.scrollTop -= 300;
      await frame();
      await frame();
      if (node.isConnected) worst = Math.max(worst, Math.abs(node.querySelector(".bubble").getBoundingClientRect().top - top - moved));
    }
    return worst;
  });
  check("nothing jumps while older ones are fetched", true, worst <= 1.5);
  check("few are in the page", true, (await a.locator(".message").count()) <= 300);
  check("old ones are in view", true, Number((await texts(a))[0].split(" ")[1]) < 10_200);
  const b = await open(bob, alice);
  await say(b, "are you still there?");
  await eventually("what comes meanwhile is counted", "1 new message", () => a.locator("#jump span").textContent());
  await shot(a, "scrolled");
  await a.click("#jump");
  await eventually("one button leads to it", "are you still there?", async () => (await texts(a)).at(-1));
  await eventually("the newest is in view", false, () => a.locator("#jump").isVisible());

  line.cut();
  await say(a, "waits");
  await eventually("one waits to be sent", "waits", async () => (await texts(a)).at(-1));
  const scroll = (to) => a.evaluate((top) => (document.getElementById("messages").scrollTop = top), to);
  const isThere = async (to) => {
    await scroll(to);
    return (await texts(a)).includes("waits");
  };
  await eventually("far up it is not in the page", false, () => isThere(0));
  await eventually("and at the end it is back", true, () => isThere(1e7));
  await a.home.close();
  await b.home.close();
  line.close();
}

async function rolling() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const line = await wire(page);
  const clocks = { rolloverAfter: 700, rolloverOverlap: 200 };
  const a = await open(alice, bob, { at: line.url, clocks });
  const b = await open(bob, alice, { at: line.url, clocks });
  const words = range(60);
  for (const word of words) await say(a, word);
  await sleep(1_500);
  await say(a, "last");
  await eventually("nothing is lost or doubled while both roll over", [...words, "last"], () => texts(b));
  const opened = line.opened;
  await sleep(1_500);
  check("they do roll over", true, line.opened > opened);
  check("and nobody is told", false, await a.locator("#banner").isVisible());

  let asked = 0;
  const carol = somebody("carol");
  const token = () => (asked++, sign(secret, carol, 3));
  const c = await open(carol, bob, { token, clocks: { renewBefore: 1_000 } });
  for (const word of range(12, "c")) {
    await say(c, word);
    await sleep(500);
  }
  await eventually("a page outlives its tokens", true, async () => (await states(c)).every((state) => state === "accepted"));
  check("it asked for new ones", true, asked >= 4);
  check("nobody is told", false, await c.locator("#banner").isVisible());
  let given = 0;
  const dave = somebody("dave");
  const d = await open(dave, bob, { token: () => (given++ ? null : sign(secret, dave, 2)), clocks: { renewBefore: 1_000 } });
  await connected(d);
  await eventually("who is not given a token any more is told", "You are signed out: the session has ended.", () => d.locator("#banner-text").textContent());
  await say(d, "too late");
  await eventually("what is written then is not taken", "Not sent: the session has ended.", () => d.locator("#note").textContent());
  check("and not lost", ["too late", []], [await d.inputValue("#msg"), await texts(d)]);
  await d.reload();
  await eventually("a reload keeps it", "too late", () => d.inputValue("#msg"));
  for (const window of [a, b, c, d]) await window.home.close();
  line.close();
}

async function hostile() {
  const [alice, bob] = ["<img src=x onerror=alert(1)>", "bob\u202Egnp.exe‮"];
  const a = await open(alice, bob);
  const b = await open(bob, alice, PHONE);
  const bodies = [
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">",
    "javascript:alert(1) https://example.com/\"onmouseover=alert(1)//",
    `Z${"\u0300\u0489\u0335".repeat(300)}algo`,
    "\u202Ereversed\u202C مرحبا بالعالم",
    "👩‍👩‍👧‍👦",
    `${"W".repeat(3_000)}`,
    "a\u0000b\u2028c\u2029d\uFEFF",
    "{{uid}} ${alert(1)} %3Cb%3E &lt;b&gt;",
  ];
  await say(a, ...bodies);
  await eventually("hostile messages arrive as they are", bodies.slice(0, 6), async () => (await texts(b)).slice(0, 6));
  for (const window of [a, b]) {
    check("no element comes of them", 0, await window.locator("#messages script, #messages img, #messages b").count());
    check("the title is our own", true, /kschat$/.test(await window.title()));
    check("nothing is wider than the window", true, await window.evaluate(() => document.documentElement.scrollWidth <= innerWidth && document.getElementById("messages").scrollWidth <= document.getElementById("messages").clientWidth));
  }
  check("a name is text, too", alice, await a.locator("#my-name").textContent());
  await shot(b, "hostile");
  const policy = (await a.request.get(`${page}?uid=x`)).headers()["content-security-policy"];
  check("the policy forbids all scripts and styles but our own", true, /default-src 'none'; script-src 'self'; style-src 'self';/.test(policy) && !/unsafe/.test(policy));
  await a.home.close();
  await b.home.close();
}

async function looks() {
  const axe = await readFile(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  for (const colorScheme of ["light", "dark"]) {
    for (const [name, size] of Object.entries({ desk: DESK, phone: PHONE, small: { viewport: { width: 360, height: 640 } } })) {
      const window = await open(alice, bob, { ...size, colorScheme, bypassCSP: true });
      await say(window, "Good morning", "👋", "A longer message, which takes more than one line on every phone that there is.");
      await say(window, "x".repeat(28 * 1024).slice(0, 200));
      await eventually("all have a tick", true, async () => (await states(window)).every((state) => state === "accepted"));
      await window.evaluate(axe);
      const look = async (what) => {
        const { violations } = await window.evaluate(() => globalThis.axe.run());
        const found = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map(({ html }) => html.slice(0, 200)).join(" ")}`);
        check(`axe finds nothing: ${what}, ${colorScheme}, ${name}`, [], found);
      };
      await look("a conversation");
      await shot(window, `look-${colorScheme}-${name}`);
      if (name !== "desk") {
        await window.locator(".back").click();
        await look("the list");
      }
      await window.click("#new");
      await look("the dialog");
      await window.keyboard.press("Escape");
      check("nothing is wider than the window", true, await window.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
      await window.home.close();
    }
  }
  const window = await open(alice, bob);
  await say(window, "by keyboard alone");
  await window.locator("#search").focus();
  await window.keyboard.press("ArrowDown");
  check("arrows walk through the list", bob, await window.evaluate(() => document.activeElement.querySelector(".row-name").textContent));
  await window.home.close();
}

async function size() {
  const window = await browser.newPage();
  await window.goto(`${page}?uid=x`);
  await sleep(1_000);
  const [count, bytes] = await window.evaluate(() => {
    const loaded = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
    return [loaded.length, loaded.reduce((sum, one) => sum + one.transferSize, 0)];
  });
  console.log(`# the page loads ${bytes} bytes, headers and all`);
  check("it loads in less than 60 kB in all", true, count >= 11 && bytes > 10_000 && bytes < 60_000);
  await window.close();
}

/** Receipts, presence, copies and rooms, said by a server that says and refuses what it is told to. */
async function agreed() {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "kschat.v2" });
  await new Promise((listening) => server.on("listening", listening));
  const heard = [];
  const rooms = new Set(["lobby"]);
  let socket;
  let sent = 0;
  const answers = {
    send: ({ rno }) => ({ event: "RESPSEND", RANDOMNO: rno, MID: `0190-${++sent}`, MSGTIME: Date.now() }),
    presence: ({ uIds }) => ({ event: "RESPPRESENCE", LIST: uIds.map((uId) => (uId === "bob" ? { uId, on: 1 } : { uId, on: 0, last: Date.now() - 300_000 })) }),
    status: () => ({ event: "RESPSTATUS", LIST: [{ uId: "bob", delivered: "0190-1" }] }),
    join: ({ gId }) => {
      if (gId === "secret") return { event: "RESPROOM", OP: "join", GID: gId, ER: 14, ERMSG: "you are not a member" };
      rooms.add(gId);
      return { event: "RESPROOM", OP: "join", GID: gId };
    },
    leave: ({ gId }) => (rooms.delete(gId), { event: "RESPROOM", OP: "leave", GID: gId }),
    rooms: () => ({ event: "RESPROOM", OP: "list", LIST: [...rooms] }),
  };
  const push = (frame) => socket.send(JSON.stringify({ RC: 1, ER: 0, ...frame }));
  server.on("connection", (one) => {
    socket = one;
    one.on("message", (data) => {
      const frame = JSON.parse(data);
      heard.push(frame);
      if (answers[frame.action]) one.send(JSON.stringify({ RC: 1, ER: 0, ...answers[frame.action](frame) }));
    });
  });
  const url = `ws://127.0.0.1:${server.address().port}/dev`;
  const a = await open("alice", "bob", { clocks: { url, readEvery: 100 }, bypassCSP: true });
  const presence = () => a.locator("#presence").textContent();
  await eventually("who is here is shown", "online", presence);
  check("in the list, too", true, await row(a, "bob").evaluate((node) => node.classList.contains("here")));
  await say(a, "one", "two", "three");
  await eventually("a new message is accepted", "accepted", async () => (await ticks(a)).at(-1));
  push({ event: "RESPSTATUS", UID: "bob", PID: "alice", STATUS: 3, MID: "0190-2" });
  await eventually("what has arrived has two ticks", ["delivered", "delivered", "accepted"], () => ticks(a));
  push({ event: "RESPSTATUS", UID: "bob", PID: "alice", STATUS: 4, MID: "0190-1" });
  await eventually("what has been read is told", ["read", "delivered", "accepted"], () => ticks(a));
  const item = (id, from, to, msg, more) => ({ uId: from, pId: to, msg, mId: id, msgTime: Date.now(), ...more });
  push({ event: "RESPRECEIVER", MSG: [item("0191-1", "bob", "alice", "hi")], POS: "x.1" });
  await eventually("what is looked at is read", "0191-1", () => heard.findLast(({ action }) => action === "read")?.mId);
  push({ event: "RESPRECEIVER", MSG: [item("0191-2", "alice", "bob", "from my phone")], POS: "x.2" });
  await eventually("what another device wrote is shown as one's own", "from my phone", async () => (await texts(a, "mine")).at(-1));
  push({ event: "RESPPRESENCE", LIST: [{ uId: "bob", on: 0, last: Date.now() - 120_000 }] });
  await eventually("who goes is told, and when", "last seen 2 minutes ago", presence);
  await shot(a, "agreed");
  await a.reload();
  await eventually("marks outlive a reload", ["read", "delivered", "accepted"], async () => (await ticks(a)).slice(0, 3));

  await eventually("rooms are listed", true, () => row(a, "lobby").isVisible());
  await a.click("#new");
  await a.locator("[name=kind][value=r]").check();
  await a.fill("#dialog-name", "secret");
  await a.press("#dialog-name", "Enter");
  await eventually("a closed room says why", "That did not work: you are not a member", () => a.locator("#dialog-problem").textContent());
  await a.fill("#dialog-name", "r1");
  await a.press("#dialog-name", "Enter");
  await eventually("a room is opened", ["r1", "Room"], async () => [await a.locator("#name").textContent(), await presence()]);
  await say(a, "hello all");
  await eventually("a message to it is accepted", ["accepted"], () => ticks(a));
  check("it is sent to the room", "r1", heard.findLast(({ action }) => action === "send").gId);
  push({ event: "RESPRECEIVER", MSG: [item("0192-1", "bob", "r1", "hi", { gId: "r1" }), item("0192-2", "carol", "r1", "hey", { gId: "r1" })], POS: "x.3" });
  await eventually("who wrote stands above", ["bob", "carol"], () => a.locator(".message.theirs .name").allTextContents());
  await shot(a, "room");
  const other = await open("alice", "bob", { context: a.home, clocks: { url, readEvery: 100, backoffMax: 500 } });
  const inOther = socket;
  await eventually("another tab lists it", 1, () => row(other, "r1").count());
  await a.click("#leave");
  await eventually("who leaves a room loses it from the list", 0, () => row(a, "r1").count());
  await eventually("in all tabs", 0, () => row(other, "r1").count());
  const joins = heard.filter(({ action }) => action === "join").length;
  inOther.terminate();
  await eventually("a tab comes back", true, () => socket !== inOther && socket.readyState === 1);
  await connected(other);
  await sleep(300);
  const joined = () => heard.filter(({ action }) => action === "join").slice(joins).map(({ gId }) => gId);
  check("and does not join it again", [], joined());
  rooms.delete("lobby");
  rooms.add("den");
  await other.reload();
  await eventually("a room that another device has left goes", [0, 1], () => Promise.all(["lobby", "den"].map((name) => row(other, name).count())));
  check("without being joined", [], joined());
  rooms.clear();
  await other.reload();
  await eventually("a server that has lost all rooms hears of them", ["den"], joined);
  await a.home.close();
  server.close();
}

/** Pictures for the README. */
async function pictures() {
  const alice = await open("alice", "bob", { viewport: { width: 1180, height: 700 } });
  const bob = await open("bob", "alice", { ...PHONE, viewport: { width: 360, height: 700 }, colorScheme: "dark" });
  for (const [name, words] of [["Priya", "The figures are in the folder 📊"], ["Jonas", "See you on Monday"], ["mum", "Call me when you are back, there is cake"]]) {
    const other = await open(name, "alice");
    await say(other, words);
    await eventually("it arrives", words, () => row(alice, name).locator(".row-text").textContent());
    await other.home.close();
  }
  await row(alice, "Jonas").locator("a").click();
  await eventually("it is read", "", () => row(alice, "Jonas").locator(".badge").textContent());
  await row(alice, "bob").locator("a").click();
  await say(alice, "Hi Bob! Are you coming to the demo this afternoon?", "It starts at three.");
  await eventually("it arrives", 2, async () => (await texts(bob, "theirs")).length);
  await say(bob, "Yes, I'll be there 🎉", "Will it show what happens when the broker dies?");
  await eventually("it arrives", 2, async () => (await texts(alice, "theirs")).length);
  await say(alice, "It will. We pull the plug in the middle of a thousand messages: https://example.com/chaos");
  await say(alice, "👋");
  await eventually("it arrives", 4, async () => (await texts(bob, "theirs")).length);
  await say(bob, "Brave. I bring popcorn.");
  await eventually("it arrives", 3, async () => (await texts(alice, "theirs")).length);
  await eventually("all have been read", true, async () => [...(await ticks(alice)), ...(await ticks(bob))].every((state) => state === "read"));
  await alice.mouse.move(700, 500);
  await bob.locator("#msg").pressSequentially("And");
  await eventually("who types is shown", "typing…", () => alice.locator("#presence").textContent());
  await shot(alice, "chat");
  await alice.locator("#msg").pressSequentially("W");
  await eventually("who types is shown", "typing…", () => bob.locator("#presence").textContent());
  await bob.fill("#msg", "");
  await shot(bob, "chat-phone-dark");
  await alice.home.close();
  await bob.home.close();
}

/** The whole server goes and comes back: whoever started this script does that. */
async function restarting() {
  const lines = createInterface({ input: process.stdin });
  const told = (word) => (console.log(`do ${word}`), new Promise((done) => lines.once("line", done)));
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const [a, b] = [await open(alice, bob), await open(bob, alice)];
  await say(a, "before");
  await eventually("it arrives", ["before"], () => texts(b));
  await told("stop");
  await say(a, "meanwhile", "and more");
  await eventually("what is written waits", ["accepted", "sending", "sending"], () => states(a));
  await told("start");
  await eventually("it is sent when the server is back", ["accepted", "accepted", "accepted"], () => states(a), 60);
  await eventually("and arrives in order, once", ["before", "meanwhile", "and more"], () => texts(b), 60);
  await a.home.close();
  await b.home.close();
  lines.close();
}

const parts = { chatting, tabs, offline, bursting, scrolling, rolling, agreed, hostile, looks, size };
const all = { ...parts, pictures, restarting };
for (const name of wanted.length ? wanted : Object.keys(parts)) await all[name]();
await browser.close();
process.exit(0);
