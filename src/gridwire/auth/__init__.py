"""Identity and rights, without I/O: who somebody is, and what he may do. Every head asks the one table here."""
