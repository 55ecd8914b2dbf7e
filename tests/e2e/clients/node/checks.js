// Says what a client could do, a line a check, and waits for the crash that the harness makes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

// Where the server is and who may come in; without tlsPort it has no TLS.
const env = process.env;
export const host = "127.0.0.1";
export const port = Number(env.PORT);
export const tlsPort = Number(env.TLS_PORT || 0);
export const password = env.PASSWORD;
export const user = env.CLIENT_USER;
export const userPassword = env.CLIENT_PASSWORD;
export const prefix = env.PREFIX;
export const authority = tlsPort ? readFileSync(env.CA_FILE) : undefined;

const PATIENCE_MS = 15_000;

/** Runs it once for each protocol, with a prefix for its keys. */
export async function check(name, protocols, run) {
  try {
    for (const protocol of protocols) await run(protocol, `${prefix}${protocol}`);
    console.log(`ok ${name}`);
  } catch (error) {
    console.log(`FAILED ${name}: ${String(error.stack).replaceAll("\n", " ").slice(0, 500)}`);
  }
}

export const notOffered = (name) => console.log(`not offered ${name}`);

/** Repeats it until it succeeds. */
export async function eventually(run) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await run();
    } catch (error) {
      if (Date.now() > end) throw error;
    }
    await sleep(20);
  }
}

/** Lets the harness kill the engine; it returns when that has happened. */
export async function crash() {
  console.log("ready");
  const lines = createInterface({ input: process.stdin });
  await new Promise((resolve) => lines.once("line", resolve));
  lines.close();
}

/** What must be refused, with this at the beginning of the error's text. */
export async function refused(promise, beginning) {
  await assert.rejects(promise, (error) => error.message.includes(beginning));
}

export { assert, sleep };
