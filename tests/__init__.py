"""The tests. ``tests.services`` starts the servers that they talk to."""
