import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.Base64;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs the main methods of Kafka's own tools, one after the other, in one JVM.
 *
 * A request is one line on standard input: class name, standard input, arguments, each but the first in base64,
 * separated by blanks. The answer is one line on standard output: exit code, output, errors. Kafka's tools end through
 * Exit, which lets a test take the place of System.exit.
 */
public final class Runner {
    private static final class Ended extends Error {
        Ended(int code) {
            super("exit " + code, null, false, false);
        }
    }

    public static void main(String[] ignored) throws Exception {
        PrintStream answers = System.out;
        InputStream requests = System.in;
        BufferedReader lines = new BufferedReader(new InputStreamReader(requests, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ", -1);
            String[] arguments = new String[words.length - 2];
            Arrays.setAll(arguments, i -> text(words[i + 2]));
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            ByteArrayOutputStream err = new ByteArrayOutputStream();
            System.setIn(new ByteArrayInputStream(Base64.getDecoder().decode(words[1])));
            System.setOut(new PrintStream(out, true, StandardCharsets.UTF_8));
            System.setErr(new PrintStream(err, true, StandardCharsets.UTF_8));
            int code = run(words[0], arguments);
            System.out.flush();
            System.err.flush();
            answers.println(code + " " + encoded(out) + " " + encoded(err));
            answers.flush();
        }
    }

    private static int run(String name, String[] arguments) {
        Integer[] first = new Integer[1];
        Exit.Procedure end = (code, message) -> {
            // Some tools catch what we throw and end once more: the first code is the one they mean.
            if (first[0] == null) {
                first[0] = code;
            }
            if (message != null) {
                System.err.println(message);
            }
            throw new Ended(code);
        };
        Exit.setExitProcedure(end);
        Exit.setHaltProcedure(end);
        // Hooks would keep every finished tool's client alive until this JVM ends.
        Exit.setShutdownHookAdder((hook, runnable) -> { });
        try {
            Class.forName(name).getMethod("main", String[].class).invoke(null, (Object) arguments);
            return first[0] == null ? 0 : first[0];
        } catch (InvocationTargetException problem) {
            if (first[0] != null) {
                return first[0];
            }
            problem.getCause().printStackTrace();
            return 70;
        } catch (ReflectiveOperationException problem) {
            problem.printStackTrace();
            return 71;
        }
    }

    private static String text(String encoded) {
        return new String(Base64.getDecoder().decode(encoded), StandardCharsets.UTF_8);
    }

    private static String encoded(ByteArrayOutputStream bytes) {
        return Base64.getEncoder().encodeToString(bytes.toByteArray());
    }
}
