// What node-redis can do with a server; checks.js says how it is told.
import { BasicClientSideCache, createClient, defineScript, WatchError } from "redis";
import * as t from "./checks.js";
import { assert, check, sleep } from "./checks.js";

const both = [2, 3];

async function open(protocol, change = {}) {
  const client = createClient({ RESP: protocol, socket: { host: t.host, port: t.port }, password: t.password, ...change });
  client.on("error", () => {}); // what a command cannot do, it says itself
  return client.connect();
}

/** A check that gets a client, which is closed after it, and a prefix for its keys. */
const using = (change, run) => async (protocol, key) => {
  const client = await open(protocol, change);
  try {
    return await run(client, key);
  } finally {
    client.destroy();
  }
};

async function roundTrip(client, key) {
  assert.equal(await client.set(key, "v"), "OK");
  assert.equal(await client.get(key), "v");
}

for (const [name, protocol, wanted] of [
  ["RESP2", 2, ["f", "v"]],
  ["RESP3", 3, { f: "v" }],
]) {
  await check(
    name,
    [protocol],
    using({}, async (client, key) => {
      await client.hSet(`${key}h`, "f", "v");
      const reply = await client.sendCommand(["HGETALL", `${key}h`]);
      assert.equal(JSON.stringify(reply), JSON.stringify(wanted));
      await roundTrip(client, key);
    }),
  );
}
if (t.tlsPort) {
  const socket = { host: t.host, port: t.tlsPort, tls: true, ca: t.authority, servername: "localhost" };
  await check("TLS", both, using({ socket }, roundTrip));
}
await check(
  "ACL user",
  both,
  using({ username: t.user, password: t.userPassword }, async (client, key) => {
    assert.equal(await client.aclWhoAmI(), t.user);
    await t.refused(client.configSet("maxmemory", "0"), "NOPERM");
    await roundTrip(client, key);
  }),
);
await check(
  "database 3",
  both,
  using({ database: 3 }, async (client, key) => {
    await client.set(`${key}db`, "3");
    assert.equal(await client.get(`${key}db`), "3");
    await using({}, async (other) => assert.equal(await other.exists(`${key}db`), 0))(3);
  }),
);
await check(
  "pipeline",
  both,
  using({}, async (client, key) => {
    const replies = await Promise.all(Array.from({ length: 1000 }, () => client.incr(`${key}n`)));
    assert.deepEqual(replies, Array.from({ length: 1000 }, (_, n) => n + 1));
  }),
);
await check(
  "transaction",
  both,
  using({}, async (client, key) => {
    await client.watch(`${key}tx`);
    assert.deepEqual(await client.multi().incr(`${key}tx`).exec(), [1]);
    await client.watch(`${key}tx`);
    await using({}, (other) => other.incr(`${key}tx`))(3);
    await assert.rejects(client.multi().incr(`${key}tx`).exec(), WatchError);
    assert.equal(await client.get(`${key}tx`), "2");
  }),
);
await check(
  "pub/sub",
  both,
  using({}, async (client, key) => {
    let found;
    const message = new Promise((resolve) => (found = resolve));
    await client.subscribe(`${key}channel`, found);
    await using({}, (other) => other.publish(`${key}channel`, "hello"))(3);
    assert.equal(await message, "hello");
  }),
);
await check(
  "blocking pop",
  both,
  using({}, async (client, key) => {
    const popped = client.blPop(`${key}list`, 10);
    await sleep(100);
    await using({}, (other) => other.rPush(`${key}list`, "late"))(3);
    assert.equal((await popped).element, "late");
    assert.equal(await client.blPop(`${key}list`, 1), null);
  }),
);
await check("script", both, async (protocol, key) => {
  const counted = defineScript({
    SCRIPT: `return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])} -- ${key}`,
    NUMBER_OF_KEYS: 1,
    parseCommand(parser, name, argument) {
      parser.pushKey(name);
      parser.push(argument);
    },
    transformReply: undefined,
  });
  await using({ scripts: { counted } }, async (client) => {
    for (const n of [1, 2]) assert.deepEqual(await client.counted(`${key}script`, "a"), [`${key}script`, "a", n]);
  })(protocol, key);
});
await check("client-side caching", [3], async (protocol, key) => {
  const cache = new BasicClientSideCache();
  await using({ clientSideCache: cache }, async (client) => {
    for (const value of ["1", "2"]) {
      await using({}, (writer) => writer.set(`${key}cached`, value))(3);
      const read = async () => assert.equal(await client.get(`${key}cached`), value);
      await t.eventually(read);
      const hits = cache.stats().hitCount;
      await t.eventually(async () => {
        await read();
        assert.notEqual(cache.stats().hitCount, hits, "nothing was read from the cache");
      });
    }
  })(protocol, key);
});

const kept = { 2: await open(2), 3: await open(3) };
await roundTrip(kept[3], `${t.prefix}kept`);
await t.crash();
await check("reconnect", both, (protocol) =>
  t.eventually(async () => assert.equal(await kept[protocol].get(`${t.prefix}kept`), "v")),
);
for (const client of Object.values(kept)) client.destroy();
