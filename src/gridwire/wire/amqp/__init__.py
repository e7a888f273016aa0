"""AMQP 1.0 without I/O: values, frames, performatives, the state tables of connections, sessions and links, messages."""
