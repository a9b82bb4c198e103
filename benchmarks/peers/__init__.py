"""Other clients, each sending the same requests in a process of its own: ``python -m benchmarks.peers.NAME --help``."""
