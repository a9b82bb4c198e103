"""What every test gets: no settings from the developer's shell, and servers on request (tests/services/fixtures.py)."""

from __future__ import annotations

import os

# Before any import of pushq or Celery reads them: a developer's PUSHQ_DATABASE_URL must not be what a test writes to.
for _name in [name for name in os.environ if name.startswith(("PUSHQ_", "CELERY_", "PG"))]:
    del os.environ[_name]

pytest_plugins = ["tests.services.fixtures"]
