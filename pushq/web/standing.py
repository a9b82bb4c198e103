"""Where a send stands as one JSON object: what ``pushq show --json`` prints, and calls that no worker has taken up yet."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Any, Final

from pushq.access.principal import Principal
from pushq.database import Database
from pushq.ledger import progress
from pushq.ledger.progress import COUNTS, Progress
from pushq.ledger.sends import UnknownSend
from pushq.web.claims import Claims

_NOTHING: Final = dict.fromkeys(("devices", *COUNTS, "pending"), 0)


def document_of(state: Progress) -> dict[str, Any]:
    """Progress, with totals beside the platforms."""
    fields = asdict(state)
    totals = {name: state.total(name) for name in ("devices", *COUNTS, "pending")}
    return {"send_id": str(fields.pop("id")), **totals, "finished": state.finished, **fields}


def standing(
    database: Database, claims: Claims, send_id: uuid.UUID, by: Principal | None, *, reasons: bool = False
) -> dict[str, Any]:
    """Where a send stands.

    Args:
        by: who asks; a send of another app is forbidden. None: somebody who was asked before.
        reasons: whether to tell as well why recipients were not reached, and which batches are parked.

    Raises:
        UnknownSend: neither the ledger nor this door knows it.
        Forbidden
    """
    try:
        state = progress.progress(database, send_id)
    except UnknownSend:
        noted = claims.noted(send_id)
        if noted is None:
            raise
        if by is not None and noted.app is not None:
            by.check_app(noted.app)
        return {
            "send_id": str(send_id),
            "kind": noted.kind,
            "app": noted.app,
            "state": "accepted",
            "finished": False,
            **_NOTHING,
            "platforms": {},
        }
    if by is not None:
        by.check_app(state.app)
    document = document_of(state)
    if reasons:
        document["reasons"] = progress.reasons(database, send_id)
        document["parked_batches"] = progress.parked(database, send_id) if state.parked else []
    return document
