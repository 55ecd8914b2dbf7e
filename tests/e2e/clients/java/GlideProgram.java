import glide.api.GlideClient;
import glide.api.models.Batch;
import glide.api.models.GlideString;
import glide.api.models.Script;
import glide.api.models.commands.ScriptOptions;
import glide.api.models.configuration.AdvancedGlideClientConfiguration;
import glide.api.models.configuration.GlideClientConfiguration;
import glide.api.models.configuration.NodeAddress;
import glide.api.models.configuration.ProtocolVersion;
import glide.api.models.configuration.ServerCredentials;
import glide.api.models.configuration.StandaloneSubscriptionConfiguration;
import glide.api.models.configuration.StandaloneSubscriptionConfiguration.PubSubChannelMode;
import glide.api.models.configuration.TlsAdvancedConfiguration;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.UnaryOperator;

/** What Valkey GLIDE for Java can do with a server; Checks says how it is told. */
final class GlideProgram {
    private static final UnaryOperator<GlideClientConfiguration.GlideClientConfigurationBuilder<?, ?>> PLAIN = c -> c;

    interface Use {
        void run(GlideClient client, String key) throws Exception;
    }

    private static <T> T get(CompletableFuture<T> future) throws Exception {
        return future.get(15, TimeUnit.SECONDS);
    }

    private static GlideClient open(
        int protocol,
        String host,
        int port,
        UnaryOperator<GlideClientConfiguration.GlideClientConfigurationBuilder<?, ?>> change
    ) throws Exception {
        GlideClientConfiguration.GlideClientConfigurationBuilder<?, ?> configuration = GlideClientConfiguration.builder()
            .address(NodeAddress.builder().host(host).port(port).build())
            .credentials(ServerCredentials.builder().password(Checks.PASSWORD).build())
            .protocol(protocol == 2 ? ProtocolVersion.RESP2 : ProtocolVersion.RESP3)
            .requestTimeout(12_000);
        return get(GlideClient.createClient(change.apply(configuration).build()));
    }

    private static GlideClient open(int protocol) throws Exception {
        return open(protocol, "127.0.0.1", Checks.PORT, PLAIN);
    }

    /** A check that gets a client, which is closed after it. */
    private static Checks.Run using(
        UnaryOperator<GlideClientConfiguration.GlideClientConfigurationBuilder<?, ?>> change, Use use
    ) {
        return (protocol, key) -> {
            try (GlideClient client = open(protocol, "127.0.0.1", Checks.PORT, change)) {
                use.run(client, key);
            }
        };
    }

    private static Checks.Run using(Use use) {
        return using(PLAIN, use);
    }

    private static void roundTrip(GlideClient client, String key) throws Exception {
        Checks.same(get(client.set(key, "v")), "OK");
        Checks.same(get(client.get(key)), "v");
    }

    public static void main(String[] arguments) throws Exception {
        for (int protocol : Checks.BOTH) {
            Checks.check("RESP" + protocol, new int[] {protocol}, using((client, key) -> {
                String info = (String) get(client.customCommand(new String[] {"CLIENT", "INFO"}));
                Checks.same(info.contains(" resp=" + protocol), true);
                roundTrip(client, key);
            }));
        }
        if (Checks.TLS_PORT != 0) {
            byte[] authority = Files.readAllBytes(Path.of(Checks.CA_FILE));
            AdvancedGlideClientConfiguration trusting = AdvancedGlideClientConfiguration.builder()
                .tlsAdvancedConfiguration(TlsAdvancedConfiguration.builder().rootCertificates(authority).build())
                .build();
            Checks.check("TLS", Checks.BOTH, (protocol, key) -> {
                try (GlideClient client = open(protocol, "localhost", Checks.TLS_PORT,
                        configuration -> configuration.useTLS(true).advancedConfiguration(trusting))) {
                    roundTrip(client, key);
                }
            });
        }
        ServerCredentials user =
            ServerCredentials.builder().username(Checks.USER).password(Checks.USER_PASSWORD).build();
        Checks.check("ACL user", Checks.BOTH, using(configuration -> configuration.credentials(user), (client, key) -> {
            Checks.same(get(client.customCommand(new String[] {"ACL", "WHOAMI"})), Checks.USER);
            Checks.refused(() -> get(client.configSet(Map.of("maxmemory", "0"))), "permissions");
            roundTrip(client, key);
        }));
        Checks.check("database 3", Checks.BOTH, using(configuration -> configuration.databaseId(3), (client, key) -> {
            get(client.set(key + "db", "3"));
            Checks.same(get(client.get(key + "db")), "3");
            using((other, same) -> Checks.same(get(other.exists(new String[] {key + "db"})), 0L)).run(3, key);
        }));
        Checks.check("pipeline", Checks.BOTH, using((client, key) -> {
            Batch batch = new Batch(false);
            for (int n = 0; n < 1000; n++) {
                batch.incr(key + "n");
            }
            long wanted = 0;
            for (Object reply : get(client.exec(batch, true))) {
                Checks.same(reply, ++wanted);
            }
            Checks.same(wanted, 1000L);
        }));
        Checks.check("transaction", Checks.BOTH, using((client, key) -> {
            get(client.watch(new String[] {key + "tx"}));
            Checks.same(get(client.exec(new Batch(true).incr(key + "tx"), true))[0], 1L);
            get(client.watch(new String[] {key + "tx"}));
            using((other, same) -> get(other.incr(key + "tx"))).run(3, key);
            Checks.same(get(client.exec(new Batch(true).incr(key + "tx"), true)), null);
            Checks.same(get(client.get(key + "tx")), "2");
        }));
        Checks.check("pub/sub", new int[] {3}, GlideProgram::pubsub);
        Checks.check("blocking pop", Checks.BOTH, using((client, key) -> {
            Checks.later(() -> using((other, same) -> get(other.rpush(key + "list", new String[] {"late"}))).run(3, key));
            String[] popped = get(client.blpop(new String[] {key + "list"}, 10));
            Checks.same(Arrays.asList(popped), List.of(key + "list", "late"));
            Checks.same(get(client.blpop(new String[] {key + "list"}, 1)), null);
        }));
        Checks.check("script", Checks.BOTH, using((client, key) -> {
            try (Script script = new Script(Checks.counted(key), false)) {
                ScriptOptions options = ScriptOptions.builder().key(key + "script").arg("a").build();
                for (long wanted = 1; wanted < 3; wanted++) {
                    Object[] reply = (Object[]) get(client.invokeScript(script, options));
                    Checks.same(Arrays.asList(reply), List.of(key + "script", "a", wanted));
                }
            }
        }));
        Checks.notOffered("client-side caching");

        try (GlideClient second = open(2); GlideClient third = open(3)) {
            Map<Integer, GlideClient> clients = Map.of(2, second, 3, third);
            for (GlideClient client : clients.values()) {
                roundTrip(client, Checks.PREFIX + "kept");
            }
            Checks.crash();
            Checks.check("reconnect", Checks.BOTH, (protocol, key) -> Checks.eventually(
                () -> Checks.same(get(clients.get(protocol).get(Checks.PREFIX + "kept")), "v")));
        }
        System.exit(0); // its threads would go on
    }

    private static void pubsub(int protocol, String key) throws Exception {
        StandaloneSubscriptionConfiguration subscription = StandaloneSubscriptionConfiguration.builder()
            .subscription(PubSubChannelMode.EXACT, GlideString.of(key + "channel"))
            .build();
        using(configuration -> configuration.subscriptionConfiguration(subscription), (client, same) -> {
            using((other, alsoSame) -> get(other.publish("hello", key + "channel"))).run(3, key);
            Checks.same(get(client.getPubSubMessage()).getMessage().getString(), "hello");
        }).run(protocol, key);
    }
}
