"""The log: partitions of verbatim record batches in segment files, written by one thread per disk."""
