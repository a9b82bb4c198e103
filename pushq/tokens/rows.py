"""From a record of a file to a row in PostgreSQL's COPY text format, checked with the rules of :mod:`pushq.tokens.device`.

The hot path of an import. Values of columns that repeat (app, language, version, ...) are checked once and remembered; only user
id, token and times are looked at for each row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

import orjson

from pushq.errors import InvalidRequest
from pushq.tokens.device import (
    parse_app,
    parse_app_version,
    parse_attributes,
    parse_country,
    parse_environment,
    parse_language,
    parse_platform,
    parse_tags,
    parse_time,
    parse_timezone,
    parse_token,
    parse_user_id,
)

#: The columns a file may have, in the order in which RowEncoder takes their values.
COLUMNS: Final = (
    "user_id", "app", "platform", "environment", "token", "language", "country", "timezone", "app_version", "tags", "attributes",
    "last_seen", "registered_at",
)  # fmt: skip
REQUIRED: Final = ("user_id", "app", "platform", "token")
#: The columns of the row that RowEncoder makes.
COPY_COLUMNS: Final = (
    "user_id, app, platform, environment, token, token_hash, registered_at, last_seen, language, country, timezone,"
    " app_version, tags, attributes"
)

NULL: Final = "\\N"
#: What stands for "not given" in the two columns that are never null. It is the same JSON as [] and {}, so it may go into the table as it is;
#: an update that finds this very text keeps what is stored.
NO_TAGS: Final = "[ ]"
NO_ATTRIBUTES: Final = "{ }"

#: Values remembered per column. Beyond it (a column of unique values) each value is checked anew.
_REMEMBERED: Final = 20_000


#: What may follow the day in a time that parse_time accepts.
_TIME_OF_DAY: Final = re.compile(
    r"[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:0[0-9]|1[0-4]):[0-5][0-9])?"
).fullmatch


class _Memo(dict[Any, str]):
    """Checked values of one column, in COPY format."""

    __slots__ = ("_convert",)

    def __init__(self, convert: Callable[[Any], str]) -> None:
        super().__init__()
        self._convert = convert

    def __missing__(self, key: Any) -> str:
        value = self._convert(key)
        if len(self) < _REMEMBERED:
            self[key] = value
        return value


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _nullable(parse: Callable[[object], str | None]) -> Callable[[object], str]:
    def convert(value: object) -> str:
        parsed = parse(value)
        return NULL if parsed is None else _escape(parsed)

    return convert


def _json_column(field: str, value: str, shape: str) -> object:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        raise InvalidRequest(field, "text that is no JSON", shape) from None


def _tags(value: object) -> str:
    """From a list, or from text: a JSON list, or tags separated by ``|``."""
    if value is None or value == "":
        return NO_TAGS
    if isinstance(value, str):
        value = _json_column("tags", value, "a JSON list") if value.startswith("[") else value.split("|")
    return _escape(orjson.dumps(parse_tags(value)).decode())


def _attributes(value: object) -> str:
    """From an object, or from text: a JSON object."""
    if value is None or value == "":
        return NO_ATTRIBUTES
    if isinstance(value, str):
        value = _json_column("attributes", value, "a JSON object")
        if value is None:
            raise InvalidRequest("attributes", "null", "a JSON object")
    return _escape(orjson.dumps(parse_attributes(value)).decode())


class RowEncoder:
    """Turns the values of one record into a COPY line.

    Args:
        now: what counts as now for the whole file: a time of PostgreSQL's clock. It stands in for times that are not given.
    """

    def __init__(self, now: datetime) -> None:
        self._now = now.astimezone(UTC)
        self._now_text = self._now.isoformat()
        self._app = _Memo(parse_app)
        self._platform = _Memo(parse_platform)
        self._environment = _Memo(parse_environment)
        self._language = _Memo(_nullable(parse_language))
        self._country = _Memo(_nullable(parse_country))
        self._timezone = _Memo(_nullable(parse_timezone))
        self._version = _Memo(_nullable(parse_app_version))
        self._tags = _Memo(_tags)
        self._past = _Memo(self._is_past)

    def encode(self, values: Sequence[Any]) -> tuple[str, str]:
        """The token's hash (32 hex digits) and the line, with its end.

        Args:
            values: one for each of COLUMNS; None or an empty text where there is none.

        Raises:
            InvalidRequest: a field is wrong.
        """
        (
            user_id, app, platform, environment, token, language, country, timezone, app_version, tags, attributes,
            last_seen, registered_at,
        ) = values  # fmt: skip
        # What parse_user_id would let through unchanged; it decides about everything else.
        if not (
            type(user_id) is str
            and len(user_id) < 19
            and user_id.isdecimal()
            and user_id.isascii()
            and user_id[0] != "0"
        ):
            user_id = parse_user_id(user_id)
        try:
            app, platform, environment = (
                self._app[app],
                self._platform[platform],
                self._environment[environment],
            )
            language, country, timezone = (
                self._language[language],
                self._country[country],
                self._timezone[timezone],
            )
            version = self._version[app_version]
            tags = _tags(tags) if type(tags) is list else self._tags[tags]
        except TypeError:
            raise self._unhashable(
                app=app, platform=platform, environment=environment, language=language, country=country,
                timezone=timezone, app_version=app_version, tags=tags,
            ) from None  # fmt: skip
        token = parse_token(platform, token)
        identity = sha256(f"{app}\0{platform}\0{environment}\0{token}".encode()).hexdigest()[:32]
        registered = self._time("registered_at", registered_at)
        seen = self._time("last_seen", last_seen)
        attributes = NO_ATTRIBUTES if attributes is None or attributes == "" else _attributes(attributes)
        line = (
            f"{user_id}\t{app}\t{platform}\t{environment}\t{token}\t{identity}\t{registered}\t{seen}\t{language}\t{country}"
            f"\t{timezone}\t{version}\t{tags}\t{attributes}\n"
        )
        return identity, line

    def _time(self, field: str, value: Any) -> str:
        if value is None or value == "":
            return self._now_text
        if type(value) is str and self._past[value[:10]] and _TIME_OF_DAY(value, 10):
            return value
        # The text itself goes on: PostgreSQL reads what parse_time reads, and its session is in UTC as well.
        return self._now_text if parse_time(field, value, self._now) is self._now else str(value)

    def _is_past(self, day: str) -> str:
        """Not empty if this is a day of the calendar that is over in every time zone."""
        try:
            moment = parse_time("day", day, self._now)
        except InvalidRequest:
            return ""
        return day if moment is not None and moment < self._now - timedelta(days=2) else ""

    @staticmethod
    def _unhashable(**values: Any) -> InvalidRequest:
        for field, value in values.items():
            if isinstance(value, list | dict):
                kind = "a list" if isinstance(value, list) else "an object"
                return InvalidRequest(field, kind, "a list of texts" if field == "tags" else "text")
        raise TypeError(
            "a record's value cannot be looked up"
        )  # pragma: no cover - JSON and CSV have no other unhashable values
