import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.BooleanSupplier;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** What an application does with the Java client: each case fails with an exception that says what was expected. */
public final class Clients {
    private static final long DEADLINE_MS = 40_000;
    private static String servers;

    public static void main(String[] arguments) throws Exception {
        servers = arguments[1];
        switch (arguments[0]) {
            case "codecs" -> codecs(arguments[2]);
            case "left" -> left(arguments[2], Long.parseLong(arguments[3]));
            case "group" -> group(arguments[2], arguments[3], arguments[4]);
            case "pattern" -> pattern(arguments[2]);
            case "fixed" -> fixed(arguments[2], arguments[3]);
            case "admin" -> admin(arguments[2]);
            default -> throw new IllegalArgumentException(arguments[0]);
        }
        System.out.println("passed");
    }

    private static KafkaProducer<String, String> producer(String codec) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", servers);
        settings.put("compression.type", codec);
        settings.put("delivery.timeout.ms", "30000");
        settings.put("request.timeout.ms", "10000");
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    private static KafkaConsumer<String, String> consumer(String group, String protocol, String... more) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", servers);
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("group.protocol", protocol);
        if (group != null) {
            settings.put("group.id", group);
        }
        if (protocol.equals("classic")) {
            settings.put("heartbeat.interval.ms", "300");
            settings.put("session.timeout.ms", "6000");
        }
        settings.put("metadata.max.age.ms", "1000");
        for (int i = 0; i < more.length; i += 2) {
            settings.put(more[i], more[i + 1]);
        }
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private static void check(Object expected, Object found, String what) {
        if (!expected.equals(found)) {
            throw new AssertionError(what + ": expected " + expected + ", found " + found);
        }
    }

    private static void until(String what, BooleanSupplier condition) {
        long end = System.currentTimeMillis() + DEADLINE_MS;
        while (!condition.getAsBoolean()) {
            if (System.currentTimeMillis() > end) {
                throw new AssertionError("did not happen in time: " + what);
            }
        }
    }

    private static void codecs(String topic) throws Exception {
        TopicPartition place = new TopicPartition(topic, 0);
        List<String> sent = new ArrayList<>();
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            try (KafkaProducer<String, String> producer = producer(codec)) {
                List<java.util.concurrent.Future<RecordMetadata>> acks = new ArrayList<>();
                for (int i = 0; i < 200; i++) {
                    String value = codec + "-" + i + "-" + "x".repeat(100);
                    ProducerRecord<String, String> record = new ProducerRecord<>(topic, 0, 1_000_000L + sent.size(), "k", value);
                    record.headers().add("codec", codec.getBytes());
                    acks.add(producer.send(record));
                    sent.add(value);
                }
                for (int i = 0; i < acks.size(); i++) {
                    check((long) (sent.size() - acks.size() + i), acks.get(i).get().offset(), "offset");
                }
            }
        }
        try (KafkaConsumer<String, String> consumer = consumer(null, "classic")) {
            consumer.assign(List.of(place));
            consumer.seekToBeginning(List.of(place));
            List<String> got = new ArrayList<>();
            until("all records", () -> {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> got.add(record.value()));
                return got.size() >= sent.size();
            });
            check(sent, got, "values");
            check(Map.of(place, 1000L), consumer.endOffsets(List.of(place)), "end");
            check(Map.of(place, 0L), consumer.beginningOffsets(List.of(place)), "beginning");
            OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(place, 1_000_333L)).get(place);
            check(333L, found.offset(), "offset by time");
            check(1_000_333L, found.timestamp(), "time by time");
            Map<TopicPartition, OffsetAndTimestamp> late = consumer.offsetsForTimes(Map.of(place, 2_000_000_000_000L));
            check(true, late.get(place) == null, "no offset by a later time");
        }
    }

    private static void left(String topic, long end) {
        TopicPartition place = new TopicPartition(topic, 0);
        try (KafkaConsumer<String, String> consumer = consumer(null, "classic")) {
            consumer.assign(List.of(place));
            consumer.seekToBeginning(List.of(place));
            until("the end", () -> {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) {
                    System.out.println(record.offset() + " " + record.value());
                }
                return consumer.position(place) >= end;
            });
            check(end, consumer.position(place), "position");
        }
    }

    private static final class Reader implements ConsumerRebalanceListener, AutoCloseable {
        final KafkaConsumer<String, String> consumer;
        final Map<String, Integer> seen = new HashMap<>();
        int assigned;
        int revoked;

        Reader(KafkaConsumer<String, String> consumer) {
            this.consumer = consumer;
        }

        void poll() {
            for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(50))) {
                seen.merge(record.value(), 1, Integer::sum);
            }
        }

        int size() {
            return consumer.assignment().size();
        }

        @Override public void onPartitionsAssigned(Collection<TopicPartition> places) {
            assigned += places.size();
        }

        @Override public void onPartitionsRevoked(Collection<TopicPartition> places) {
            revoked += places.size();
            consumer.commitSync();
        }

        @Override public void close() {
            consumer.close();
        }
    }

    /** Three members come and go over six partitions; every record is read, and commits hold over the changes. */
    private static void group(String topic, String name, String protocol) throws Exception {
        Set<String> all = new TreeSet<>();
        try (KafkaProducer<String, String> producer = producer("lz4");
                Reader first = new Reader(consumer(name, protocol));
                Reader second = new Reader(consumer(name, protocol))) {
            for (int i = 0; i < 600; i++) {
                producer.send(new ProducerRecord<>(topic, i % 6, null, "v" + i));
                all.add("v" + i);
            }
            producer.flush();
            first.consumer.subscribe(List.of(topic), first);
            until("everything read by the first", () -> {
                first.poll();
                return first.seen.size() == 600 && first.size() == 6;
            });
            first.consumer.commitSync();
            second.consumer.subscribe(List.of(topic), second);
            until("two share", () -> {
                first.poll();
                second.poll();
                return first.size() == 3 && second.size() == 3;
            });
            check(Set.of(), second.seen.keySet(), "records read again after a commit");
            try (Reader third = new Reader(consumer(name, protocol))) {
                third.consumer.subscribe(List.of(topic), third);
                until("three share", () -> {
                    first.poll();
                    second.poll();
                    third.poll();
                    return first.size() == 2 && second.size() == 2 && third.size() == 2;
                });
            }
            until("two share again", () -> {
                first.poll();
                second.poll();
                return first.size() == 3 && second.size() == 3;
            });
            for (int i = 0; i < 60; i++) {
                producer.send(new ProducerRecord<>(topic, i % 6, null, "w" + i));
                all.add("w" + i);
            }
            producer.flush();
            until("the rest", () -> {
                first.poll();
                second.poll();
                return first.seen.size() + second.seen.size() == 660;
            });
            first.consumer.commitSync();
            second.consumer.commitSync();
            Map<TopicPartition, OffsetAndMetadata> committed = second.consumer.committed(places(topic, 6));
            committed.forEach((place, offset) -> check(110L, offset.offset(), "committed " + place));
            first.seen.putAll(second.seen);
            check(all, new TreeSet<>(first.seen.keySet()), "all records");
        }
    }

    private static Set<TopicPartition> places(String topic, int count) {
        Set<TopicPartition> places = new java.util.HashSet<>();
        for (int i = 0; i < count; i++) {
            places.add(new TopicPartition(topic, i));
        }
        return places;
    }

    /** A server-side subscription by regular expression finds topics that come later. */
    private static void pattern(String prefix) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", servers));
                Reader reader = new Reader(consumer("group-" + prefix, "consumer"))) {
            admin.createTopics(List.of(new NewTopic(prefix + "-a", 2, (short) 1))).all().get();
            reader.consumer.subscribe(new SubscriptionPattern(prefix + "-(a|b)"), reader);
            until("one topic", () -> {
                reader.poll();
                return reader.consumer.assignment().equals(places(prefix + "-a", 2));
            });
            admin.createTopics(List.of(new NewTopic(prefix + "-b", 1, (short) 1), new NewTopic(prefix + "-c", 1, (short) 1))).all().get();
            Set<TopicPartition> both = places(prefix + "-a", 2);
            both.addAll(places(prefix + "-b", 1));
            until("both topics", () -> {
                reader.poll();
                return reader.consumer.assignment().equals(both);
            });
        }
    }

    /** A static member comes back: same partitions, nobody else is disturbed. */
    private static void fixed(String topic, String protocol) throws Exception {
        String name = "group-" + topic;
        try (Reader other = new Reader(consumer(name, protocol, "group.instance.id", "other"))) {
            other.consumer.subscribe(List.of(topic), other);
            Set<TopicPartition> before = new java.util.HashSet<>();
            try (Reader one = new Reader(consumer(name, protocol, "group.instance.id", "one"))) {
                one.consumer.subscribe(List.of(topic), one);
                until("two share", () -> {
                    one.poll();
                    other.poll();
                    return one.size() == 3 && other.size() == 3;
                });
                before.addAll(one.consumer.assignment());
            }
            int revoked = other.revoked;
            try (Reader one = new Reader(consumer(name, protocol, "group.instance.id", "one"))) {
                one.consumer.subscribe(List.of(topic), one);
                until("back again", () -> {
                    one.poll();
                    other.poll();
                    return one.size() == 3;
                });
                check(before, one.consumer.assignment(), "partitions of the static member");
                check(revoked, other.revoked, "partitions taken from the other");
            }
        }
    }

    private static void admin(String topic) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", servers)); KafkaProducer<String, String> producer = producer("none")) {
            NewTopic wanted = new NewTopic(topic, 2, (short) 1).configs(Map.of("retention.ms", "60000"));
            admin.createTopics(List.of(wanted)).all().get();
            try {
                admin.createTopics(List.of(wanted)).all().get();
                throw new AssertionError("a topic was created twice");
            } catch (ExecutionException problem) {
                check(TopicExistsException.class, problem.getCause().getClass(), "second creation");
            }
            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3))).all().get();
            TopicDescription described = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
            check(3, described.partitions().size(), "partitions");
            check(described.topicId(), admin.describeTopics(org.apache.kafka.common.TopicCollection.ofTopicIds(List.of(described.topicId()))).allTopicIds().get().keySet().iterator().next(), "topic id");
            ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            check("60000", admin.describeConfigs(List.of(resource)).all().get().get(resource).get("retention.ms").value(), "retention");
            admin.incrementalAlterConfigs(Map.of(resource, List.of(new AlterConfigOp(new ConfigEntry("retention.ms", "90000"), AlterConfigOp.OpType.SET)))).all().get();
            check("90000", admin.describeConfigs(List.of(resource)).all().get().get(resource).get("retention.ms").value(), "altered retention");
            check(1, admin.describeCluster().nodes().get().size(), "nodes");
            TopicPartition place = new TopicPartition(topic, 1);
            for (int i = 0; i < 10; i++) {
                producer.send(new ProducerRecord<>(topic, 1, 5_000L - i, null, "v")).get();
            }
            check(10L, offset(admin, place, OffsetSpec.latest()).offset(), "latest");
            check(0L, offset(admin, place, OffsetSpec.earliest()).offset(), "earliest");
            check(5_000L, offset(admin, place, OffsetSpec.maxTimestamp()).timestamp(), "max timestamp");
            check(0L, offset(admin, place, OffsetSpec.forTimestamp(4_995L)).offset(), "by time");
            String group = "group-" + topic;
            admin.alterConsumerGroupOffsets(group, Map.of(place, new OffsetAndMetadata(7, "note"))).all().get();
            Map<TopicPartition, OffsetAndMetadata> positions = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
            check(Map.of(place, new OffsetAndMetadata(7, java.util.Optional.of(0), "note")).toString(), positions.toString(), "positions");
            Collection<GroupListing> groups = admin.listGroups().all().get();
            check(true, groups.stream().anyMatch(each -> each.groupId().equals(group)), "group is listed");
            ConsumerGroupDescription shown = admin.describeConsumerGroups(List.of(group)).all().get().get(group);
            check("Empty", shown.groupState().toString(), "state");
            admin.deleteConsumerGroups(List.of(group)).all().get();
            admin.deleteTopics(List.of(topic)).all().get();
            check(false, admin.listTopics().names().get().contains(topic), "deleted topic is listed");
        }
    }

    private static ListOffsetsResultInfo offset(Admin admin, TopicPartition place, OffsetSpec which) throws Exception {
        return admin.listOffsets(Map.of(place, which)).partitionResult(place).get();
    }
}
