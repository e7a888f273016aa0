import com.azure.core.amqp.AmqpRetryOptions;
import com.azure.core.amqp.AmqpTransportType;
import com.azure.core.amqp.exception.AmqpErrorCondition;
import com.azure.core.amqp.exception.AmqpException;
import com.azure.messaging.eventhubs.CheckpointStore;
import com.azure.messaging.eventhubs.EventData;
import com.azure.messaging.eventhubs.EventDataBatch;
import com.azure.messaging.eventhubs.EventHubBufferedProducerClient;
import com.azure.messaging.eventhubs.EventHubBufferedProducerClientBuilder;
import com.azure.messaging.eventhubs.EventHubClientBuilder;
import com.azure.messaging.eventhubs.EventHubConsumerAsyncClient;
import com.azure.messaging.eventhubs.EventHubConsumerClient;
import com.azure.messaging.eventhubs.EventHubProducerClient;
import com.azure.messaging.eventhubs.EventProcessorClient;
import com.azure.messaging.eventhubs.EventProcessorClientBuilder;
import com.azure.messaging.eventhubs.LoadBalancingStrategy;
import com.azure.messaging.eventhubs.models.Checkpoint;
import com.azure.messaging.eventhubs.models.CreateBatchOptions;
import com.azure.messaging.eventhubs.models.EventPosition;
import com.azure.messaging.eventhubs.models.PartitionEvent;
import com.azure.messaging.eventhubs.models.PartitionOwnership;
import com.azure.messaging.eventhubs.models.ReceiveOptions;
import com.azure.messaging.eventhubs.models.SendOptions;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import reactor.core.Disposable;
import reactor.core.publisher.Flux;
import reactor.core.publisher.Mono;

/**
 * Azure's Event Hubs SDK as an application uses it.
 *
 * A request is one line on standard input: case, connection string, hub, endpoint ("-" for the connection string's own)
 * and transport (amqp or websocket), separated by blanks. The answer is one line: "passed", or a stack trace in base64.
 */
public final class EventHubs {
    private static final Duration DEADLINE = Duration.ofSeconds(60);
    private static final AmqpRetryOptions RETRY = new AmqpRetryOptions().setMaxRetries(1).setTryTimeout(Duration.ofSeconds(20));

    private final String connectionString;
    private final String hub;
    private final String endpoint;
    private final AmqpTransportType transport;

    private EventHubs(String connectionString, String hub, String endpoint, String transport) {
        this.connectionString = connectionString;
        this.hub = hub;
        this.endpoint = endpoint;
        this.transport = transport.equals("websocket") ? AmqpTransportType.AMQP_WEB_SOCKETS : AmqpTransportType.AMQP;
    }

    private EventHubClientBuilder builder() {
        EventHubClientBuilder builder = new EventHubClientBuilder().connectionString(connectionString, hub)
            .consumerGroup(EventHubClientBuilder.DEFAULT_CONSUMER_GROUP_NAME).transportType(transport).retryOptions(RETRY);
        return endpoint.equals("-") ? builder : builder.customEndpointAddress(endpoint);
    }

    private void sends() throws Exception {
        try (EventHubProducerClient producer = builder().buildProducerClient()) {
            equal(List.of("0", "1"), producer.getPartitionIds().stream().collect(Collectors.toList()));
            equal(hub, producer.getEventHubProperties().getName());
            equal(true, producer.getPartitionProperties("0").isEmpty());
            EventDataBatch batch = producer.createBatch(new CreateBatchOptions().setPartitionKey("meter-1"));
            EventData rich = new EventData("rich").setContentType("text/plain").setCorrelationId("c-1").setMessageId("m-1");
            rich.getProperties().put("unit", "kW");
            rich.getProperties().put("number", 7);
            equal(true, batch.tryAdd(rich));
            equal(true, batch.tryAdd(new EventData(new byte[] {0, -1})));
            producer.send(batch);
            producer.send(List.of(new EventData("one"), new EventData("two")), new SendOptions().setPartitionId("0"));
            producer.send(List.of(new EventData("turn")));
            EventDataBatch small = producer.createBatch(new CreateBatchOptions().setMaximumSizeInBytes(1000));
            equal(true, refusesOf(() -> small.tryAdd(new EventData("x".repeat(2000)))));
        }
        buffered();
        List<EventData> events = new ArrayList<>();
        try (EventHubConsumerClient consumer = builder().buildConsumerClient()) {
            for (String partition : consumer.getPartitionIds()) {
                int count = (int) (consumer.getPartitionProperties(partition).getLastEnqueuedSequenceNumber() + 1);
                events.addAll(read(consumer, partition, EventPosition.earliest(), count));
            }
        }
        equal(25, events.size());
        List<EventData> keyed = events.stream().filter(each -> "meter-1".equals(each.getPartitionKey())).toList();
        equal("rich", keyed.get(0).getBodyAsString());
        equal(List.of("text/plain", "c-1", "m-1"),
            List.of(keyed.get(0).getContentType(), keyed.get(0).getCorrelationId(), keyed.get(0).getMessageId()));
        equal(Map.of("unit", "kW", "number", 7), keyed.get(0).getProperties());
        equal(-1, (int) keyed.get(1).getBody()[1]);
        List<String> bodies = bodies(events);
        equal(true, bodies.containsAll(List.of("one", "two", "turn", "b0", "b19")));
        equal(List.of("b0", "b1", "b2"), bodies.stream().filter(each -> each.matches("b[012]")).toList());
    }

    /** An event that is larger than a whole batch may be refused either way. */
    private static boolean refusesOf(Callable<Boolean> adding) throws Exception {
        try {
            return !adding.call();
        } catch (AmqpException problem) {
            return problem.getErrorCondition() == AmqpErrorCondition.LINK_PAYLOAD_SIZE_EXCEEDED;
        }
    }

    private void buffered() {
        AtomicReference<Throwable> problem = new AtomicReference<>();
        EventHubBufferedProducerClientBuilder builder = new EventHubBufferedProducerClientBuilder()
            .connectionString(connectionString, hub).maxWaitTime(Duration.ofMillis(100)).transportType(transport)
            .onSendBatchFailed(failed -> problem.set(failed.getThrowable())).onSendBatchSucceeded(done -> { });
        EventHubBufferedProducerClient producer = builder.buildClient();
        for (int i = 0; i < 20; i++) {
            producer.enqueueEvent(new EventData("b" + i), new SendOptions().setPartitionId("1"));
        }
        producer.flush();
        producer.close();
        equal(null, problem.get());
    }

    private void positions() {
        send("0", List.of("0", "1", "2", "3"));
        try (EventHubConsumerClient consumer = builder().buildConsumerClient()) {
            List<EventData> all = read(consumer, "0", EventPosition.earliest(), 4);
            equal(List.of(0L, 1L, 2L, 3L), all.stream().map(EventData::getSequenceNumber).toList());
            Map<EventPosition, Integer> first = new LinkedHashMap<>();
            first.put(EventPosition.fromOffsetString(all.get(1).getOffsetString()), 2);
            first.put(EventPosition.fromSequenceNumber(2), 3);
            first.put(EventPosition.fromSequenceNumber(2, true), 2);
            first.put(EventPosition.fromEnqueuedTime(Instant.now().minusSeconds(3600)), 0);
            first.forEach((position, from) ->
                equal(List.of("0", "1", "2", "3").subList(from, 4), bodies(read(consumer, "0", position, 4 - from))));
        }
    }

    /** What is sent while a reader of latest reads reaches it, and it alone; it knows where the partition ends. */
    private void latest() throws Exception {
        send("0", List.of("before"));
        List<PartitionEvent> seen = new CopyOnWriteArrayList<>();
        ReceiveOptions tracking = new ReceiveOptions().setTrackLastEnqueuedEventProperties(true);
        try (EventHubConsumerAsyncClient consumer = builder().buildAsyncConsumerClient();
             EventHubProducerClient producer = builder().buildProducerClient()) {
            Disposable reading = consumer.receiveFromPartition("0", EventPosition.latest(), tracking).subscribe(seen::add);
            until("an event of afterwards", () -> {
                producer.send(List.of(new EventData("after")), new SendOptions().setPartitionId("0"));
                return !seen.isEmpty();
            });
            reading.dispose();
        }
        equal(Set.of("after"), seen.stream().map(each -> each.getData().getBodyAsString()).collect(Collectors.toSet()));
        equal(true, seen.get(0).getLastEnqueuedEventProperties().getSequenceNumber() > 0);
    }

    private void owner() throws Exception {
        send("0", List.of("a"));
        List<PartitionEvent> seen = new CopyOnWriteArrayList<>();
        List<PartitionEvent> also = new CopyOnWriteArrayList<>();
        AtomicReference<Throwable> problem = new AtomicReference<>();
        try (EventHubConsumerAsyncClient first = builder().buildAsyncConsumerClient();
             EventHubConsumerAsyncClient second = builder().buildAsyncConsumerClient()) {
            Disposable one = first.receiveFromPartition("0", EventPosition.earliest(), new ReceiveOptions().setOwnerLevel(1L))
                .subscribe(seen::add, problem::set);
            until("the first reads", () -> !seen.isEmpty());
            Disposable two = second.receiveFromPartition("0", EventPosition.earliest(), new ReceiveOptions().setOwnerLevel(2L))
                .subscribe(also::add);
            until("the second reads", () -> !also.isEmpty());
            until("the first is told", () -> problem.get() != null);
            one.dispose();
            two.dispose();
        }
        equal(AmqpErrorCondition.LINK_STOLEN, ((AmqpException) problem.get()).getErrorCondition());
    }

    /** Two processors share the partitions; one goes, the other takes over from its checkpoints; nothing is lost. */
    private void processors() throws Exception {
        Store store = new Store();
        Set<String> seen = ConcurrentHashMap.newKeySet();
        Processor one = new Processor(store, seen);
        until("one has all", () -> one.own.size() == 4);
        Processor two = new Processor(store, seen);
        until("they share", () -> one.own.size() == 2 && two.own.size() == 2);
        for (int i = 0; i < 40; i++) {
            if (i == 20) {
                stopped(one.client);
            }
            send(String.valueOf(i % 4), List.of("e" + i));
        }
        until("the other takes over", () -> two.own.size() == 4);
        until("all events", () -> seen.size() == 40);
        equal(4, store.checkpoints.size());
        stopped(two.client);
    }

    /** The SDK waits for partitions that went to another processor, 10 s by default, and then says that it waited. */
    private static void stopped(EventProcessorClient client) {
        try {
            client.stop(Duration.ofSeconds(1));
        } catch (IllegalStateException late) {
            if (client.isRunning()) {
                throw late;
            }
        }
    }

    private final class Processor {
        final Set<String> own = ConcurrentHashMap.newKeySet();
        final EventProcessorClient client;

        Processor(CheckpointStore store, Set<String> seen) {
            client = new EventProcessorClientBuilder().connectionString(connectionString, hub)
                .consumerGroup(EventHubClientBuilder.DEFAULT_CONSUMER_GROUP_NAME).checkpointStore(store)
                .loadBalancingStrategy(LoadBalancingStrategy.GREEDY).loadBalancingUpdateInterval(Duration.ofMillis(300))
                .partitionOwnershipExpirationInterval(Duration.ofSeconds(3))
                .initialPartitionEventPosition(partition -> EventPosition.earliest())
                .processPartitionInitialization(begun -> own.add(begun.getPartitionContext().getPartitionId()))
                .processPartitionClose(ended -> own.remove(ended.getPartitionContext().getPartitionId()))
                .processError(ignored -> { }) // that a partition went to the other is told of here
                .processEvent(context -> {
                    seen.add(context.getEventData().getBodyAsString());
                    context.updateCheckpoint();
                }).buildEventProcessorClient();
            client.start();
        }
    }

    /** What a storage account does elsewhere. */
    private static final class Store implements CheckpointStore {
        final Map<String, PartitionOwnership> owners = new ConcurrentHashMap<>();
        final Map<String, Checkpoint> checkpoints = new ConcurrentHashMap<>();
        private final AtomicInteger etags = new AtomicInteger();

        @Override
        public Flux<PartitionOwnership> listOwnership(String namespace, String hub, String group) {
            return Flux.fromIterable(owners.values());
        }

        @Override
        public synchronized Flux<PartitionOwnership> claimOwnership(List<PartitionOwnership> claims) {
            List<PartitionOwnership> granted = new ArrayList<>();
            for (PartitionOwnership claim : claims) {
                PartitionOwnership now = owners.get(claim.getPartitionId());
                if (now == null || Objects.equals(now.getETag(), claim.getETag())) {
                    PartitionOwnership ours = new PartitionOwnership().setPartitionId(claim.getPartitionId())
                        .setFullyQualifiedNamespace(claim.getFullyQualifiedNamespace()).setOwnerId(claim.getOwnerId())
                        .setEventHubName(claim.getEventHubName()).setConsumerGroup(claim.getConsumerGroup())
                        .setETag(String.valueOf(etags.incrementAndGet())).setLastModifiedTime(System.currentTimeMillis());
                    owners.put(claim.getPartitionId(), ours);
                    granted.add(ours);
                }
            }
            return Flux.fromIterable(granted);
        }

        @Override
        public Flux<Checkpoint> listCheckpoints(String namespace, String hub, String group) {
            return Flux.fromIterable(checkpoints.values());
        }

        @Override
        public Mono<Void> updateCheckpoint(Checkpoint checkpoint) {
            checkpoints.put(checkpoint.getPartitionId(), checkpoint);
            return Mono.empty();
        }
    }

    private void refused() {
        String wrong = connectionString.replaceAll("SharedAccessKey=[^;]*", "SharedAccessKey=wrong");
        try (EventHubProducerClient producer = new EventHubClientBuilder().connectionString(wrong, hub).retryOptions(RETRY)
            .customEndpointAddress(endpoint).transportType(transport).buildProducerClient()) {
            producer.send(List.of(new EventData("out")));
            throw new AssertionError("it was let in");
        } catch (AmqpException problem) {
            equal(AmqpErrorCondition.UNAUTHORIZED_ACCESS, problem.getErrorCondition());
        }
    }

    private void send(String partition, Collection<String> values) {
        try (EventHubProducerClient producer = builder().buildProducerClient()) {
            EventDataBatch batch = producer.createBatch(new CreateBatchOptions().setPartitionId(partition));
            values.forEach(value -> equal(true, batch.tryAdd(new EventData(value))));
            producer.send(batch);
        }
    }

    private static List<EventData> read(EventHubConsumerClient consumer, String partition, EventPosition from, int count) {
        List<EventData> found = new ArrayList<>();
        Instant end = Instant.now().plus(DEADLINE);
        EventPosition next = from;
        while (found.size() < count && Instant.now().isBefore(end)) {
            for (PartitionEvent event : consumer.receiveFromPartition(partition, count - found.size(), next, DEADLINE)) {
                found.add(event.getData());
                next = EventPosition.fromSequenceNumber(event.getData().getSequenceNumber());
            }
        }
        equal(count, found.size());
        return found;
    }

    private static List<String> bodies(List<EventData> events) {
        return events.stream().map(EventData::getBodyAsString).toList();
    }

    private static void equal(Object expected, Object found) {
        if (!Objects.equals(expected, found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    private static void until(String what, Callable<Boolean> condition) throws Exception {
        Instant end = Instant.now().plus(DEADLINE);
        while (!condition.call()) {
            if (Instant.now().isAfter(end)) {
                throw new AssertionError("did not happen in time: " + what);
            }
            Thread.sleep(20);
        }
    }

    private void run(String name) throws Exception {
        switch (name) {
            case "sends" -> sends();
            case "positions" -> positions();
            case "latest" -> latest();
            case "owner" -> owner();
            case "processors" -> processors();
            case "refused" -> refused();
            default -> throw new IllegalArgumentException(name);
        }
    }

    public static void main(String[] ignored) throws Exception {
        BufferedReader requests = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = requests.readLine(); line != null; line = requests.readLine()) {
            String[] words = line.split(" ");
            try {
                new EventHubs(words[1], words[2], words[3], words[4]).run(words[0]);
                System.out.println("passed");
            } catch (Throwable problem) {
                StringWriter trace = new StringWriter();
                problem.printStackTrace(new PrintWriter(trace, true));
                System.out.println(Base64.getEncoder().encodeToString(trace.toString().getBytes(StandardCharsets.UTF_8)));
            }
            System.out.flush();
        }
        System.exit(0);
    }
}
