"""The HTTP API, one module for each resource. Each has a ``router``."""
