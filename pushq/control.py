"""Watching and steering sends from Python: what ``pushq show``, ``pause``, ``resume``, ``cancel``, ``rate``, ``replay`` and ``export`` do.

Every function works on PostgreSQL alone, so what it did survives any restart: workers look at a running send's row several times a
second, and the sweeper publishes what may go on. ``settings`` (default: from the environment) says where the database is; who calls
often hands in an open ``database``.

What changes a send, or takes its recipients out, is written to the audit log in the same transaction, as done ``by`` whoever runs this
process unless told otherwise. Who may touch only some apps gets :class:`~pushq.access.principal.Forbidden` for a send of another one.

Errors of all of them: :class:`UnknownSend`, :class:`~pushq.errors.InvalidRequest` (an argument),
:class:`~pushq.errors.ServiceUnavailable` (PostgreSQL), :class:`~pushq.errors.SettingsError` (PUSHQ_DATABASE_URL).
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pushq.access import audit
from pushq.access.local import local
from pushq.access.principal import Principal
from pushq.database import Database
from pushq.errors import InvalidRequest
from pushq.ledger import brake
from pushq.ledger import progress as ledger_progress
from pushq.ledger import replay as ledger_replay
from pushq.ledger import sends as ledger_sends
from pushq.ledger.export import ExportFailed, MissingLibrary, atomic_file, choose_format
from pushq.ledger.export import export as write_rows
from pushq.ledger.export import export_parts as write_parts
from pushq.ledger.progress import Progress
from pushq.ledger.recipients import check_outcomes
from pushq.ledger.replay import Replay
from pushq.ledger.sends import UnknownSend, WrongState
from pushq.settings import Settings, load
from pushq.submission import parse_rate

__all__ = [
    "Change",
    "ExportFailed",
    "MissingLibrary",
    "Progress",
    "Replay",
    "UnknownSend",
    "WrongState",
    "cancel",
    "export",
    "export_parts",
    "pause",
    "progress",
    "replay",
    "resume",
    "sends",
    "set_rate",
]

SendId = uuid.UUID | str


@dataclass(frozen=True)
class Change:
    """What an order to a send did.

    Attributes:
        changed: False when its state did not allow it, or it was as ordered already; nothing was changed then.
        state: the send's state now.
    """

    send_id: uuid.UUID
    changed: bool
    state: str


@contextmanager
def _opened(settings: Settings | None, database: Database | None) -> Iterator[Database]:
    if database is not None:
        yield database
        return
    own = Database((settings or load()).need_database(), pool_size=1, application_name="pushq-control")
    try:
        yield own
    finally:
        own.close()


def _id(send_id: SendId) -> uuid.UUID:
    try:
        return send_id if isinstance(send_id, uuid.UUID) else uuid.UUID(send_id)
    except (ValueError, AttributeError, TypeError):
        raise InvalidRequest("send_id", repr(send_id)[:60], "a send's id, a UUID") from None


def _change(
    send_id: SendId,
    settings: Settings | None,
    database: Database | None,
    act: Callable[[Any, uuid.UUID], bool],
    by: Principal | None,
    action: str,
    **detail: object,
) -> Change:
    known = _id(send_id)
    with _opened(settings, database) as opened, opened.begin() as connection:
        who, app = _allowed(connection, known, by)
        changed = act(connection, known)
        if changed:
            audit.record(connection, who, action, app=app, object_id=str(known), detail=detail)
        return Change(known, changed, ledger_sends.state_of(connection, known))


def _allowed(connection: Any, send_id: uuid.UUID, by: Principal | None) -> tuple[Principal, str]:
    """Who does it, and the send's app, which that one may touch."""
    who = by if by is not None else local()
    app = ledger_sends.app_of(connection, send_id)
    who.check_app(app)
    return who, app


def sends(
    limit: int = 20, *, settings: Settings | None = None, database: Database | None = None
) -> list[dict[str, Any]]:
    """The newest sends, newest first: id, kind, app, guarantee, state, error, called_at, finished_at, title."""
    if not 1 <= limit <= 1000:
        raise InvalidRequest("limit", str(limit), "1 to 1000")
    with _opened(settings, database) as opened:
        return ledger_progress.recent(opened, limit)


def progress(
    send_id: SendId, *, settings: Settings | None = None, database: Database | None = None
) -> Progress:
    """Where a send stands: exact sums over its batches, by platform."""
    known = _id(send_id)
    with _opened(settings, database) as opened:
        return ledger_progress.progress(opened, known)


def pause(
    send_id: SendId,
    *,
    by: Principal | None = None,
    settings: Settings | None = None,
    database: Database | None = None,
) -> Change:
    """Hold a running send: within a second no worker begins another request of it; what is in flight is finished."""
    return _change(send_id, settings, database, brake.pause, by, "send.pause")


def resume(
    send_id: SendId,
    *,
    trust_rejections: bool = False,
    by: Principal | None = None,
    settings: Settings | None = None,
    database: Database | None = None,
) -> Change:
    """Let a held send go on, after its cause has been mended.

    Args:
        trust_rejections: this send was held because so many tokens were rejected that a wrong set-up is the likely cause; they are
            dead in truth, and may be taken out of use.
    """
    return _change(
        send_id,
        settings,
        database,
        lambda connection, known: brake.resume(connection, known, trust_rejections=trust_rejections),
        by,
        "send.resume",
        **({"trust_rejections": True} if trust_rejections else {}),
    )


def cancel(
    send_id: SendId,
    *,
    by: Principal | None = None,
    settings: Settings | None = None,
    database: Database | None = None,
) -> Change:
    """End a send for good: what is in flight is finished, everybody else ends as ``cancelled``."""
    return _change(
        send_id,
        settings,
        database,
        lambda connection, known: brake.stop(connection, known, state="cancelled", error=None),
        by,
        "send.cancel",
    )


def set_rate(
    send_id: SendId,
    rate: int | None,
    *,
    by: Principal | None = None,
    settings: Settings | None = None,
    database: Database | None = None,
) -> Change:
    """Change the speed of a send that has not ended.

    Args:
        rate: requests per second of all workers together, over all platforms; None is no limit but the provider's own.
    """
    checked = parse_rate(rate)
    return _change(
        send_id,
        settings,
        database,
        lambda connection, known: brake.set_rate(connection, known, checked),
        by,
        "send.rate",
        rate=checked,
    )


def replay(
    send_id: SendId,
    outcomes: Collection[str],
    *,
    reasons: Collection[str] = (),
    platforms: Collection[str] = (),
    may_duplicate: bool = False,
    dry_run: bool = False,
    by: Principal | None = None,
    settings: Settings | None = None,
    database: Database | None = None,
) -> Replay:
    """Send again to recipients of an ended send that were not reached. Their tries begin anew, and so does the message's life.

    Args:
        outcomes: some of ``exhausted``, ``expired``, ``cancelled``, ``rejected``, ``suppressed`` and ``unknown``.
        reasons: only those whose dead letter has one of these reasons.
        platforms: only those of these platforms.
        may_duplicate: needed for ``unknown``: some of these may get the message twice.
        dry_run: only count.

    Raises:
        WrongState: the send has not ended, or a worker still holds one of its batches.
    """
    known = _id(send_id)
    choice = ledger_replay.choose(outcomes, reasons=reasons, platforms=platforms, may_duplicate=may_duplicate)
    with _opened(settings, database) as opened:
        with opened.begin() as connection:
            who, app = _allowed(connection, known, by)
        if dry_run:
            return ledger_replay.preview(opened, known, choice)

        def note(connection: Any, done: Replay) -> None:
            detail = {**asdict(choice), "recipients": done.recipients}
            audit.record(connection, who, "send.replay", app=app, object_id=str(known), detail=detail)

        return ledger_replay.replay(opened, known, choice, also=note)


def export(
    send_id: SendId,
    output: Path | str | BinaryIO | None = None,
    *,
    format: str | None = None,  # noqa: A002 - what the option is called
    outcomes: Collection[str] = (),
    on_rows: Callable[[int], None] = lambda _: None,
    by: Principal | None = None,
    settings: Settings | None = None,
    database: Database | None = None,
) -> int:
    """Write one row for each planned recipient of a send, with outcome, reason, tries and time. Returns the number of rows.

    Args:
        output: a path, which is replaced when the export is complete; or a binary stream; None is standard output.
        format: ``csv``, ``jsonl`` or ``parquet``; by default what the path ends with, or ``csv``.
        outcomes: only recipients with one of these outcomes.
        on_rows: called with the number of rows so far.

    Raises:
        MissingLibrary: Parquet, and pyarrow is not installed.
        ExportFailed: the file cannot be written.
    """
    known = _id(send_id)
    path = Path(output) if isinstance(output, str | Path) else None
    chosen = choose_format(format, path, stream=hasattr(output, "write"))
    check_outcomes(outcomes)
    with _opened(settings, database) as opened:
        with opened.begin() as connection:
            who, app = _allowed(connection, known, by)
            detail = {"format": chosen, "outcomes": sorted(outcomes)}
            audit.record(connection, who, "send.export", app=app, object_id=str(known), detail=detail)
        if path is not None:
            with atomic_file(path) as file:
                return write_rows(opened, known, file, chosen, outcomes=outcomes, progress=on_rows)
        stream = sys.stdout.buffer if output is None else output
        assert not isinstance(stream, str | Path)
        return write_rows(opened, known, stream, chosen, outcomes=outcomes, progress=on_rows)


def export_parts(
    send_id: SendId,
    format: str,  # noqa: A002 - what the option is called
    *,
    outcomes: Collection[str] = (),
    by: Principal | None = None,
    database: Database,
) -> Iterator[bytes]:
    """What :func:`export` writes, part by part, for who hands it on. With the first part it is on record and known to be possible."""
    known = _id(send_id)
    chosen = choose_format(format, None, stream=True)
    check_outcomes(outcomes)
    with database.begin() as connection:
        who, app = _allowed(connection, known, by)
        detail = {"format": chosen, "outcomes": sorted(outcomes)}
        audit.record(connection, who, "send.export", app=app, object_id=str(known), detail=detail)
    yield from write_parts(database, known, chosen, outcomes=outcomes)
