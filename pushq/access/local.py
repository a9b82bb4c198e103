"""Who runs a command: a process that has the database's password may do everything, and is named in the audit log."""

from __future__ import annotations

import os
import pwd
import socket

from pushq.access.principal import ADMIN, Principal


def local() -> Principal:
    """The user of this process on this machine, as ``ada@host``."""
    uid = os.getuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = f"uid-{uid}"  # in a container nobody need have a name
    name = f"{user}@{socket.gethostname()}"
    return Principal("local", name, name, frozenset({ADMIN}))
