// What Valkey GLIDE for Node can do with a server; checks.js says how it is told.
import { Batch, ClientSideCache, GlideClient, GlideClientConfiguration, ProtocolVersion, Script } from "@valkey/valkey-glide";
import * as t from "./checks.js";
import { assert, check, sleep } from "./checks.js";

const both = [2, 3];

const open = (protocol, change = {}) =>
  GlideClient.createClient({
    addresses: [{ host: t.host, port: t.port }],
    credentials: { password: t.password },
    protocol: protocol === 2 ? ProtocolVersion.RESP2 : ProtocolVersion.RESP3,
    requestTimeout: 12_000,
    ...change,
  });

/** A check that gets a client, which is closed after it, and a prefix for its keys. */
const using = (change, run) => async (protocol, key) => {
  const client = await open(protocol, change);
  try {
    return await run(client, key);
  } finally {
    client.close();
  }
};

async function roundTrip(client, key) {
  assert.equal(await client.set(key, "v"), "OK");
  assert.equal(await client.get(key), "v");
}

for (const protocol of both) {
  await check(
    `RESP${protocol}`,
    [protocol],
    using({}, async (client, key) => {
      assert.equal((await client.customCommand(["CLIENT", "INFO"])).match(/ resp=(\d)/)[1], String(protocol));
      await roundTrip(client, key);
    }),
  );
}
if (t.tlsPort) {
  const change = {
    addresses: [{ host: "localhost", port: t.tlsPort }],
    useTLS: true,
    advancedConfiguration: { tlsAdvancedConfiguration: { rootCertificates: t.authority } },
  };
  await check("TLS", both, using(change, roundTrip));
}
await check(
  "ACL user",
  both,
  using({ credentials: { username: t.user, password: t.userPassword } }, async (client, key) => {
    assert.equal(await client.customCommand(["ACL", "WHOAMI"]), t.user);
    await t.refused(client.configSet({ maxmemory: "0" }), "permissions");
    await roundTrip(client, key);
  }),
);
await check(
  "database 3",
  both,
  using({ databaseId: 3 }, async (client, key) => {
    await client.set(`${key}db`, "3");
    assert.equal(await client.get(`${key}db`), "3");
    await using({}, async (other) => assert.equal(await other.exists([`${key}db`]), 0))(3);
  }),
);
await check(
  "pipeline",
  both,
  using({}, async (client, key) => {
    const batch = new Batch(false);
    for (let n = 0; n < 1000; n++) batch.incr(`${key}n`);
    const replies = await client.exec(batch, true);
    assert.deepEqual(replies, Array.from({ length: 1000 }, (_, n) => n + 1));
  }),
);
await check(
  "transaction",
  both,
  using({}, async (client, key) => {
    const counted = () => client.exec(new Batch(true).incr(`${key}tx`), true);
    await client.watch([`${key}tx`]);
    assert.deepEqual(await counted(), [1]);
    await client.watch([`${key}tx`]);
    await using({}, (other) => other.incr(`${key}tx`))(3);
    assert.equal(await counted(), null);
    assert.equal(await client.get(`${key}tx`), "2");
  }),
);
await check("pub/sub", [3], async (protocol, key) => {
  const channelsAndPatterns = { [GlideClientConfiguration.PubSubChannelModes.Exact]: new Set([`${key}channel`]) };
  await using({ pubsubSubscriptions: { channelsAndPatterns } }, async (client) => {
    await using({}, (other) => other.publish("hello", `${key}channel`))(3);
    assert.equal((await client.getPubSubMessage()).message, "hello");
  })(protocol, key);
});
await check(
  "blocking pop",
  both,
  using({}, async (client, key) => {
    const popped = client.blpop([`${key}list`], 10);
    await sleep(100);
    await using({}, (other) => other.rpush(`${key}list`, ["late"]))(3);
    assert.deepEqual(await popped, [`${key}list`, "late"]);
    assert.equal(await client.blpop([`${key}list`], 1), null);
  }),
);
await check(
  "script",
  both,
  using({}, async (client, key) => {
    const script = new Script(`return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])} -- ${key}`);
    for (const n of [1, 2]) {
      const reply = await client.invokeScript(script, { keys: [`${key}script`], args: ["a"] });
      assert.deepEqual(reply, [`${key}script`, "a", n]);
    }
    script.release();
  }),
);
await check("client-side caching", [3], async (protocol, key) => {
  const settings = { maxCacheKb: 1024, entryTtlMs: 0, enableMetrics: true, serverAssisted: true };
  await using({ clientSideCache: new ClientSideCache(settings) }, async (client) => {
    for (const value of ["1", "2"]) {
      await using({}, (writer) => writer.set(`${key}cached`, value))(3);
      await t.eventually(async () => assert.equal(await client.get(`${key}cached`), value));
    }
    await client.get(`${key}cached`);
    assert.ok((await client.getCacheHitRate()) > 0, "nothing was read from the cache");
  })(protocol, key);
});

const kept = { 2: await open(2), 3: await open(3) };
await roundTrip(kept[3], `${t.prefix}kept`);
await t.crash();
await check("reconnect", both, (protocol) =>
  t.eventually(async () => assert.equal(await kept[protocol].get(`${t.prefix}kept`), "v")),
);
for (const client of Object.values(kept)) client.close();
