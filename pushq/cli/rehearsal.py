"""``pushq send --dry-run``: what a send would meet."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from pushq.cli.output import emit_json
from pushq.platforms import TITLES
from pushq.settings import load


def report(submission: Any, *, as_json: bool) -> bool:
    """Print what each platform would make of the call. False: a provider would not take it.

    Raises:
        InvalidRequest: the app, a platform or a segment does not exist.
        ServiceUnavailable, SettingsError
    """
    from pushq.cli.sends import database  # noqa: PLC0415
    from pushq.delivery.dry_run import dry_run  # noqa: PLC0415

    with database() as opened:
        app, checked = dry_run(load(), opened, submission)
    found = [
        {
            "platform": each.platform,
            "devices": each.devices,
            "without": dict(each.without),
            **asdict(each.said),
        }
        for each in checked
    ]
    good = not any(each["objections"] for each in found)
    if as_json:
        emit_json({"app": app, "good": good, "platforms": found})
    else:
        click.echo(f"app {app} · dry run, nothing was sent")
        click.echo("\n".join(line for each in found for line in _lines(each)))
    return good


def _lines(found: dict[str, Any]) -> list[str]:
    title = TITLES[found["platform"]]
    devices = "a topic or channel" if found["devices"] is None else f"{found['devices']:,} devices"
    checked = (
        found["note"]
        or f"{found['validated']} of {found['validated'] + len(found['objections'])} requests taken"
    )
    lines = [f"{title:<6}{devices:>20}   {checked}"]
    for name, many in found["without"].items():
        lines.append(f"{'':6}{many:>12,} without {name}: rejected (value_missing) where the text asks for it")
    for objection in found["objections"]:
        language = f"{objection['language']}: " if objection["language"] else ""
        status = f"{objection['status']} " if objection["status"] else ""
        lines.append(f"{'':6}refused  {language}{status}{objection['reason']} {objection['detail']}".rstrip())
    return lines
