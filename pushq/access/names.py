"""What keys and users may be called."""

from __future__ import annotations

import re
from typing import Final

from pushq.errors import InvalidRequest

#: One line, nothing that could pass for something else in a log or on a page.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+-]{0,63}", re.ASCII)


def check_name(name: str) -> str:
    """Returns the name.

    Raises:
        InvalidRequest: it is not one.
    """
    if not _NAME.fullmatch(name) or name != name.strip():
        raise InvalidRequest(
            "name",
            repr(name[:70]),
            "1 to 64 letters, digits, spaces and . _ @ + -, beginning with a letter or digit",
        )
    return name
