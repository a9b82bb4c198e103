"""Alembic migrations of the database schema, applied by ``pushq db upgrade``; the scripts are in ``versions``."""

from typing import Final

#: The newest revision in ``versions``: what this version of pushq needs.
HEAD: Final = "0001"
