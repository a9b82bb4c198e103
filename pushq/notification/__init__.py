"""The message: what the caller says, checked, and what of it goes to whom.

Pure: no I/O. What a provider makes of it is in ``pushq.providers.*.request``.
"""

from pushq.notification.message import (
    DEFAULT_TTL_S,
    FIELDS,
    OVERRIDABLE,
    TEXT_KEYS,
    VARIANT_FIELDS,
    Notification,
    Priority,
    merged,
)
from pushq.notification.parsing import (
    MAX_COLLAPSE_BYTES,
    MAX_LANGUAGES,
    MAX_TTL_S,
    fits_header,
    parse_notification,
)

__all__ = [
    "DEFAULT_TTL_S",
    "FIELDS",
    "MAX_COLLAPSE_BYTES",
    "MAX_LANGUAGES",
    "MAX_TTL_S",
    "OVERRIDABLE",
    "TEXT_KEYS",
    "VARIANT_FIELDS",
    "Notification",
    "Priority",
    "fits_header",
    "merged",
    "parse_notification",
]
