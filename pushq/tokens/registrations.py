"""The FCM registrations of an audience, page by page: what topics are subscribed with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import text

from pushq.audience.request import Audience
from pushq.audience.sql import select_devices
from pushq.database import Database

PAGE: Final = 5000


def fcm_registrations(database: Database, app: str, audience: Audience, *, page: int = PAGE) -> Iterator[str]:
    """Tokens of the audience's active FCM devices, in the order of their users. Bounded memory: one page at a time.

    Raises:
        InvalidRequest: a segment does not exist.
        ServiceUnavailable: PostgreSQL cannot be reached.
    """
    after = 0, 0
    while True:
        with database.begin() as connection:
            selection = select_devices(connection, app, audience)
            rows = connection.execute(
                text(
                    f"""
                    SELECT d.user_id, d.id, d.token FROM device_tokens d
                    WHERE d.is_active AND d.app = :app AND d.platform = 'fcm' AND (d.user_id, d.id) > (:user, :device)
                      AND ({selection.where})
                    ORDER BY d.user_id, d.id LIMIT :page
                    """  # noqa: S608
                ),
                {**selection.params, "app": app, "user": after[0], "device": after[1], "page": page},
            ).all()
        for row in rows:
            yield row.token
        if len(rows) < page:
            return
        after = rows[-1].user_id, rows[-1].id
