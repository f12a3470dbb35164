// wscat, as one tries an API by hand.
//
// Usage: with_wscat.mjs WS_URL

import { spawn } from "node:child_process";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

const [wsUrl] = process.argv.slice(2);
const wscat = fileURLToPath(import.meta.resolve("wscat/bin/wscat"));
const frame = '{"action":"echo","n":1}';

// Each run of wscat has a deadline of its own; this one is for all of them.
setTimeout(() => {
  console.error("FAILED everything\nexpected: done within 600 s\ngot:      still running");
  process.exit(1);
}, 600_000).unref();

async function run(...args) {
  const child = spawn(process.execPath, [wscat, ...args], { timeout: 120_000 });
  const [out, err] = await Promise.all([text(child.stdout), text(child.stderr)]);
  return { out, err };
}

/** Says the frame; on a busy machine the echo may come after wscat has closed. */
async function echo(...args) {
  let echoed;
  for (const wait of ["1", "5", "20"]) {
    echoed = await run("-c", wsUrl, ...args, "-x", frame, "-w", wait);
    if (echoed.out) break;
    console.log(`# no echo within ${wait} s`);
  }
  return echoed;
}

function check(what, expected, passed, { out, err }) {
  if (!passed) {
    console.error(`FAILED ${what}\nexpected: ${expected}\nstdout:   ${out}\nstderr:   ${err}`);
    process.exit(1);
  }
  console.log(`ok ${what}`);
}

const echoed = await echo();
check("wscat prints the echo", frame, echoed.out === `${frame}\n`, echoed);

// wscat fails unless the edge chooses one of the subprotocols that it offers.
const chosen = await echo("-s", "chat.v1");
check("wscat speaks a subprotocol", frame, chosen.out === `${frame}\n`, chosen);

const refused = await run("-c", `${wsUrl}?refuse=401`, "-x", frame, "-w", "1");
check("wscat names the status of a refusal", "an error with 401", /^error: .*401/.test(refused.err), refused);
