"""The audit log: who did what to which send, key or user. Rows are added, and removed by age; nothing changes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from pushq.access.principal import Principal


def record(
    connection: Connection,
    principal: Principal,
    action: str,
    *,
    app: str | None = None,
    object_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Add one row, in the caller's transaction: what was done and that it is on record succeed or fail together."""
    raise NotImplementedError
