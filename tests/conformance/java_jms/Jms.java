import jakarta.jms.BytesMessage;
import jakarta.jms.CompletionListener;
import jakarta.jms.Connection;
import jakarta.jms.DeliveryMode;
import jakarta.jms.InvalidDestinationException;
import jakarta.jms.JMSException;
import jakarta.jms.MapMessage;
import jakarta.jms.Message;
import jakarta.jms.MessageConsumer;
import jakarta.jms.MessageProducer;
import jakarta.jms.ObjectMessage;
import jakarta.jms.Queue;
import jakarta.jms.Session;
import jakarta.jms.StreamMessage;
import jakarta.jms.TextMessage;
import java.io.IOException;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Enumeration;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.qpid.jms.JmsConnectionFactory;

/**
 * Qpid JMS as an application uses it: Jms HOST:PORT HUB_PREFIX [SECURED_HOST:PORT USER KEY].
 *
 * Runs every case in one JVM; prints a line for each: its name, and what went wrong in the same line if something did.
 */
public final class Jms {
    private static final long DEADLINE_MS = 60_000;
    private static final long NOTHING_MS = 300;

    private interface Case {
        void run() throws Exception;
    }

    private final String address;
    private final String prefix;
    private final List<Connection> open = new ArrayList<>();
    private String hub;

    private Jms(String address, String prefix) {
        this.address = address;
        this.prefix = prefix;
    }

    public static void main(String[] words) throws Exception {
        Jms jms = new Jms(words[0], words[1]);
        Map<String, Case> cases = new LinkedHashMap<>();
        cases.put("messages", jms::messages);
        cases.put("acknowledging", jms::acknowledging);
        cases.put("large", jms::large);
        cases.put("many", jms::many);
        cases.put("draining", jms::draining);
        cases.put("browsing", jms::browsing);
        cases.put("refusals", jms::refusals);
        cases.put("failover", jms::failover);
        cases.put("signing", () -> jms.signing(words[2], words[3], words[4]));
        for (Map.Entry<String, Case> each : cases.entrySet()) {
            System.out.println(each.getKey() + " " + jms.outcome(each.getKey(), each.getValue()));
        }
        System.exit(0);
    }

    private String outcome(String name, Case work) {
        hub = prefix + name;
        try {
            work.run();
            return "passed";
        } catch (Throwable problem) {
            StackTraceElement[] stack = problem.getStackTrace();
            return (problem + " " + Arrays.asList(stack).subList(0, Math.min(6, stack.length))).replace('\n', ' ');
        } finally {
            for (Connection each : open) {
                try {
                    each.close();
                } catch (JMSException ignored) {
                    // it may be gone already
                }
            }
            open.clear();
        }
    }

    private Session session(String options, int mode) throws JMSException {
        return session("amqp://" + address + options, null, null, mode);
    }

    private Session session(String uri, String user, String key, int mode) throws JMSException {
        Connection connection = new JmsConnectionFactory(user, key, uri).createConnection();
        open.add(connection);
        connection.start();
        return connection.createSession(false, mode);
    }

    private static void check(Object expected, Object found) {
        if (!expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    private static <T extends Message> T next(MessageConsumer consumer, Class<T> kind) throws JMSException {
        return kind.cast(consumer.receive(DEADLINE_MS));
    }

    private void messages() throws Exception {
        Session session = session("", Session.AUTO_ACKNOWLEDGE);
        Queue queue = session.createQueue(hub + "/Partitions/0");
        MessageProducer producer = session.createProducer(queue);
        TextMessage text = session.createTextMessage("text ü");
        text.setJMSCorrelationID("c-1");
        text.setJMSType("reading");
        text.setJMSReplyTo(queue);
        text.setStringProperty("unit", "kW");
        text.setIntProperty("number", 7);
        text.setLongProperty("large", 1L << 40);
        text.setBooleanProperty("on", true);
        text.setDoubleProperty("ratio", 0.5);
        text.setFloatProperty("small", 0.25f);
        text.setShortProperty("short", (short) 3);
        text.setByteProperty("byte", (byte) -4);
        producer.send(text, DeliveryMode.PERSISTENT, 9, 3_600_000);
        BytesMessage bytes = session.createBytesMessage();
        bytes.writeBytes(new byte[] {0, -1});
        producer.send(bytes);
        MapMessage map = session.createMapMessage();
        map.setInt("kw", 3);
        map.setBytes("raw", new byte[] {1});
        producer.send(map);
        StreamMessage stream = session.createStreamMessage();
        stream.writeString("one");
        stream.writeLong(2);
        producer.send(stream);
        ObjectMessage object = session.createObjectMessage(new ArrayList<>(List.of("a", "b")));
        producer.send(object);
        producer.send(session.createMessage());
        MessageConsumer consumer = session.createConsumer(session.createQueue(hub));
        TextMessage back = next(consumer, TextMessage.class);
        check("text ü", back.getText());
        check(text.getJMSMessageID(), back.getJMSMessageID());
        check("c-1", back.getJMSCorrelationID());
        check("reading", back.getJMSType());
        check(queue, back.getJMSReplyTo());
        check(queue, back.getJMSDestination());
        check(9, back.getJMSPriority());
        check(DeliveryMode.PERSISTENT, back.getJMSDeliveryMode());
        check(text.getJMSTimestamp(), back.getJMSTimestamp());
        check(text.getJMSExpiration(), back.getJMSExpiration());
        for (Object name : Collections.list((Enumeration<?>) text.getPropertyNames())) {
            if (!name.toString().startsWith("JMSX")) {
                check(text.getObjectProperty(name.toString()), back.getObjectProperty(name.toString()));
            }
        }
        BytesMessage raw = next(consumer, BytesMessage.class);
        check(2L, raw.getBodyLength());
        check((byte) 0, raw.readByte());
        check((byte) -1, raw.readByte());
        MapMessage pairs = next(consumer, MapMessage.class);
        check(3, pairs.getInt("kw"));
        check((byte) 1, pairs.getBytes("raw")[0]);
        StreamMessage items = next(consumer, StreamMessage.class);
        check("one", items.readString());
        check(2L, items.readLong());
        check(List.of("a", "b"), next(consumer, ObjectMessage.class).getObject());
        check(false, next(consumer, Message.class).getJMSRedelivered());
    }

    private List<String> send(Session session, int count) throws JMSException {
        MessageProducer producer = session.createProducer(session.createQueue(hub + "/Partitions/0"));
        List<String> sent = new ArrayList<>();
        for (int number = 0; number < count; number++) {
            producer.send(session.createTextMessage("" + number));
            sent.add("" + number);
        }
        return sent;
    }

    private void acknowledging() throws Exception {
        Session session = session("", Session.CLIENT_ACKNOWLEDGE);
        send(session, 4);
        MessageConsumer consumer = session.createConsumer(session.createQueue(hub));
        check("0", next(consumer, TextMessage.class).getText());
        TextMessage second = next(consumer, TextMessage.class);
        second.acknowledge();
        check("2", next(consumer, TextMessage.class).getText());
        session.recover();
        TextMessage again = next(consumer, TextMessage.class);
        check("2", again.getText());
        check(true, again.getJMSRedelivered());
        session.close();
        Session other = session("", Session.AUTO_ACKNOWLEDGE);
        consumer = other.createConsumer(other.createQueue(hub));
        Set<String> rest = new HashSet<>();
        rest.add(next(consumer, TextMessage.class).getText());
        rest.add(next(consumer, TextMessage.class).getText());
        check(Set.of("2", "3"), rest);
        check(true, consumer.receive(NOTHING_MS) == null);
    }

    private void large() throws Exception {
        Session session = session("?amqp.maxFrameSize=16384", Session.AUTO_ACKNOWLEDGE);
        byte[] body = new byte[900_000];
        for (int at = 0; at < body.length; at++) {
            body[at] = (byte) (at * 31);
        }
        BytesMessage message = session.createBytesMessage();
        message.writeBytes(body);
        session.createProducer(session.createQueue(hub)).send(message);
        BytesMessage back = next(session.createConsumer(session.createQueue(hub)), BytesMessage.class);
        byte[] found = new byte[body.length];
        check(body.length, back.readBytes(found));
        check(true, Arrays.equals(body, found));
    }

    private void many() throws Exception {
        Session session = session("", Session.AUTO_ACKNOWLEDGE);
        MessageProducer producer = session.createProducer(session.createQueue(hub));
        int count = 2000;
        CountDownLatch done = new CountDownLatch(count);
        AtomicInteger failed = new AtomicInteger();
        CompletionListener listener = new CompletionListener() {
            @Override
            public void onCompletion(Message message) {
                done.countDown();
            }

            @Override
            public void onException(Message message, Exception problem) {
                failed.incrementAndGet();
                done.countDown();
            }
        };
        for (int number = 0; number < count; number++) {
            producer.send(session.createTextMessage("" + number), listener);
        }
        check(true, done.await(DEADLINE_MS, TimeUnit.MILLISECONDS));
        check(0, failed.get());
        Set<String> found = new HashSet<>();
        MessageConsumer consumer = session.createConsumer(session.createQueue(hub));
        while (found.size() < count) {
            found.add(next(consumer, TextMessage.class).getText());
        }
    }

    /** Without prefetch a consumer grants one credit a call, and drains when its time is over. */
    private void draining() throws Exception {
        Session session = session("?jms.prefetchPolicy.all=0", Session.AUTO_ACKNOWLEDGE);
        MessageConsumer consumer = session.createConsumer(session.createQueue(hub + "/ConsumerGroups/g"));
        check(true, consumer.receive(NOTHING_MS) == null);
        check(true, consumer.receiveNoWait() == null);
        send(session, 2);
        check("0", next(consumer, TextMessage.class).getText());
        check("1", next(consumer, TextMessage.class).getText());
        check(true, consumer.receiveNoWait() == null);
    }

    private void browsing() throws Exception {
        Session session = session("", Session.AUTO_ACKNOWLEDGE);
        List<String> sent = send(session, 5);
        for (int round = 0; round < 2; round++) {
            List<String> seen = new ArrayList<>();
            Enumeration<?> browsed = session.createBrowser(session.createQueue(hub)).getEnumeration();
            while (browsed.hasMoreElements()) {
                seen.add(((TextMessage) browsed.nextElement()).getText());
            }
            check(sent, seen);
        }
        check("0", next(session.createConsumer(session.createQueue(hub)), TextMessage.class).getText());
    }

    private static void refused(String expected, Class<? extends JMSException> kind, Case work) throws Exception {
        try {
            work.run();
        } catch (JMSException problem) {
            check(true, kind.isInstance(problem));
            check(true, problem.toString().contains(expected));
            return;
        }
        throw new AssertionError("not refused: " + expected);
    }

    private void refusals() throws Exception {
        Session session = session("", Session.AUTO_ACKNOWLEDGE);
        Connection connection = open.get(0);
        refused("amqp:not-found", InvalidDestinationException.class,
            () -> session.createConsumer(session.createQueue("nowhere-at-all")));
        refused("not-implemented", JMSException.class, session::createTemporaryQueue);
        refused("argument-error", JMSException.class,
            () -> session.createConsumer(session.createQueue(hub), "colour = 'red'"));
        refused("transactions", JMSException.class, () -> connection.createSession(true, Session.SESSION_TRANSACTED));
        check("still here", roundTrip(session, "still here"));
    }

    private String roundTrip(Session session, String text) throws JMSException {
        session.createProducer(session.createQueue(hub)).send(session.createTextMessage(text));
        return next(session.createConsumer(session.createQueue(hub)), TextMessage.class).getText();
    }

    /** What lies between a client and the hub, and can be cut. */
    private static final class Wire implements AutoCloseable {
        private final ServerSocket listening = new ServerSocket(0);
        private final List<Socket> sockets = Collections.synchronizedList(new ArrayList<>());

        Wire(String address) throws IOException {
            String[] parts = address.split(":");
            Thread thread = new Thread(() -> {
                try {
                    while (true) {
                        Socket near = listening.accept();
                        Socket far = new Socket(parts[0], Integer.parseInt(parts[1]));
                        sockets.addAll(List.of(near, far));
                        copy(near, far);
                        copy(far, near);
                    }
                } catch (IOException over) {
                    // closed
                }
            });
            thread.setDaemon(true);
            thread.start();
        }

        private static void copy(Socket from, Socket to) {
            Thread thread = new Thread(() -> {
                try {
                    from.getInputStream().transferTo(to.getOutputStream());
                } catch (IOException cut) {
                    // cut
                }
            });
            thread.setDaemon(true);
            thread.start();
        }

        void cut() throws IOException {
            for (Socket each : new ArrayList<>(sockets)) {
                each.close();
            }
        }

        @Override
        public void close() throws IOException {
            listening.close();
            cut();
        }
    }

    /** The client attaches its links again after a cut; what was acknowledged is there, what was not comes again. */
    private void failover() throws Exception {
        try (Wire wire = new Wire(address)) {
            String uri = "failover:(amqp://127.0.0.1:" + wire.listening.getLocalPort() + ")?failover.reconnectDelay=10";
            Session session = session(uri, null, null, Session.CLIENT_ACKNOWLEDGE);
            MessageConsumer consumer = session.createConsumer(session.createQueue(hub));
            MessageProducer producer = session.createProducer(session.createQueue(hub));
            for (int number = 0; number < 60; number++) {
                producer.send(session.createTextMessage("" + number));
                if (number % 20 == 10) {
                    wire.cut();
                }
            }
            Set<String> found = new HashSet<>();
            while (found.size() < 60) {
                TextMessage message = next(consumer, TextMessage.class);
                found.add(message.getText());
                if (found.size() == 30) {
                    wire.cut();
                }
            }
        }
    }

    private void signing(String secured, String user, String key) throws Exception {
        String uri = "amqp://" + secured + "?amqp.saslMechanisms=PLAIN";
        check("in", roundTrip(session(uri, user, key, Session.AUTO_ACKNOWLEDGE), "in"));
        refused("", JMSException.class, () -> session(uri, user, "wrong", Session.AUTO_ACKNOWLEDGE));
        String nobody = "amqp://" + secured + "?amqp.saslMechanisms=ANONYMOUS";
        Session session = session(nobody, null, null, Session.AUTO_ACKNOWLEDGE);
        refused("unauthorized", JMSException.class, () -> session.createConsumer(session.createQueue(hub)));
        Session open = session("?amqp.saslMechanisms=ANONYMOUS", Session.AUTO_ACKNOWLEDGE);
        check("in", roundTrip(open, "in"));
    }
}
