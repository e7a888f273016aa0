"""AMQP 1.0 without I/O: values, frames, performatives, states of connections, sessions and links, messages."""
