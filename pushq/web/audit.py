"""The audit log as the web process writes it: in a transaction where there is one, in bulk where there is none."""

from __future__ import annotations

from pushq.access.audit import record

__all__ = ["record"]
