"""Language tags (BCP 47), and the choice among variants by look-up (RFC 4647 section 3.4)."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

from pushq.errors import InvalidRequest

_TAG: Final = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,8}){0,7}").fullmatch


def canonical(tag: str) -> str:
    """The tag in the spelling that all comparisons use: lower case, hyphens."""
    return tag.replace("_", "-").lower()


def parse(tag: object, field: str) -> str:
    """The canonical tag; InvalidRequest, naming ``field``, when it is none."""
    if isinstance(tag, str) and _TAG(canonical(tag)):
        return canonical(tag)
    raise InvalidRequest(field, repr(tag)[:60], "a language tag such as 'de' or 'pt-BR'")


def choose(tag: str | None, known: Container[str]) -> str | None:
    """The nearest of ``known`` (canonical tags): ``pt-BR``, then ``pt``; None when there is none.

    A tag is shortened from its end. What would then end in a single letter (an extension's or a private use's) loses that as well.
    """
    if not tag:
        return None
    wanted = canonical(tag)
    while wanted:
        if wanted in known:
            return wanted
        wanted = wanted.rpartition("-")[0]
        if len(wanted) > 1 and wanted[-2] == "-":
            wanted = wanted[:-2]
    return None
