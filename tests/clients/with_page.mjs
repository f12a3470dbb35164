// The chat page in Chromium, as people use it: windows that chat, go offline, are reloaded, and are looked at closely.
//
// Usage: with_page.mjs PAGE_URL SECRET FOLDER [PART...]; screenshots are left in FOLDER.

import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline/promises";
import { chromium } from "playwright-core";
import { WebSocketServer } from "ws";
import { check, eventually, fail, sign, sleep, wire } from "./kit.mjs";

const [page, secret, folder, ...wanted] = process.argv.slice(2);

const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium", args: ["--no-sandbox", "--disable-dev-shm-usage"], timeout: 180_000,
});
const TIMEOUT = 60_000; // of what Playwright waits for
const DESK = { viewport: { width: 1280, height: 800 } };
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
let number = 0;
const somebody = (name) => `${name}-${++number}`;

/** A window of its own, or one more of the same browser. */
async function open(me, other = "", { at = page, context, token, clocks = {}, ...options } = {}) {
  const home = context ?? (await browser.newContext({ ...DESK, ...options }));
  home.setDefaultTimeout(TIMEOUT);
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
  check("and no banner is shown", false, await a.locator("#banner").isVisible());
  await a.evaluate(() => (IDBFactory.prototype.open = () => { throw new DOMException("gone", "UnknownError"); }));
  await remove(a, alice);
  await say(b, "not kept");
  await eventually("where it can't be opened the page says so", true, () => saysLoss(a));
  await eventually("and shows what comes", "not kept", () => row(a, bob).locator(".row-text").textContent());
  await a.home.close();
  await b.home.close();
}

const saysLoss = async (window) => /keeps nothing/.test(await window.locator("#banner-text").textContent());

const neverOpens = () => {
  const { open } = IDBFactory.prototype;
  // Whoever asks gets a request that never succeeds, as in some web views after an update.
  IDBFactory.prototype.open = function (...given) {
    const request = open.apply(this, given);
    for (const event of ["onsuccess", "onerror", "onupgradeneeded", "onblocked"]) Object.defineProperty(request, event, { set() {} });
    return request;
  };
};

const neverAnswers = () => {
  for (const name of ["onsuccess", "onerror"]) Object.defineProperty(IDBRequest.prototype, name, { set() {} });
};

const isFull = () => {
  IDBObjectStore.prototype.put = function () {
    // As a browser tells it: the request is taken, and the transaction aborts.
    const { transaction } = this;
    const error = new DOMException("The quota has been exceeded.", "QuotaExceededError");
    Object.defineProperty(transaction, "error", { get: () => error });
    transaction.abort();
    throw error;
  };
};

const forbidden = () => {
  Object.defineProperty(globalThis, "indexedDB", { get() { throw new DOMException("denied", "SecurityError"); } });
};

const storages = {
  null: () => Object.defineProperty(globalThis, "localStorage", { get: () => null }),
  forbidden: () => {
    for (const name of ["localStorage", "sessionStorage"]) {
      Object.defineProperty(globalThis, name, { get() { throw new DOMException("denied", "SecurityError"); } });
    }
  },
  "without a length": () => Object.defineProperty(Storage.prototype, "length", { get() { throw new Error("no length"); } }),
  full: () => (Storage.prototype.setItem = () => { throw new DOMException("full", "QuotaExceededError"); }),
};

/** A browser that keeps nothing, or not all. */
async function unkept() {
  for (const [name, spoil] of Object.entries({ neverOpens, neverAnswers, isFull, forbidden })) {
    const [alice, bob] = [somebody("alice"), somebody("bob")];
    const b = await open(bob, alice);
    await say(b, "before");
    const home = await browser.newContext(DESK);
    await home.addInitScript(spoil);
    const a = await open(alice, bob, { context: home });
    await eventually(`where the database ${name} the page connects`, "connected", () => link(a));
    const words = range(80, "w");
    await burst(b, words);
    await eventually("all that comes is shown", ["before", ...words], () => texts(a, "theirs"));
    await say(a, "and back");
    await eventually("what is written arrives", ["and back"], () => texts(b, "theirs"));
    await eventually("and is shown", ["accepted"], () => states(a));
    await eventually("the page says that it keeps nothing", true, () => saysLoss(a));
    await shot(a, `keeps-nothing-${name}`);
    const carol = await open(somebody("carol"), alice);
    await say(carol, "hello");
    await row(a, "carol-\\d+").locator("a").click();
    await eventually("other conversations can be opened", ["hello"], () => texts(a));
    await row(a, bob).locator("a").click();
    await eventually("and this one again", "and back", async () => (await texts(a)).at(-1));
    await a.click("#banner-do");
    check("a dismissed banner does not return", false, await a.locator("#banner").isVisible());
    for (const window of [a, b, carol]) await window.home.close();
  }
  for (const [name, spoil] of Object.entries(storages)) {
    const [alice, bob] = [somebody("alice"), somebody("bob")];
    const home = await browser.newContext(DESK);
    await home.addInitScript(spoil);
    const [a, b] = [await open(alice, bob, { context: home }), await open(bob, alice)];
    await say(a, "there");
    await say(b, "back");
    await eventually(`a page whose storage is ${name} works`, [["there"], ["back"]], async () => [await texts(b, "theirs"), await texts(a, "theirs")]);
    await a.home.close();
    await b.home.close();
  }
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
  await eventually("a lost connection is reported", true, () => a.locator("#banner").isVisible());
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
  await eventually("all with a tick", true, async () => (await states(again)).every((state) => state === "accepted"));
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
  await eventually("the last of a thousand arrives", "n999", () => row(b, alice).locator(".row-text").textContent());
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
  const load = async () => {
    const began = Date.now();
    await a.reload();
    await eventually("ten thousand messages are there", true, async () => (await texts(a)).at(-1)?.startsWith("message 10499"));
    console.log(`# ten thousand took ${Date.now() - began} ms`);
    return a.evaluate(async () => {
      const seen = await new Promise((done) => {
        new PerformanceObserver((list) => done(list.getEntries())).observe({ type: "layout-shift", buffered: true });
        setTimeout(() => done([]), 500);
      });
      return seen.filter(({ value }) => value > 0.001).map(({ value, sources }) => `${value} ${sources.map(({ node }) => node?.id || node?.className || node?.nodeName)}`);
    });
  };
  let shifts = await load();
  // A busy machine may paint the page in pieces.
  for (let tries = 1; shifts.length && tries < 3; tries++) shifts = await load();
  check("nothing in the page moves while it loads", [], shifts);
  // While the reader scrolls far up, what is in view must move by what was scrolled, and by nothing else.
  const worst = await a.evaluate(async () => {
    const log = document.getElementById("messages");
    const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const oldest = () => Number(log.querySelector(".message .text").textContent.split(" ")[1]);
    const end = performance.now() + 100_000;
    let worst = 0;
    // Where older ones come slowly, so many steps do not lead far up.
    for (let step = 0; step < 150 || (oldest() >= 10_200 && performance.now() < end); step++) {
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
  await eventually("they do roll over", true, () => line.opened > opened);
  await eventually("and no banner is shown", false, () => a.locator("#banner").isVisible());

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
  await eventually("no banner is shown", false, () => c.locator("#banner").isVisible());
  let given = 0;
  const dave = somebody("dave");
  const d = await open(dave, bob, { token: () => (given++ ? null : sign(secret, dave, 2)), clocks: { renewBefore: 1_000 } });
  // It may be connected for so short a time that nobody sees it.
  await eventually("a user without a new token is signed out", "You are signed out: the session has ended.", () => d.locator("#banner-text").textContent());
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
      await window.fill("#search", "message");
      await eventually("a message is found", true, async () => (await window.locator(".found li").count()) > 0);
      await look("the search");
      await shot(window, `search-${colorScheme}-${name}`);
      await window.click("#new");
      await window.locator("dialog").waitFor();
      await look("the dialog");
      await shot(window, `dialog-${colorScheme}-${name}`);
      await window.keyboard.press("Escape");
      check("nothing is wider than the window", true, await window.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
      await window.home.close();
    }
  }
  const window = await open(alice, bob);
  await say(window, "by keyboard alone");
  await row(window, bob).waitFor();
  await window.locator("#search").focus();
  await window.keyboard.press("ArrowDown");
  check("arrows walk through the list", bob, await window.evaluate(() => document.activeElement.querySelector(".row-name").textContent));
  await window.home.close();
}

async function size() {
  for (const [locale, limit] of [["en-GB", 60_000], ["de-DE", 63_000]]) {
    const window = await browser.newPage({ locale });
    window.setDefaultTimeout(TIMEOUT);
    await window.goto(`${page}?uid=x`);
    let [count, bytes] = [0, 0];
    await eventually("the page is loaded", true, async () => {
      const before = count;
      await sleep(500);
      [count, bytes] = await window.evaluate(() => {
        const loaded = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
        return [loaded.length, loaded.reduce((sum, one) => sum + one.transferSize, 0)];
      });
      return count >= 11 && count === before;
    });
    console.log(`# in ${locale} the page loads ${bytes} bytes, headers and all`);
    check(`it loads in less than ${limit / 1_000} kB in all`, true, count >= 11 && bytes > 10_000 && bytes < limit);
    await window.close();
  }
}

const focused = (window) => window.evaluate(() => document.activeElement.id || document.activeElement.querySelector(".text")?.textContent);
const found = (window) => window.locator(".found .row-text").allTextContents();

/** Stores a conversation in the browser; the texts are a minute apart. */
const remember = (window, user, other, words) =>
  window.evaluate(async ([name, conv, all]) => {
    const { History } = await import("./history.js");
    const history = await History.open(name);
    const start = Date.now() - all.length * 60_000;
    await history.add(all.map((text, index) => ({ id: `${conv} ${String(index).padStart(4, "0")}`, conv, from: name, text, time: start + index * 60_000, mine: 1 })));
  }, [user, `u/${other}`, words]);

/** Search in the stored messages, and conversations by keyboard. */
async function searching() {
  const [alice, bob, carol] = [somebody("alice"), somebody("bob"), somebody("carol")];
  const a = await open(alice, bob);
  await remember(a, alice, bob, [...range(20), "a Needle lies here", ...range(400, "later")]);
  await remember(a, alice, carol, ["no hay", "another needle"]);
  await a.reload();
  await eventually("the newest is shown", "later399", async () => (await texts(a)).at(-1));
  check("where older ones are stored nothing is said", null, await a.locator("#messages").getAttribute("data-begin"));
  await a.keyboard.press("Control+k");
  check("a key leads to the search", "search", await focused(a));
  await a.keyboard.type("NEEDLE");
  await eventually("messages are found, the newest first", ["another needle", "a Needle lies here"], () => found(a));
  check("the match is marked", ["needle", "Needle"], await a.locator(".found mark").allTextContents());
  await shot(a, "search");
  await a.keyboard.press("ArrowDown");
  await a.keyboard.press("ArrowDown");
  await a.keyboard.press("Enter");
  await eventually("it opens where it stands", "a Needle lies here", () => focused(a));
  check("in view", true, await a.locator(".message:focus").evaluate((node) => {
    const [box, view] = [node, node.parentElement].map((one) => one.getBoundingClientRect());
    return box.top >= view.top && box.bottom <= view.bottom;
  }));
  await a.locator("#messages").evaluate((node) => (node.scrollTop = 0));
  await eventually("where the history begins the page says so", "Earlier messages, if any, are not on this device.", () => a.locator("#messages").getAttribute("data-begin"));
  await shot(a, "begin");
  await a.click("#jump");
  await eventually("one button leads back", "later399", async () => (await texts(a)).at(-1));
  await a.fill("#search", "nothing like this");
  await eventually("nothing is found", [], () => found(a));
  await a.keyboard.press("Control+k");
  await a.keyboard.type("car");
  await a.keyboard.press("Enter");
  await eventually("Enter opens the first conversation", carol, () => a.locator("#name").textContent());
  check("ready to write", ["", "msg"], [await a.inputValue("#search"), await focused(a)]);
  await a.keyboard.press("ArrowUp");
  check("an arrow in the empty composer does nothing", ["", "msg", carol], [await a.inputValue("#msg"), await focused(a), await a.locator("#name").textContent()]);
  await a.home.setOffline(true);
  await a.click("#new");
  await eventually("without a network the page says what it can't load", "That did not work: there is no connection", () => a.locator("#banner-text").textContent());
  await a.home.setOffline(false);
  await eventually("and loads it later", true, async () => {
    const isOpen = () => a.locator("dialog").isVisible();
    if (await isOpen()) return true;
    // It may open meanwhile: then nothing below can be clicked.
    await a.click("#new", { timeout: 5_000 }).catch(() => {});
    await sleep(200);
    return isOpen();
  });
  await a.home.close();
  const phone = await open(alice, bob, PHONE);
  await eventually("a phone shows a conversation", true, () => phone.locator("#composer").isVisible());
  await phone.keyboard.press("Control+k");
  check("the key leads to its list", "search", await focused(phone));
  await phone.home.close();
}

/** A browser that notifies as it is asked to. */
const notifies = (permission) => {
  globalThis.shown = [];
  globalThis.asked = 0;
  globalThis.Notification = class {
    static permission = permission;
    static async requestPermission() {
      asked++;
      return (Notification.permission = "granted");
    }
    constructor(title, { body } = {}) {
      if (Notification.permission === "granted") shown.push(Object.assign(this, { title, body }));
    }
    close() {
      this.isClosed = true;
    }
  };
};

async function notifying() {
  const [alice, bob, carol] = [somebody("alice"), somebody("bob"), somebody("carol")];
  const home = await browser.newContext(DESK);
  await home.addInitScript(notifies, "default");
  const a = await open(alice, bob, { context: home });
  const [b, c] = [await open(bob, alice), await open(carol, alice)];
  const shown = (window) => window.evaluate(() => globalThis.shown.map(({ title, body }) => `${title}: ${body}`));
  await connected(a);
  check("nobody is asked at the start", 0, await a.evaluate(() => asked));
  await a.click("#notify");
  await eventually("a button asks", [1, false], async () => [await a.evaluate(() => asked), await a.locator("#notify").isVisible()]);
  await say(b, "in view");
  await eventually("a message comes", ["in view"], () => texts(a));
  await say(c, "Lunch?");
  await eventually("what is not in view is notified of, and nothing else", [`${carol}: Lunch?`], () => shown(a));
  await a.evaluate(() => globalThis.shown[0].onclick());
  await eventually("a click opens it", ["Lunch?"], () => texts(a));
  check("and ends the notification", true, await a.evaluate(() => globalThis.shown[0].isClosed));
  const other = await home.newPage();
  await other.addInitScript(notifies, "granted");
  await other.goto(`${page}?uid=${alice}#u/${carol}`);
  await eventually("another tab shows it", ["Lunch?"], () => texts(other));
  const both = async () => [...(await shown(a)), ...(await shown(other))];
  const notifyOnce = async () => {
    await row(a, bob).locator("a").click();
    await row(other, carol).locator("a").click();
    await eventually("what the other one shows has been read", ["", ""], () => Promise.all([a, other].map((tab) => row(tab, carol).locator(".badge").textContent())));
    for (const tab of [a, other]) await tab.evaluate(() => (globalThis.shown = []));
    const { length } = await texts(other);
    await say(c, "in view of the other");
    await eventually("it shows the next", length + 1, async () => (await texts(other)).length);
    await row(other, bob).locator("a").click();
    await say(c, "of two tabs one notifies");
    await eventually("where no tab shows it", true, async () => (await both()).length > 0);
    await sleep(1_500);
    return both();
  };
  const once = [`${carol}: of two tabs one notifies`];
  let notified = await notifyOnce();
  // A busy machine may tell one tab only after the other one has notified.
  for (let tries = 1; notified.join() !== once.join() && tries < 3; tries++) notified = await notifyOnce();
  check("one tab notifies", once, notified);
  await row(a, carol).locator("a").click();
  const left = async () => (await Promise.all([a, other].map((tab) => tab.evaluate(() => globalThis.shown.filter(({ isClosed }) => !isClosed).length)))).join();
  await eventually("what has been read has no notification", "0,0", left);
  await home.close();
  for (const window of [b, c]) await window.home.close();
}

/** What the source names as a text. */
async function usedTexts() {
  const folder = new URL("../../templates/", import.meta.url);
  const names = ["client.html", ...["client", "composer", "dialog", "find", "list", "log", "notify", "status", "texts"].map((name) => `${name}.js`)];
  const sources = await Promise.all(names.map((name) => readFile(new URL(name, folder), "utf8")));
  return sources.join("\n");
}

async function languages() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const a = await open(alice, bob, { locale: "de-AT" });
  await eventually("a page in German", ["de", "Nachricht", "Verbunden"], async () => [await a.locator("html").getAttribute("lang"), await a.locator("#msg").getAttribute("placeholder"), await a.locator("#status").textContent()]);
  await say(a, "hallo");
  await eventually("states have German names", true, async () => /^(gesendet|zugestellt)$/.test(await a.locator(".state").textContent()));
  check("and days", "Heute", await a.locator("[data-day]").getAttribute("data-day"));
  await a.click("#new");
  await eventually("and dialogs", "Neuer Chat", () => a.locator("dialog h2").textContent());
  await shot(a, "german");
  const words = await a.evaluate(async () => {
    const [{ english, problem, t, hour }, { default: german }] = await Promise.all([import("./texts.js"), import("./texts.de.js")]);
    const placeholders = (text) => (JSON.stringify(text ?? "").match(/\{\w+\}/g) ?? []).sort().join();
    const { errors, ...rest } = german;
    return {
      keys: [Object.keys(english), Object.keys(rest)], odd: Object.keys(english).filter((key) => placeholders(english[key]) !== placeholders(rest[key])),
      plurals: [1, 2, 1_000].map((n) => t("newMessages", { n })), problem: problem({ code: "ended", message: "?" }), hour: hour(new Date(2026, 0, 1, 15, 5).getTime()),
      unknown: problem({ code: 99, message: "as it is" }),
    };
  });
  check("every text is in both languages", ...words.keys);
  check("with the same placeholders", [], words.odd);
  check("numbers choose the plural", ["1 neue Nachricht", "2 neue Nachrichten", "1.000 neue Nachrichten"].join(), words.plurals.join().replace(/1\D?000/, "1.000"));
  check("errors are told in German, unknown ones as they are", ["die Sitzung ist beendet", "as it is", "15:05"], [words.problem, words.unknown, words.hour]);
  const source = await usedTexts();
  const said = [...source.matchAll(/\bt\("(\w+)"|data-(?:text|label|hint)="(\w+)"/g)].map(([, one, other]) => one ?? other);
  check("no text is missing", [], said.filter((key) => !words.keys[0].includes(key)));
  check("none is unused", [], words.keys[0].filter((key) => !source.includes(`"${key}"`)));
  await a.home.close();
  for (const [what, locale, lang, expected] of [["the URL decides", "de-DE", "en", "Message"], ["a wrong one does not", "de-DE", "x-!", "Nachricht"], ["other browsers get English", "fr-FR", "", "Message"], ["and German by the URL", "en-US", "de", "Nachricht"]]) {
    const window = await browser.newPage({ locale });
    window.setDefaultTimeout(TIMEOUT);
    await window.goto(`${page}?${new URLSearchParams({ uid: alice, rid: bob, lang })}`);
    await eventually(what, expected, () => window.locator("#msg").getAttribute("placeholder"));
    await window.close();
  }
}

/** As a module of the host application would do it. */
const rename = (window, hook) => window.evaluate((source) => import("./list.js").then(({ setDisplayName }) => setDisplayName(eval(source))), hook);

async function naming() {
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const [a, b] = [await open(alice, bob, { bypassCSP: true }), await open(bob, alice)];
  await say(a, "hello");
  await rename(a, `(id) => (id === "${bob}" ? "Bob Meyer" : id.toUpperCase())`);
  await eventually("a hook gives names", ["Bob Meyer", alice.toUpperCase(), 1], async () => [await a.locator("#name").textContent(), await a.locator("#my-name").textContent(), await row(a, "Bob Meyer").count()]);
  check("in the title", "Bob Meyer · kschat", await a.title());
  await a.fill("#search", "meyer");
  await eventually("they are found", 1, () => a.locator("#list li").count());
  await a.fill("#search", bob);
  await eventually("ids are, too", 1, () => a.locator("#list li").count());
  await say(a, "to the id");
  await eventually("messages go to the id", ["hello", "to the id"], () => texts(b));
  for (const window of [a, b]) await window.home.close();
}

/** Receipts, presence, copies and rooms, from a server with scripted replies and refusals. */
async function agreed() {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "kschat.v2" });
  await new Promise((listening) => server.on("listening", listening));
  const heard = [];
  const rooms = new Set(["lobby"]);
  let hasMarks = true;
  let socket;
  let sent = 0;
  const answers = {
    send: ({ rno }) => ({ event: "RESPSEND", RANDOMNO: rno, MID: `0190-${++sent}`, MSGTIME: Date.now() }),
    presence: ({ uIds }) => ({ event: "RESPPRESENCE", LIST: uIds.map((uId) => (uId === "bob" ? { uId, on: 1 } : { uId, on: 0, last: Date.now() - 300_000 })) }),
    status: () => ({ event: "RESPSTATUS", LIST: [{ uId: "bob", delivered: hasMarks ? "0190-1" : "" }] }),
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
  await eventually("in the list, too", true, () => row(a, "bob").evaluate((node) => node.classList.contains("here")));
  await say(a, "one", "two", "three");
  await eventually("a new message is accepted", "accepted", async () => (await ticks(a)).at(-1));
  push({ event: "RESPSTATUS", UID: "bob", PID: "alice", STATUS: 3, MID: "0190-2" });
  await eventually("what has arrived has two ticks", ["delivered", "delivered", "accepted"], () => ticks(a));
  push({ event: "RESPSTATUS", UID: "bob", PID: "alice", STATUS: 4, MID: "0190-1" });
  await eventually("receipts are shown", ["read", "delivered", "accepted"], () => ticks(a));
  const state = (look) => a.locator(".message.mine .state").evaluateAll((all, part) => all.map((node) => (part === "name" ? node.textContent : node.querySelector("path").getAttribute("d"))), look);
  check("each state has a name", ["read", "delivered", "sent"], await state("name"));
  check("and a shape of its own", 3, new Set(await state("shape")).size);
  const item = (id, from, to, msg, more) => ({ uId: from, pId: to, msg, mId: id, msgTime: Date.now(), ...more });
  push({ event: "RESPRECEIVER", MSG: [item("0191-1", "bob", "alice", "hi")], POS: "x.1" });
  await eventually("what is looked at is read", "0191-1", () => heard.findLast(({ action }) => action === "read")?.mId);
  push({ event: "RESPRECEIVER", MSG: [item("0191-2", "alice", "bob", "from my phone")], POS: "x.2" });
  await eventually("what another device wrote is shown as one's own", "from my phone", async () => (await texts(a, "mine")).at(-1));
  push({ event: "RESPPRESENCE", LIST: [{ uId: "bob", on: 0, last: Date.now() - 120_000 }] });
  await eventually("presence shows since when a peer is offline", "last seen 2 minutes ago", presence);
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
  await rename(a, "(id, isRoom) => (isRoom ? id : `Dr. ${id}`)");
  check("by the name that the host knows", ["Dr. bob", "Dr. carol"], await a.locator(".message.theirs .name").allTextContents());
  await rename(a, "(id) => id");
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
  hasMarks = false;
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
  const command = (word) => (console.log(`do ${word}`), new Promise((done) => lines.once("line", done)));
  const [alice, bob] = [somebody("alice"), somebody("bob")];
  const [a, b] = [await open(alice, bob), await open(bob, alice)];
  await say(a, "before");
  await eventually("it arrives", ["before"], () => texts(b));
  await eventually("it is accepted", ["accepted"], () => states(a));
  await command("stop");
  await say(a, "meanwhile", "and more");
  await eventually("what is written waits", ["accepted", "sending", "sending"], () => states(a));
  await command("start");
  await eventually("it is sent when the server is back", ["accepted", "accepted", "accepted"], () => states(a));
  await eventually("and arrives in order, once", ["before", "meanwhile", "and more"], () => texts(b));
  await a.home.close();
  await b.home.close();
  lines.close();
}

const parts = {
  chatting, tabs, unkept, offline, bursting, scrolling, rolling, agreed, hostile, looks, size, searching, notifying, languages, naming,
};
const all = { ...parts, pictures, restarting };
for (const name of wanted.length ? wanted : Object.keys(parts)) await all[name]();
await browser.close();
process.exit(0);
