"""What every test gets: no settings from the developer's shell, and servers on request (tests/services/fixtures.py)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

# Before any import of pushq or Celery reads them: a developer's PUSHQ_DATABASE_URL must not be what a test writes to.
for _name in [name for name in os.environ if name.startswith(("PUSHQ_", "CELERY_", "PG"))]:
    del os.environ[_name]

# A shell starts what it puts into the background with SIGINT ignored, nohup does it with SIGHUP, and every process started here
# would inherit that: tests of Ctrl-C would wait in vain.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

pytest_plugins = ["tests.services.fixtures"]


@pytest.fixture(autouse=True)
def _gevent_lets_go() -> Iterator[None]:
    """gevent closes a socket in its loop; a test that ends before a turn of it would leave the socket to the next test's collector."""
    yield
    if "gevent" in sys.modules:
        sys.modules["gevent"].sleep(0)
