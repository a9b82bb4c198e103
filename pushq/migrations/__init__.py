"""Alembic migrations of the database schema, applied by ``pushq db upgrade``."""
