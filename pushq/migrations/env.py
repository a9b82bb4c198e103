"""Alembic's entry: pushq passes an open connection in ``config.attributes`` (see ``pushq.ledger.schema``)."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=None, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
