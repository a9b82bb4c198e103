"""Sections of RESULTS.md that a benchmark writes itself, so that no figure in it was typed by hand."""

from __future__ import annotations

import re


def replace_section(document: str, name: str, content: str) -> str:
    """``document`` with ``content`` between the markers of section ``name``; appended with its markers if it has none."""
    begin, end = f"<!-- {name}: begin, written by benchmarks/{name}.py -->", f"<!-- {name}: end -->"
    section = f"{begin}\n\n{content.strip()}\n\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(document):
        return pattern.sub(lambda _: section, document, count=1)
    return f"{document.rstrip()}\n\n{section}\n".lstrip()
