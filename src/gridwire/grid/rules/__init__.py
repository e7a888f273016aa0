"""Alert rules of users: thresholds on the stream, questions about the lake, and the worker that runs them."""
