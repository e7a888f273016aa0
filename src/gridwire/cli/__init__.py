"""The command line: a client like any other, plus `up`, which is the hub itself."""
