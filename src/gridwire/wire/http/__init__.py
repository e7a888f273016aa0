"""HTTP without sockets: bodies to events, events to JSON, errors to problems, keys to partitions."""
