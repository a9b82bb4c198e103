"""The options that say what a message is: the same for ``pushq send`` and ``pushq preview``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, TextIO, TypeVar

import click

from pushq.errors import InvalidRequest

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS: Final = (
    click.option(
        "--notification",
        "notification_file",
        type=click.File(encoding="utf-8"),
        metavar="FILE",
        help="The message as JSON, with languages, overrides and all; - reads it from standard input. Options go over it.",
    ),
    click.option("--title", help="What the phone shows first. May hold placeholders: {first_name|friend}"),
    click.option("--body", help="What the phone shows below it."),
    click.option("--data", multiple=True, metavar="KEY=VALUE", help="For the app; may be repeated."),
    click.option("--sound", help="Name of a sound, or 'default'."),
    click.option("--badge", type=int, help="Number on the app's icon."),
    click.option("--image", help="https address of a picture."),
    click.option("--link", help="What a tap opens, such as shop://sale."),
    click.option("--category", help="Which of the app's actions go with it."),
    click.option("--collapse-id", help="A later message with the same id replaces this one on the phone."),
    click.option("--ttl", type=int, help="Seconds until the message is stale; default: a day."),
    click.option("--priority", type=click.Choice(["high", "normal"]), help="Default: high."),
)
#: Parameters that belong to the message.
NAMES: Final = (
    "notification_file", "title", "body", "data", "sound", "badge", "image", "link", "category", "collapse_id", "ttl", "priority",
)  # fmt: skip


def message_options(command: Command) -> Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def notification_of(params: dict[str, Any]) -> dict[str, Any]:
    """The message that the options describe, as a caller would write it; takes them out of ``params``.

    Raises:
        InvalidRequest: the file holds no JSON object, or an option has the wrong form.
    """
    given = {name: params.pop(name) for name in NAMES}
    document = _read(given.pop("notification_file"), "--notification")
    data = dict(pair(item, "--data") for item in given.pop("data"))
    if data:
        document["data"] = {**document.get("data", {}), **data}
    return {**document, **{name: value for name, value in given.items() if value is not None}}


def read_json(file: TextIO | None, option: str) -> dict[str, Any] | None:
    """The JSON object in a file that was given with an option; None without one."""
    return None if file is None else _read(file, option)


def _read(file: TextIO | None, option: str) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        document = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequest(option, f"no JSON ({exc})", "a JSON object") from None
    if not isinstance(document, dict):
        raise InvalidRequest(option, f"a JSON {type(document).__name__}", "a JSON object")
    return document


def pair(item: str, option: str) -> tuple[str, str]:
    key, separator, value = item.partition("=")
    if not separator or not key:
        raise InvalidRequest(option, repr(item), "KEY=VALUE")
    return key, value
