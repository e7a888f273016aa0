"""Moving hubs, settings and positions between an embedded hub and a Kafka cluster, in either direction."""
