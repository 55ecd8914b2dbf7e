import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Objects;

/** Says what a client could do, a line a check, and waits for the crash that the harness makes. */
final class Checks {
    // Where the server is and who may come in; without TLS_PORT it has no TLS.
    static final int PORT = Integer.parseInt(System.getenv("PORT"));
    static final int TLS_PORT = Integer.parseInt(System.getenv().getOrDefault("TLS_PORT", "0"));
    static final String CA_FILE = System.getenv("CA_FILE");
    static final String PASSWORD = System.getenv("PASSWORD");
    static final String USER = System.getenv("CLIENT_USER");
    static final String USER_PASSWORD = System.getenv("CLIENT_PASSWORD");
    static final String PREFIX = System.getenv("PREFIX");

    static final int[] BOTH = {2, 3};
    private static final long PATIENCE_MS = 15_000;

    interface Run {
        void run(int protocol, String key) throws Exception;
    }

    interface Step {
        void run() throws Exception;
    }

    private Checks() {}

    /** Runs it once for each protocol, with a prefix for its keys. */
    static void check(String name, int[] protocols, Run run) {
        for (int protocol : protocols) {
            try {
                run.run(protocol, PREFIX + protocol);
            } catch (Throwable error) {
                System.out.println("FAILED " + name + ": RESP" + protocol + ": " + text(error));
                return;
            }
        }
        System.out.println("ok " + name);
    }

    static void notOffered(String name) {
        System.out.println("not offered " + name);
    }

    /** Repeats it until it throws nothing. */
    static void eventually(Step step) throws Exception {
        long end = System.currentTimeMillis() + PATIENCE_MS;
        while (true) {
            try {
                step.run();
                return;
            } catch (Exception | AssertionError error) {
                if (System.currentTimeMillis() > end) {
                    throw error;
                }
            }
            Thread.sleep(20);
        }
    }

    /** Lets the harness kill the engine; it returns when that has happened. */
    static void crash() throws Exception {
        System.out.println("ready");
        new BufferedReader(new InputStreamReader(System.in)).readLine();
    }

    /** What must be refused, with this in the error's text. */
    static void refused(Step step, String text) throws Exception {
        try {
            step.run();
        } catch (Exception error) {
            same(text(error).contains(text), true);
            return;
        }
        throw new AssertionError("it was not refused");
    }

    static void same(Object found, Object wanted) {
        if (!Objects.equals(found, wanted)) {
            throw new AssertionError("found " + found + ", wanted " + wanted);
        }
    }

    static void later(Step step) {
        new Thread(() -> {
            try {
                Thread.sleep(100);
                step.run();
            } catch (Exception error) {
                System.err.println(error);
            }
        }).start();
    }

    static String counted(String key) {
        return "return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])} -- " + key;
    }

    private static String text(Throwable error) {
        String cause = error.getCause() == null ? "" : " / " + error.getCause();
        StackTraceElement[] stack = error.getStackTrace();
        String where = "";
        for (StackTraceElement element : stack) {
            if (element.getClassName().endsWith("Program")) {
                where = " at " + element;
                break;
            }
        }
        return (error + cause + where).replace('\n', ' ');
    }
}
