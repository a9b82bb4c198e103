"""``pushq preview``: the requests of a message, as they would go out."""

from __future__ import annotations

import uuid
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pushq.cli.message import message_options, notification_of, pair
from pushq.cli.output import emit_json, json_option
from pushq.errors import InvalidRequest
from pushq.ledger.sends import Send
from pushq.platforms import PLATFORMS, TITLES
from pushq.settings import Settings, load
from pushq.tokens.lookup import AddressedDevice

if TYPE_CHECKING:
    from pushq.delivery.preview import Shown


@click.command(
    epilog="""\b
Examples:
  pushq preview --title 'Hello {first_name|friend}' --value first_name=Ada
  pushq preview --notification sale.json --language pt-BR --platform apns
  pushq preview --notification sale.json --user 42
  pushq preview --send 0d9c3f0e-6f0d-4d3e-8c3a-5a8a6f4a1b2c --user 42
"""
)
@message_options
@click.option("--app", "app_name", help="Which app; may be left out when only one is configured.")
@click.option("--platform", "platforms", multiple=True, type=click.Choice(PLATFORMS), help="Only these.")
@click.option(
    "--user",
    "user_id",
    type=click.IntRange(min=1),
    help="For this user's devices, by what is stored of them.",
)
@click.option("--device", "device_id", type=click.IntRange(min=1), help="For this one of the user's devices.")
@click.option("--send", "send_id", type=click.UUID, help="What a send that exists says to --user.")
@click.option("--language", help="Language of the imagined device, such as pt-BR.")
@click.option(
    "--value", "values", multiple=True, metavar="NAME=VALUE", help="A placeholder's value; may be repeated."
)
@click.option(
    "--environment", type=click.Choice(["production", "sandbox"]), default="production", show_default=True
)
@click.option(
    "--guarantee",
    type=click.Choice(["at_most_once", "at_least_once"]),
    default="at_most_once",
    show_default=True,
    help="at_least_once adds a collapse id to a message that has none.",
)
@click.option("--idempotency-key", help="As the call will have it: it decides the send's id, and so apns-id.")
@click.option("--send-at", help="As the call will have it: it decides when the message expires.")
@json_option
def preview(
    app_name: str | None, user_id: int | None, device_id: int | None, as_json: bool, **params: Any
) -> None:
    """Print the exact request for each platform, with the credential left out. Nothing is sent.

    Without --user the device is an imagined one, with what --language and --value say of it.
    """
    from pushq.delivery.preview import imagined_devices, show  # noqa: PLC0415

    settings = load()
    if device_id is not None and user_id is None:
        raise InvalidRequest("--device", "a device without its user", "--user as well")
    values = dict(pair(item, "--value") for item in params.pop("values"))
    send_id, notification = params.pop("send_id"), notification_of(params)
    if send_id is None:
        send = _imagined(settings, app_name, notification, params)
    else:
        if notification or values or user_id is None:
            raise InvalidRequest(
                "--send", "a send with a message or without --user", "--send with --user alone"
            )
        send = _stored(settings, send_id)
    if values:
        send = replace(send, values={user_id or 0: values})
    app = settings.need_apps()[send.app]
    platforms = params["platforms"] or tuple(app.platforms())
    if user_id is None:
        devices = imagined_devices(platforms, environment=params["environment"], language=params["language"])
    else:
        devices = [d for d in _devices(settings, send.app, user_id, device_id) if d.platform in platforms]
        if not devices:
            raise InvalidRequest(
                "--user", f"no active device of user {user_id} in app {send.app!r}", "see: pushq tokens show"
            )
    shown = [show(send, app, device, imagined=user_id is None) for device in devices]
    if as_json:
        emit_json({"send_id": str(send.id), "requests": [asdict(each) for each in shown]})
        return
    click.echo("\n\n".join(_picture(each) for each in shown))


def _imagined(settings: Settings, app_name: str | None, notification: Any, params: dict[str, Any]) -> Send:
    from pushq.delivery.preview import imagined_send  # noqa: PLC0415

    return imagined_send(
        app_name,
        settings.need_apps(),
        notification=notification,
        platforms=params["platforms"],
        called_at=datetime.now(UTC),
        guarantee=params["guarantee"],
        idempotency_key=params["idempotency_key"],
        send_at=params["send_at"],
    )


def _stored(settings: Settings, send_id: uuid.UUID) -> Send:
    from pushq.cli.sends import database  # noqa: PLC0415
    from pushq.ledger.sends import load as load_send  # noqa: PLC0415

    with database() as opened, opened.begin() as connection:
        send = load_send(connection, send_id)
    if send.app not in settings.need_apps():
        raise InvalidRequest(
            "--send", f"a send of app {send.app!r}", f"one of {', '.join(sorted(settings.apps))}"
        )
    return send


def _devices(settings: Settings, app: str, user_id: int, device_id: int | None) -> list[AddressedDevice]:
    from pushq.cli.sends import database  # noqa: PLC0415
    from pushq.tokens.lookup import addressed  # noqa: PLC0415

    with database() as opened:
        return addressed(opened, app, user_id, device_id)


def _picture(shown: Shown) -> str:
    whose = (
        "an imagined device" if shown.user_id is None else f"device {shown.device_id} of user {shown.user_id}"
    )
    told = [TITLES[shown.platform], whose]
    if shown.language:
        told.append(shown.language)
    if shown.environment != "production":
        told.append(shown.environment)
    title = " · ".join(told)
    if shown.refused:
        lacks = f" (no {', '.join(shown.without)}, and no default)" if shown.without else ""
        return f"# {title}\nno request: {shown.refused}{lacks}"
    headers = "\n".join(f"{name}: {value}" for name, value in shown.headers)
    counted = f"{shown.size:,} of {shown.limit:,} bytes"
    return f"# {title} · {counted}\n{shown.method} {shown.url}\n{headers}\n\n{shown.body}"
