"""Under which account servers run when we are root: PostgreSQL refuses to run as root, and Redis need not."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from pushq.embedded.errors import EmbeddedError

#: Accounts that exist already, in order of preference. None is created: that would outlive us. ``initdb`` needs a name in the
#: password file, so a bare number is not enough.
UNPRIVILEGED = ("postgres", "nobody")


class PopenAccount(TypedDict, total=False):
    """The arguments of ``subprocess.Popen`` that change the account."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """An unprivileged account that servers of a root process run under."""

    name: str
    uid: int
    gid: int

    def give(self, path: Path) -> None:
        """Make it the owner of ``path``."""
        os.chown(path, self.uid, self.gid)

    def popen(self) -> PopenAccount:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def enters(self, folder: Path) -> bool:
        """Whether it may enter ``folder`` and every folder on the way to it."""
        resolved = folder.resolve()
        return all(self._may(path, execute=True) for path in (resolved, *resolved.parents))

    def executes(self, file: Path) -> bool:
        """Whether it may get to the program ``file`` and run it."""
        return self.enters(file.resolve().parent) and self._may(file.resolve(), read=True, execute=True)

    def _may(self, path: Path, *, read: bool = False, execute: bool = False) -> bool:
        status = path.stat()
        bits = (stat.S_IROTH if read else 0) | (stat.S_IXOTH if execute else 0)
        if status.st_uid == self.uid:
            bits <<= 6
        elif status.st_gid == self.gid:
            bits <<= 3
        return status.st_mode & bits == bits


def server_account() -> Account | None:
    """The account for servers, or None when we are not root: then they run as we do.

    Raises:
        EmbeddedError: we are root and there is no unprivileged account.
    """
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root, and none of the accounts {', '.join(UNPRIVILEGED)} exists.",
        "Run this as an ordinary user.",
    )
