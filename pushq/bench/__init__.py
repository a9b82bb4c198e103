"""Measurements that a user can run against a server of their own."""
