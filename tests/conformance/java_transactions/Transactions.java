import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;

/** The Java client's transactions: commits, aborts, offsets, a fenced producer. Prints what committed readers see. */
public final class Transactions {
    private static final String STRING = "org.apache.kafka.common.serialization.StringSerializer";
    private static final String TEXT = "org.apache.kafka.common.serialization.StringDeserializer";

    public static void main(String[] arguments) {
        String address = arguments[0];
        String topic = arguments[1];
        try (KafkaProducer<String, String> producer = producer(address)) {
            for (int number = 0; number < 6; number++) {
                producer.beginTransaction();
                for (int part = 0; part < 3; part++) {
                    producer.send(new ProducerRecord<>(topic, part % 2, "k", number + "." + part));
                }
                producer.sendOffsetsToTransaction(
                    Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(number)), new ConsumerGroupMetadata("java"));
                if (number % 2 == 0) {
                    producer.commitTransaction();
                } else {
                    producer.flush();
                    producer.abortTransaction();
                }
            }
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(topic, 0, "k", "zombie"));
            producer.flush();
            try (KafkaProducer<String, String> fresh = producer(address)) {
                try {
                    producer.commitTransaction();
                    System.out.println("not fenced");
                } catch (KafkaException error) {
                    System.out.println("fenced " + error.getClass().getSimpleName());
                }
                fresh.beginTransaction();
                fresh.send(new ProducerRecord<>(topic, 0, "k", "fresh"));
                fresh.commitTransaction();
            }
        }
        Map<String, Object> config = new HashMap<>(Map.of(
            "bootstrap.servers", address, "group.id", "java", "isolation.level", "read_committed",
            "enable.auto.commit", "false", "key.deserializer", TEXT, "value.deserializer", TEXT));
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(config)) {
            List<TopicPartition> places = List.of(new TopicPartition(topic, 0), new TopicPartition(topic, 1));
            consumer.assign(places);
            System.out.println("position " + consumer.committed(java.util.Set.copyOf(places)).get(places.get(0)).offset());
            consumer.seekToBeginning(places);
            Map<TopicPartition, Long> ends = consumer.endOffsets(places);
            while (places.stream().anyMatch(place -> consumer.position(place) < ends.get(place))) {
                consumer.poll(Duration.ofMillis(200)).forEach(each -> System.out.println("value " + each.value()));
            }
        }
    }

    private static KafkaProducer<String, String> producer(String address) {
        Properties config = new Properties();
        config.put("bootstrap.servers", address);
        config.put("transactional.id", "java");
        config.put("key.serializer", STRING);
        config.put("value.serializer", STRING);
        KafkaProducer<String, String> producer = new KafkaProducer<>(config);
        producer.initTransactions();
        return producer;
    }
}
