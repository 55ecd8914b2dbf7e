import io.lettuce.core.ClientOptions;
import io.lettuce.core.KeyValue;
import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisFuture;
import io.lettuce.core.RedisURI;
import io.lettuce.core.ScriptOutputType;
import io.lettuce.core.SslOptions;
import io.lettuce.core.TrackingArgs;
import io.lettuce.core.api.StatefulRedisConnection;
import io.lettuce.core.api.async.RedisAsyncCommands;
import io.lettuce.core.api.sync.RedisCommands;
import io.lettuce.core.protocol.ProtocolVersion;
import io.lettuce.core.pubsub.RedisPubSubAdapter;
import io.lettuce.core.pubsub.StatefulRedisPubSubConnection;
import io.lettuce.core.support.caching.CacheAccessor;
import io.lettuce.core.support.caching.CacheFrontend;
import io.lettuce.core.support.caching.ClientSideCaching;
import java.io.File;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.UnaryOperator;

/** What Lettuce can do with a server; Checks says how it is told. */
final class LettuceProgram {
    private static final UnaryOperator<RedisURI.Builder> PLAIN = uri -> uri;
    private static final Map<Integer, RedisClient> CLIENTS = new ConcurrentHashMap<>();

    interface Use {
        void run(StatefulRedisConnection<String, String> connection, String key) throws Exception;
    }

    private static RedisClient client(int protocol) {
        return CLIENTS.computeIfAbsent(protocol, key -> {
            ClientOptions.Builder options = ClientOptions.builder()
                .protocolVersion(protocol == 2 ? ProtocolVersion.RESP2 : ProtocolVersion.RESP3);
            if (Checks.TLS_PORT != 0) {
                options.sslOptions(SslOptions.builder().trustManager(new File(Checks.CA_FILE)).build());
            }
            RedisClient made = RedisClient.create();
            made.setOptions(options.build());
            return made;
        });
    }

    private static RedisURI uri(int port, UnaryOperator<RedisURI.Builder> change) {
        RedisURI.Builder uri = RedisURI.builder().withHost("localhost").withPort(port).withPassword(
            Checks.PASSWORD.toCharArray()).withTimeout(Duration.ofSeconds(12));
        return change.apply(uri).build();
    }

    private static StatefulRedisConnection<String, String> open(int protocol) {
        return client(protocol).connect(uri(Checks.PORT, PLAIN));
    }

    /** A check that gets a connection, which is closed after it. */
    private static Checks.Run using(int port, UnaryOperator<RedisURI.Builder> change, Use use) {
        return (protocol, key) -> {
            try (StatefulRedisConnection<String, String> connection = client(protocol).connect(uri(port, change))) {
                use.run(connection, key);
            }
        };
    }

    private static Checks.Run using(Use use) {
        return using(Checks.PORT, PLAIN, use);
    }

    private static void roundTrip(StatefulRedisConnection<String, String> connection, String key) {
        Checks.same(connection.sync().set(key, "v"), "OK");
        Checks.same(connection.sync().get(key), "v");
    }

    public static void main(String[] arguments) throws Exception {
        for (int protocol : Checks.BOTH) {
            Checks.check("RESP" + protocol, new int[] {protocol}, using((connection, key) -> {
                Checks.same(connection.sync().clientInfo().contains(" resp=" + protocol), true);
                roundTrip(connection, key);
            }));
        }
        if (Checks.TLS_PORT != 0) {
            Checks.check("TLS", Checks.BOTH,
                using(Checks.TLS_PORT, uri -> uri.withSsl(true), LettuceProgram::roundTrip));
        }
        Checks.check("ACL user", Checks.BOTH, using(Checks.PORT,
            uri -> uri.withAuthentication(Checks.USER, Checks.USER_PASSWORD.toCharArray()), (connection, key) -> {
                Checks.same(connection.sync().aclWhoami(), Checks.USER);
                Checks.refused(() -> connection.sync().configSet("maxmemory", "0"), "NOPERM");
                roundTrip(connection, key);
            }));
        Checks.check("database 3", Checks.BOTH, using(Checks.PORT, uri -> uri.withDatabase(3), (connection, key) -> {
            connection.sync().set(key + "db", "3");
            Checks.same(connection.sync().get(key + "db"), "3");
            using((other, same) -> Checks.same(other.sync().exists(key + "db"), 0L)).run(3, key);
        }));
        Checks.check("pipeline", Checks.BOTH, using(LettuceProgram::pipeline));
        Checks.check("transaction", Checks.BOTH, using(LettuceProgram::transaction));
        Checks.check("pub/sub", Checks.BOTH, LettuceProgram::pubsub);
        Checks.check("blocking pop", Checks.BOTH, using((connection, key) -> {
            Checks.later(() -> using((other, same) -> other.sync().rpush(key + "list", "late")).run(3, key));
            Checks.same(connection.sync().blpop(10, key + "list"), KeyValue.just(key + "list", "late"));
            Checks.same(connection.sync().blpop(1, key + "list"), null);
        }));
        Checks.check("script", Checks.BOTH, using((connection, key) -> {
            RedisCommands<String, String> commands = connection.sync();
            String digest = commands.scriptLoad(Checks.counted(key));
            for (long wanted = 1; wanted < 3; wanted++) {
                List<Object> reply =
                    commands.evalsha(digest, ScriptOutputType.MULTI, new String[] {key + "script"}, "a");
                Checks.same(reply, List.of(key + "script", "a", wanted));
            }
        }));
        Checks.check("client-side caching", new int[] {3}, using(LettuceProgram::caching));

        Map<Integer, StatefulRedisConnection<String, String>> kept = Map.of(2, open(2), 3, open(3));
        kept.values().forEach(connection -> roundTrip(connection, Checks.PREFIX + "kept"));
        Checks.crash();
        Checks.check("reconnect", Checks.BOTH, (protocol, key) -> Checks.eventually(
            () -> Checks.same(kept.get(protocol).sync().get(Checks.PREFIX + "kept"), "v")));
        System.exit(0); // its threads would go on
    }

    private static void pipeline(StatefulRedisConnection<String, String> connection, String key) throws Exception {
        RedisAsyncCommands<String, String> commands = connection.async();
        connection.setAutoFlushCommands(false);
        List<RedisFuture<Long>> replies = new ArrayList<>();
        for (int n = 0; n < 1000; n++) {
            replies.add(commands.incr(key + "n"));
        }
        connection.flushCommands();
        for (int n = 0; n < 1000; n++) {
            Checks.same(replies.get(n).get(10, TimeUnit.SECONDS), n + 1L);
        }
    }

    private static void transaction(StatefulRedisConnection<String, String> connection, String key) throws Exception {
        RedisCommands<String, String> commands = connection.sync();
        commands.watch(key + "tx");
        commands.multi();
        commands.incr(key + "tx");
        Checks.same(commands.exec().<Long>get(0), 1L);
        commands.watch(key + "tx");
        using((other, same) -> other.sync().incr(key + "tx")).run(3, key);
        commands.multi();
        commands.incr(key + "tx");
        Checks.same(commands.exec().wasDiscarded(), true);
        Checks.same(commands.get(key + "tx"), "2");
    }

    private static void pubsub(int protocol, String key) throws Exception {
        LinkedBlockingQueue<String> found = new LinkedBlockingQueue<>();
        try (StatefulRedisPubSubConnection<String, String> connection =
                client(protocol).connectPubSub(uri(Checks.PORT, PLAIN))) {
            connection.addListener(new RedisPubSubAdapter<>() {
                @Override
                public void message(String channel, String message) {
                    found.add(message);
                }
            });
            connection.sync().subscribe(key + "channel");
            using((other, same) -> other.sync().publish(key + "channel", "hello")).run(3, key);
            Checks.same(found.poll(10, TimeUnit.SECONDS), "hello");
        }
    }

    private static void caching(StatefulRedisConnection<String, String> connection, String key) throws Exception {
        Map<String, String> cached = new ConcurrentHashMap<>();
        TrackingArgs tracking = TrackingArgs.Builder.enabled();
        CacheFrontend<String, String> cache =
            ClientSideCaching.enable(CacheAccessor.forMap(cached), connection, tracking);
        for (String value : List.of("1", "2")) {
            using((writer, same) -> writer.sync().set(key + "cached", value)).run(3, key);
            Checks.eventually(() -> Checks.same(cache.get(key + "cached"), value));
            Checks.same(cached, Map.of(key + "cached", value));
        }
    }
}
