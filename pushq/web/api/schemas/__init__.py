"""What goes in and out, as JSON Schema for the OpenAPI document, with examples.

Input is checked by the parsers that every call of pushq goes through (:mod:`pushq.submission`, :mod:`pushq.tokens.device`,
:mod:`pushq.audience.request`), which know more than a schema can say; tests hold the two against each other. Facts only.
"""

from __future__ import annotations

from typing import Final

from pushq.web.api.schemas import devices, messages, segments, sends, service
from pushq.web.api.schemas.shapes import APP_PATTERN, SEGMENT_PATTERN, Schema, ref

__all__ = ["APP_PATTERN", "SCHEMAS", "SEGMENT_PATTERN", "ref"]

#: By their names in the document.
SCHEMAS: Final[dict[str, Schema]] = dict(
    sorted(
        {
            **messages.SCHEMAS,
            **devices.SCHEMAS,
            **segments.SCHEMAS,
            **sends.SCHEMAS,
            **service.SCHEMAS,
        }.items()
    )
)
