"""The message: what it has for whom. A value with the means to turn it into what one platform, one language and one person get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, cast

from pushq.platforms import PLATFORMS
from pushq.rendering import templates

Priority = Literal["high", "normal"]

#: A message that no phone fetched within a day is stale, unless the caller says otherwise.
DEFAULT_TTL_S: Final = 86_400


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
            if key in OVERRIDABLE and fits(key, value):
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
                yield from (text for _, text in texts_in(variant.get(platform, {}), ""))
        for platform in PLATFORMS:
            yield from (text for _, text in texts_in(getattr(self, platform), ""))


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


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``: mappings in both are merged again, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(cast("Mapping[str, Any]", below), value) if both else value
    return result


def fits(key: str, value: object) -> bool:
    """Whether it is the message's field of this name. APNs' options have a ``sound`` of their own that is a mapping, for one."""
    if key == "data":
        return isinstance(value, Mapping)
    if key == "badge":
        return isinstance(value, int)
    if key == "priority":
        return value in ("high", "normal")
    return isinstance(value, str)


def texts_in(options: Any, where: str) -> Iterator[tuple[str, str]]:
    """The texts in an override that may hold placeholders, and their dotted names."""
    if isinstance(options, Mapping):
        for key, item in options.items():
            if isinstance(item, str):
                if key in TEXT_KEYS:
                    yield f"{where}.{key}", item
            else:
                yield from texts_in(item, f"{where}.{key}")
    elif isinstance(options, list):
        for index, item in enumerate(options):
            yield from texts_in(item, f"{where}[{index}]")


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
