"""The Celery tasks. Thin: parse, call the domain, publish what it orders, translate its decision into Celery's retry."""

from __future__ import annotations

from pushq.tasks import deliver, entry, maintenance, many, plan

__all__ = ["deliver", "entry", "maintenance", "many", "plan"]
