"""The message: what the caller says, checked field by field, before any device is touched.

Pure: no I/O. What a provider makes of it is in ``pushq.providers.*.request``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from typing import Any, Final, Literal, cast

from pushq.errors import InvalidRequest
from pushq.platforms import PLATFORMS
from pushq.rendering import languages, templates

Priority = Literal["high", "normal"]

#: A message that no phone fetched within a day is stale, unless the caller says otherwise.
DEFAULT_TTL_S: Final = 86_400
#: FCM stores a message for at most 28 days (ErrorCode page of the FCM v1 reference); APNs for 30.
MAX_TTL_S: Final = 2_419_200
#: APNs: `apns-collapse-id` is at most 64 bytes (Apple, "Sending notification requests to APNs").
MAX_COLLAPSE_BYTES: Final = 64
MAX_LANGUAGES: Final = 100


@dataclass(frozen=True)
class Notification:
    """One notification for every platform.

    Texts may hold placeholders, ``Hello {first_name|friend}`` (see :mod:`pushq.rendering.templates`), in ``title``, ``body``,
    ``image``, ``link``, the values of ``data_templates``, and fields of these names or named ``subtitle`` in the overrides.

    Attributes:
        title, body: what the phone shows; at least one of them, or data alone for a silent push.
        data: string to string, handed to the app as it is: braces in it mean nothing.
        data_templates: more of ``data``, but with placeholders in the values.
        sound: name of the sound, ``default`` for the system's.
        badge: number on the app's icon, 0 removes it.
        image: https address of a picture (on iOS the app's extension reads it from the payload).
        link: what a tap opens, such as ``https://shop.example/sale`` or ``shop://orders/{order_id}``.
        category: which of the app's actions go with it (APNs category; Android's and HMS's click action).
        collapse_id: a later message with the same id replaces an earlier one on the phone; at most 64 bytes.
        ttl: seconds that the provider keeps trying, and after which pushq does not send any more; 0 means once, now.
        priority: ``high`` wakes the phone, ``normal`` spares its battery.
        defaults: what stands in for a value that a recipient has not, by its name.
        languages: by language tag what is said otherwise there: some of :data:`VARIANT_FIELDS`.
        apns, fcm, hms: for that platform only. A field of this class (:data:`OVERRIDABLE`) replaces the common one; every other key is
            an option of the platform (``pushq.providers.<platform>.options``).
    """

    title: str | None = None
    body: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    data_templates: Mapping[str, str] = field(default_factory=dict)
    sound: str | None = None
    badge: int | None = None
    image: str | None = None
    link: str | None = None
    category: str | None = None
    collapse_id: str | None = None
    ttl: int = DEFAULT_TTL_S
    priority: Priority = "high"
    defaults: Mapping[str, str] = field(default_factory=dict)
    languages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    apns: Mapping[str, Any] = field(default_factory=dict)
    fcm: Mapping[str, Any] = field(default_factory=dict)
    hms: Mapping[str, Any] = field(default_factory=dict)

    @property
    def silent(self) -> bool:
        return self.title is None and self.body is None

    @property
    def personal(self) -> bool:
        """Whether recipients get different contents."""
        return bool(self.languages) or bool(self.placeholders())

    def as_json(self) -> dict[str, Any]:
        """A JSON object that :func:`parse_notification` reads back; fields at their default are left out."""
        return {key: value for key in _DEFAULTS if (value := getattr(self, key)) != _DEFAULTS[key]}

    def placeholders(self) -> tuple[templates.Placeholder, ...]:
        """All that stand in it, in whatever language and for whatever platform; each once."""
        found = [placeholder for text in self._texts() for placeholder in templates.placeholders(text)]
        return tuple(dict.fromkeys(found))

    def for_platform(self, platform: str) -> Notification:
        """The message as this platform gets it: its overrides applied, the others' gone. What is left in the platform's own field
        are options of the platform."""
        own: dict[str, Any] = {}
        options: dict[str, Any] = {}
        for key, value in getattr(self, platform).items():
            if key in OVERRIDABLE and _fits(key, value):
                own[key] = {**self.data, **value} if key == "data" else value
            else:
                options[key] = value
        variants = {
            tag: {
                **{key: value for key, value in variant.items() if key not in PLATFORMS},
                **({platform: variant[platform]} if platform in variant else {}),
            }
            for tag, variant in self.languages.items()
        }
        changed: dict[str, Any] = {name: {} for name in PLATFORMS}
        return self._with(changed | {"languages": variants, platform: options} | own)

    def in_language(self, tag: str | None) -> Notification:
        """The message as the variant ``tag`` says it, without variants; None: as it is said without any."""
        if tag is None:
            return self._with({"languages": {}})
        variant = dict(self.languages[tag])
        for platform in PLATFORMS:
            if platform in variant:
                own = {key: value for key, value in variant[platform].items() if key in OVERRIDABLE}
                rest = {key: value for key, value in variant[platform].items() if key not in OVERRIDABLE}
                variant |= own
                variant[platform] = merged(getattr(self, platform), rest)
        return replace(self, **{**variant, "languages": {}})

    def filled(self, fill: templates.Fill) -> Notification:
        """The message with every placeholder replaced, ``data_templates`` become data, and doubled braces single.

        The message must be one :meth:`in_language`.
        """
        changed: dict[str, Any] = {
            name: templates.fill(text, fill) for name in _TEXTS if (text := getattr(self, name)) is not None
        }
        if self.data_templates:
            changed["data"] = {
                **self.data,
                **{key: templates.fill(text, fill) for key, text in self.data_templates.items()},
            }
            changed["data_templates"] = {}
        for platform in PLATFORMS:
            options = getattr(self, platform)
            if options:
                changed[platform] = _filled(options, fill)
        return self._with(changed)

    def _with(self, changed: Mapping[str, Any]) -> Notification:
        """Mostly nothing differs, and a copy costs more than finding that out."""
        differs = any(getattr(self, name) != value for name, value in changed.items())
        return replace(self, **changed) if differs else self

    def plain(self) -> Notification:
        """The message for whom nothing is known: no variants, no placeholders. Everything but its texts is as everybody gets it."""

        def shortest(placeholder: templates.Placeholder) -> str:
            default = templates.default_of(placeholder, self.defaults)
            return "x" if default is None else default  # a letter: some texts must not be empty

        return self.in_language(None).filled(shortest)

    def _texts(self) -> Iterator[str]:
        for name in _TEXTS:
            text = getattr(self, name)
            if text is not None:
                yield text
        yield from self.data_templates.values()
        for variant in self.languages.values():
            yield from (value for key, value in variant.items() if key in _TEXTS)
            for platform in PLATFORMS:
                yield from (text for _, text in _texts_in(variant.get(platform, {}), ""))
        for platform in PLATFORMS:
            yield from (text for _, text in _texts_in(getattr(self, platform), ""))


FIELDS: Final = tuple(Notification.__dataclass_fields__)
_DEFAULTS: Final = asdict(Notification())
#: Fields that take placeholders.
_TEXTS: Final = ("title", "body", "image", "link")
#: The same inside of overrides, at whatever depth.
TEXT_KEYS: Final = frozenset({*_TEXTS, "subtitle"})
#: What a language may say otherwise: texts, and in an override for a platform again only texts.
VARIANT_FIELDS: Final = (*_TEXTS, *PLATFORMS)
#: What an override for a platform may replace of the message.
OVERRIDABLE: Final = (
    "title", "body", "data", "sound", "badge", "image", "link", "category", "priority",
)  # fmt: skip

#: FCM refuses these names in `data` (Message reference: reserved words).
_RESERVED_DATA: Final = frozenset({"from", "message_type", "gcm", "aps"})
_RESERVED_PREFIXES: Final = ("google.", "gcm.notification.")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]").search
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S").match


def parse_notification(value: object, name: str = "notification") -> Notification:
    """Check what the caller passed.

    Args:
        value: a mapping with the fields of :class:`Notification`, or a Notification.
        name: what to call it in an error.

    Raises:
        InvalidRequest: names the field, what was found and what is allowed.
    """
    if isinstance(value, Notification):
        value = value.as_json()
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), f"a mapping with some of: {', '.join(FIELDS)}")
    _known(value, FIELDS, name)
    own = {key: _PARSE[key](value.get(key), f"{name}.{key}") for key in _PARSE if key in value}
    result = Notification(**{key: item for key, item in own.items() if item is not None})
    # What an override says may be enough for its platform (a Live Activity); its own check sees to the others.
    overridden = any(value.get(platform) for platform in PLATFORMS)
    if result.silent and not result.data and not result.data_templates and not overridden:
        raise InvalidRequest(name, "neither title, body nor data", "at least one of them")
    for key in result.data_templates:
        if key in result.data:
            raise InvalidRequest(f"{name}.data_templates.{key}", "a key that data has too", "one of the two")
    others: dict[str, Any] = {"languages": _languages(value.get("languages"), result, f"{name}.languages")}
    for platform in PLATFORMS:
        others[platform] = _override(value.get(platform), f"{name}.{platform}")
    result = result._with(others)
    for platform in PLATFORMS:
        if result.for_platform(platform).silent != result.silent:
            raise InvalidRequest(
                f"{name}.{platform}",
                "a title or body for a message that has none",
                "texts in the message itself: a silent push is silent everywhere",
            )
    return result


def kind(value: object) -> str:
    """How an error message calls a value of the wrong type."""
    if value is None:
        return "nothing"
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``: mappings in both are merged again, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(cast("Mapping[str, Any]", below), value) if both else value
    return result


def _text(value: object, name: str) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return _encodable(value, name)
    raise InvalidRequest(
        name, "an empty text" if value == "" else kind(value), "a text, or the field left out"
    )


def _template(value: object, name: str) -> str | None:
    text = _text(value, name)
    if text is not None:
        templates.check(text, name)
    return text


def _image(value: object, name: str) -> str | None:
    image = _template(value, name)
    if image is not None and not image.startswith("https://"):
        raise InvalidRequest(name, repr(image[:60]), "an address that begins with https://")
    return image


def _link(value: object, name: str) -> str | None:
    link = _template(value, name)
    if link is not None and not _SCHEME(link):
        raise InvalidRequest(
            name, repr(link[:60]), "a link with its scheme, such as https://shop.example/sale or shop://sale"
        )
    return link


def _collapse_id(value: object, name: str) -> str | None:
    text = _text(value, name)
    if text is not None and not 1 <= len(text.encode()) <= MAX_COLLAPSE_BYTES:
        raise InvalidRequest(name, f"{len(text.encode())} bytes", f"1 to {MAX_COLLAPSE_BYTES} bytes of UTF-8")
    if text is not None and not fits_header(text):
        raise InvalidRequest(
            name, repr(text), "no control characters, and no space at either end: it becomes a header"
        )
    return text


def fits_header(text: str) -> bool:
    """Whether a text can be the value of an HTTP header as it is (RFC 9113 section 8.2.1), in UTF-8."""
    return text == text.strip(" ") and _CONTROL(text) is None


def _priority(value: Any, name: str) -> Priority:
    if value not in ("high", "normal"):
        raise InvalidRequest(name, repr(value), "'high' or 'normal'")
    return cast(Priority, value)


def _ttl(value: object, name: str) -> int:
    return _whole(value, name, 0, MAX_TTL_S, "seconds")


def _badge(value: object, name: str) -> int | None:
    return None if value is None else _whole(value, name, 0, 99_999, "")


def _whole(value: object, name: str, low: int, high: int, unit: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidRequest(name, kind(value), f"a whole number from {low:,} to {high:,} {unit}".rstrip())
    return value


def _encodable(value: str | None, name: str) -> str | None:
    if value is not None:
        if "\0" in value:
            raise InvalidRequest(name, "a NUL character", "text without NUL characters")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(
                name, "a lone surrogate (broken UTF-16)", "text that can be written as UTF-8"
            ) from None
    return value


def _data(value: object, name: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), "a mapping of texts to texts")
    for key, item in value.items():
        if not isinstance(key, str) or not key:
            raise InvalidRequest(name, f"the key {key!r}", "keys that are texts")
        if key in _RESERVED_DATA or key.startswith(_RESERVED_PREFIXES):
            raise InvalidRequest(f"{name}.{key}", "a key that the providers reserve", "another name for it")
        if not isinstance(item, str):
            raise InvalidRequest(
                f"{name}.{key}", kind(item), "a text (FCM takes nothing else: write numbers as '42')"
            )
        _encodable(key, name)
        _encodable(item, f"{name}.{key}")
    return dict(value)


def _data_templates(value: object, name: str) -> dict[str, str]:
    data = _data(value, name)
    for key, text in data.items():
        templates.check(text, f"{name}.{key}")
    return data


def _defaults(value: object, name: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), "a mapping of placeholders' names to texts")
    for key, text in value.items():
        if not isinstance(key, str) or not templates.NAME(key):
            raise InvalidRequest(f"{name}.{str(key)[:64]}", "no name of a placeholder", templates.NAME_RULE)
        if not isinstance(text, str):
            raise InvalidRequest(f"{name}.{key}", kind(text), "a text")
        _encodable(text, f"{name}.{key}")
    return dict(value)


#: How each field is read; languages and overrides come after them.
_PARSE: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "title": _template,
    "body": _template,
    "data": _data,
    "data_templates": _data_templates,
    "sound": _text,
    "badge": _badge,
    "image": _image,
    "link": _link,
    "category": _text,
    "collapse_id": _collapse_id,
    "ttl": _ttl,
    "priority": _priority,
    "defaults": _defaults,
}


def _languages(value: object, base: Notification, name: str) -> dict[str, dict[str, Any]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), "a mapping of language tags to what is said otherwise there")
    if len(value) > MAX_LANGUAGES:
        raise InvalidRequest(name, f"{len(value)} languages", f"at most {MAX_LANGUAGES}")
    result: dict[str, dict[str, Any]] = {}
    for tag, variant in value.items():
        where = f"{name}.{tag}"
        key = languages.parse(tag, where)
        if key in result:
            raise InvalidRequest(where, "the same language twice", "each language once")
        if not isinstance(variant, Mapping) or not variant:
            raise InvalidRequest(where, kind(variant), f"a mapping with some of: {', '.join(VARIANT_FIELDS)}")
        _known(variant, VARIANT_FIELDS, where)
        said: dict[str, Any] = {}
        for field_, item in variant.items():
            if field_ in PLATFORMS:
                said[field_] = _override(item, f"{where}.{field_}")
                _only_texts(said[field_], f"{where}.{field_}")
            elif (parsed := _PARSE[field_](item, f"{where}.{field_}")) is not None:
                said[field_] = parsed
        shows = {"title", "body"} & {key for part in (said, *_parts(said)) for key in part}
        if base.silent and shows:
            raise InvalidRequest(
                f"{where}.{min(shows)}",
                "a text for a message that shows none",
                "a title or body in the message",
            )
        result[key] = said
    return result


def _parts(variant: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [variant[platform] for platform in PLATFORMS if platform in variant]


def _only_texts(options: Mapping[str, Any], name: str) -> None:
    """What changes a header cannot differ by language: all recipients of a send share their headers."""
    for key, item in options.items():
        if isinstance(item, Mapping):
            _only_texts(item, f"{name}.{key}")
        elif key not in TEXT_KEYS:
            raise InvalidRequest(
                f"{name}.{key}",
                "a field that cannot differ by language",
                f"some of: {', '.join(sorted(TEXT_KEYS))}",
            )


def _override(value: object, name: str) -> dict[str, Any]:
    """What one platform gets otherwise. Fields of the message are checked here, options by the platform's own module."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(name, kind(value), "a mapping of fields")
    result: dict[str, Any] = _plain(value, name)
    for key, item in result.items():
        if key in OVERRIDABLE and _fits(key, item):
            _PARSE[key](item, f"{name}.{key}")
    for where, text in _texts_in(result, name):
        templates.check(text, where)
    return result


def _fits(key: str, value: object) -> bool:
    """Whether it is the message's field of this name. APNs' options have a ``sound`` of their own that is a mapping, for one."""
    if key == "data":
        return isinstance(value, Mapping)
    if key == "badge":
        return isinstance(value, int)
    if key == "priority":
        return value in ("high", "normal")
    return isinstance(value, str)


#: Deeper than any provider's message.
_MAX_DEPTH: Final = 32


def _plain(value: Any, name: str, depth: int = 0) -> Any:
    """A copy that is JSON and nothing else."""
    if depth > _MAX_DEPTH:
        raise InvalidRequest(name, f"more than {_MAX_DEPTH} levels", "fewer")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or not key:
                raise InvalidRequest(name, f"the key {key!r}", "keys that are texts")
            _encodable(key, name)
        return {key: _plain(item, f"{name}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, str):
        return _encodable(value, name)
    if isinstance(value, float) and not isfinite(value):
        raise InvalidRequest(name, repr(value), "a finite number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidRequest(name, "a number out of range", "a whole number of 64 bits")
    if value is None or isinstance(value, bool | int | float):
        return value
    raise InvalidRequest(name, kind(value), "a text, a number, true or false, a list or a mapping")


def _texts_in(options: Any, where: str) -> Iterator[tuple[str, str]]:
    """The texts in an override that may hold placeholders, and their dotted names."""
    if isinstance(options, Mapping):
        for key, item in options.items():
            if isinstance(item, str):
                if key in TEXT_KEYS:
                    yield f"{where}.{key}", item
            else:
                yield from _texts_in(item, f"{where}.{key}")
    elif isinstance(options, list):
        for index, item in enumerate(options):
            yield from _texts_in(item, f"{where}[{index}]")


def _filled(options: Any, fill: templates.Fill) -> Any:
    if isinstance(options, Mapping):
        return {
            key: templates.fill(item, fill)
            if isinstance(item, str) and key in TEXT_KEYS
            else _filled(item, fill)
            for key, item in options.items()
        }
    if isinstance(options, list):
        return [_filled(item, fill) for item in options]
    return options


def _known(value: Mapping[Any, Any], names: tuple[str, ...], where: str) -> None:
    for key in value:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            raise InvalidRequest(
                f"{where}.{str(key)[:60]}",
                "an unknown field",
                f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(names)}",
            )
