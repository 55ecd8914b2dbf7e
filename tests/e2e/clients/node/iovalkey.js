// What iovalkey can do with a server; checks.js says how it is told.
import { Redis } from "iovalkey";
import * as t from "./checks.js";
import { assert, check, sleep } from "./checks.js";

const protocols = [2];

async function using(change, run) {
  const client = open(change);
  try {
    return await run(client);
  } finally {
    client.disconnect();
  }
}

function open(change) {
  const client = new Redis({ host: t.host, port: t.port, password: t.password, ...change });
  client.on("error", () => {}); // what a command cannot do, it says itself
  return client;
}

async function roundTrip(client, key) {
  assert.equal(await client.set(key, "v"), "OK");
  assert.equal(await client.get(key), "v");
}

await check("RESP2", protocols, (_, key) =>
  using({}, async (client) => {
    await client.hset(`${key}h`, "f", "v");
    assert.deepEqual(await client.call("HGETALL", `${key}h`), ["f", "v"]);
    await roundTrip(client, key);
  }),
);
t.notOffered("RESP3");
if (t.tlsPort) {
  const tls = { port: t.tlsPort, tls: { ca: t.authority, servername: "localhost" } };
  await check("TLS", protocols, (_, key) => using(tls, (client) => roundTrip(client, key)));
}
await check("ACL user", protocols, (_, key) =>
  using({ username: t.user, password: t.userPassword }, async (client) => {
    assert.equal(await client.call("ACL", "WHOAMI"), t.user);
    await t.refused(client.config("SET", "maxmemory", "0"), "NOPERM");
    await roundTrip(client, key);
  }),
);
await check("database 3", protocols, (_, key) =>
  using({ db: 3 }, async (client) => {
    await client.set(`${key}db`, "3");
    assert.equal(await client.get(`${key}db`), "3");
    await using({}, async (other) => assert.equal(await other.exists(`${key}db`), 0));
  }),
);
await check("pipeline", protocols, (_, key) =>
  using({}, async (client) => {
    const pipeline = client.pipeline();
    for (let n = 0; n < 1000; n++) pipeline.incr(`${key}n`);
    const replies = await pipeline.exec();
    replies.forEach(([error, value], n) => assert.deepEqual([error, value], [null, n + 1]));
  }),
);
await check("transaction", protocols, (_, key) =>
  using({}, async (client) => {
    await client.watch(`${key}tx`);
    assert.deepEqual(await client.multi().incr(`${key}tx`).exec(), [[null, 1]]);
    await client.watch(`${key}tx`);
    await using({}, (other) => other.incr(`${key}tx`));
    assert.equal(await client.multi().incr(`${key}tx`).exec(), null);
    assert.equal(await client.get(`${key}tx`), "2");
  }),
);
await check("pub/sub", protocols, (_, key) =>
  using({}, async (subscriber) => {
    const message = new Promise((resolve) => subscriber.once("message", (_channel, text) => resolve(text)));
    await subscriber.subscribe(`${key}channel`);
    await using({}, (client) => client.publish(`${key}channel`, "hello"));
    assert.equal(await message, "hello");
  }),
);
await check("blocking pop", protocols, (_, key) =>
  using({}, async (client) => {
    const popped = client.blpop(`${key}list`, 10);
    await sleep(100);
    await using({}, (other) => other.rpush(`${key}list`, "late"));
    assert.deepEqual(await popped, [`${key}list`, "late"]);
    assert.equal(await client.blpop(`${key}list`, 1), null);
  }),
);
await check("script", protocols, (_, key) =>
  using({}, async (client) => {
    const lua = `return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])} -- ${key}`;
    client.defineCommand("counted", { numberOfKeys: 1, lua });
    for (const n of [1, 2]) assert.deepEqual(await client.counted(`${key}script`, "a"), [`${key}script`, "a", n]);
  }),
);
t.notOffered("client-side caching");

const kept = open({});
await roundTrip(kept, `${t.prefix}kept`);
await t.crash();
await check("reconnect", protocols, () =>
  t.eventually(async () => assert.equal(await kept.get(`${t.prefix}kept`), "v")),
);
kept.disconnect();
