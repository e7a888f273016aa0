"""The one port to the log, and its implementations."""
