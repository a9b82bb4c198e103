"""Private servers for tests: the embedded PostgreSQL and Redis, a RabbitMQ, and the faults to inflict on them.

``python -m tests.services`` prints the Debian packages of the servers that this machine lacks, one per line.
"""
