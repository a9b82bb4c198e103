"""The order in which changes of `device_tokens` may meet: advisory locks that live as long as their transaction.

- A registration holds the gate in common with others and its token alone: two users who register one token take turns.
- A bulk change of many rows holds the gate in common and the bulk lock alone: two of them never wait for each other's rows.
- A window of an import holds the gate alone: it looks up which tokens exist and may then rely on the answer.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection, text

# Pairs of int4 are a key space apart from the int8 that stands for a token (and for the migrations).
_GATE = "1953459054, 1"
_BULK = "1953459054, 2"

_TOKEN_LOCK = text(f"SELECT pg_advisory_xact_lock_shared({_GATE}), pg_advisory_xact_lock(:token)")
_BULK_LOCK = text(f"SELECT pg_advisory_xact_lock_shared({_GATE}), pg_advisory_xact_lock({_BULK})")
_GATE_LOCK = text(f"SELECT pg_advisory_xact_lock({_GATE})")


def lock_token(connection: Connection, token_hash: UUID) -> None:
    connection.execute(_TOKEN_LOCK, {"token": int.from_bytes(token_hash.bytes[:8], "big", signed=True)})


def lock_bulk(connection: Connection) -> None:
    connection.execute(_BULK_LOCK)


def lock_gate(connection: Connection) -> None:
    connection.execute(_GATE_LOCK)
