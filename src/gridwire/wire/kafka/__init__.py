"""The Kafka protocol without I/O: frames, headers, a schema-driven codec, hand-tuned Produce and Fetch, error codes."""
