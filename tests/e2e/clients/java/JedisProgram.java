import java.io.File;
import java.io.FileInputStream;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.UnaryOperator;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManagerFactory;
import redis.clients.jedis.AbstractTransaction;
import redis.clients.jedis.DefaultJedisClientConfig;
import redis.clients.jedis.JedisPubSub;
import redis.clients.jedis.Pipeline;
import redis.clients.jedis.Protocol;
import redis.clients.jedis.RedisClient;
import redis.clients.jedis.RedisProtocol;
import redis.clients.jedis.Response;
import redis.clients.jedis.util.SafeEncoder;

/** What Jedis can do with a server; Checks says how it is told. */
final class JedisProgram {
    private static final UnaryOperator<DefaultJedisClientConfig.Builder> PLAIN = config -> config;

    interface Use {
        void run(RedisClient client, String key) throws Exception;
    }

    private static RedisClient open(int protocol, int port, UnaryOperator<DefaultJedisClientConfig.Builder> change) {
        DefaultJedisClientConfig.Builder config = DefaultJedisClientConfig.builder()
            .protocol(protocol == 2 ? RedisProtocol.RESP2 : RedisProtocol.RESP3)
            .password(Checks.PASSWORD);
        return RedisClient.builder().hostAndPort("localhost", port).clientConfig(change.apply(config).build()).build();
    }

    /** A check that gets a client, which is closed after it. */
    private static Checks.Run using(int port, UnaryOperator<DefaultJedisClientConfig.Builder> change, Use use) {
        return (protocol, key) -> {
            try (RedisClient client = open(protocol, port, change)) {
                use.run(client, key);
            }
        };
    }

    private static Checks.Run using(Use use) {
        return using(Checks.PORT, PLAIN, use);
    }

    private static void roundTrip(RedisClient client, String key) {
        Checks.same(client.set(key, "v"), "OK");
        Checks.same(client.get(key), "v");
    }

    public static void main(String[] arguments) throws Exception {
        for (int protocol : Checks.BOTH) {
            Checks.check("RESP" + protocol, new int[] {protocol}, using((client, key) -> {
                String info = SafeEncoder.encode((byte[]) client.sendCommand(Protocol.Command.CLIENT, "INFO"));
                Checks.same(info.contains(" resp=" + protocol), true);
                roundTrip(client, key);
            }));
        }
        if (Checks.TLS_PORT != 0) {
            SSLParameters verified = new SSLParameters();
            verified.setEndpointIdentificationAlgorithm("HTTPS");
            SSLContext context = trusting();
            Checks.check("TLS", Checks.BOTH, using(Checks.TLS_PORT,
                config -> config.ssl(true).sslSocketFactory(context.getSocketFactory()).sslParameters(verified),
                JedisProgram::roundTrip));
        }
        Checks.check("ACL user", Checks.BOTH, using(Checks.PORT,
            config -> config.user(Checks.USER).password(Checks.USER_PASSWORD), (client, key) -> {
                byte[] who = (byte[]) client.sendCommand(Protocol.Command.ACL, "WHOAMI");
                Checks.same(SafeEncoder.encode(who), Checks.USER);
                Checks.refused(() -> client.configSet("maxmemory", "0"), "NOPERM");
                roundTrip(client, key);
            }));
        Checks.check("database 3", Checks.BOTH, using(Checks.PORT, config -> config.database(3), (client, key) -> {
            client.set(key + "db", "3");
            Checks.same(client.get(key + "db"), "3");
            using((other, same) -> Checks.same(other.exists(key + "db"), false)).run(3, key);
        }));
        Checks.check("pipeline", Checks.BOTH, using((client, key) -> {
            try (Pipeline pipeline = client.pipelined()) {
                for (int n = 0; n < 1000; n++) {
                    pipeline.incr(key + "n");
                }
                long wanted = 0;
                for (Object reply : pipeline.syncAndReturnAll()) {
                    Checks.same(reply, ++wanted);
                }
                Checks.same(wanted, 1000L);
            }
        }));
        Checks.check("transaction", Checks.BOTH, using(JedisProgram::transaction));
        Checks.check("pub/sub", Checks.BOTH, using(JedisProgram::pubsub));
        Checks.check("blocking pop", Checks.BOTH, using((client, key) -> {
            Checks.later(() -> client.rpush(key + "list", "late"));
            Checks.same(client.blpop(10, key + "list"), List.of(key + "list", "late"));
            Checks.same(client.blpop(1, key + "list"), null);
        }));
        Checks.check("script", Checks.BOTH, using((client, key) -> {
            String digest = client.scriptLoad(Checks.counted(key), key);
            for (long wanted = 1; wanted < 3; wanted++) {
                Object reply = client.evalsha(digest, List.of(key + "script"), List.of("a"));
                Checks.same(reply, List.of(key + "script", "a", wanted));
            }
        }));
        Checks.notOffered("client-side caching"); // it asks the server's version, and wants Redis 7.4 or later

        try (RedisClient second = open(2, Checks.PORT, PLAIN); RedisClient third = open(3, Checks.PORT, PLAIN)) {
            Map<Integer, RedisClient> clients = Map.of(2, second, 3, third);
            clients.values().forEach(client -> roundTrip(client, Checks.PREFIX + "kept"));
            Checks.crash();
            Checks.check("reconnect", Checks.BOTH, (protocol, key) -> Checks.eventually(
                () -> Checks.same(clients.get(protocol).get(Checks.PREFIX + "kept"), "v")));
        }
    }

    private static SSLContext trusting() throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream file = new FileInputStream(new File(Checks.CA_FILE))) {
            store.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    private static void transaction(RedisClient client, String key) {
        try (AbstractTransaction transaction = client.transaction(false)) {
            transaction.watch(key + "tx");
            transaction.multi();
            Response<Long> reply = transaction.incr(key + "tx");
            transaction.exec();
            Checks.same(reply.get(), 1L);
            transaction.watch(key + "tx");
            client.incr(key + "tx");
            transaction.multi();
            transaction.incr(key + "tx");
            Checks.same(transaction.exec(), null);
        }
        Checks.same(client.get(key + "tx"), "2");
    }

    private static void pubsub(RedisClient client, String key) throws Exception {
        AtomicReference<String> found = new AtomicReference<>();
        CountDownLatch ended = new CountDownLatch(1);
        JedisPubSub listener = new JedisPubSub() {
            @Override
            public void onSubscribe(String channel, int channels) {
                Checks.later(() -> client.publish(channel, "hello"));
            }

            @Override
            public void onMessage(String channel, String message) {
                found.set(message);
                unsubscribe();
            }
        };
        new Thread(() -> {
            client.subscribe(listener, key + "channel");
            ended.countDown();
        }).start();
        Checks.same(ended.await(10, TimeUnit.SECONDS), true);
        Checks.same(found.get(), "hello");
    }
}
