"""Serverless functions: Azure Functions' Python model over the log, and the same with Arrow columns."""
