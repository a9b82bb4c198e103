"""The requests of a send to HMS, whole but for who signs them. Pure: what a preview shows is made here, as what is sent is."""

from __future__ import annotations

from pushq.http2 import HeaderTemplate
from pushq.notification import Notification
from pushq.providers.client import Message
from pushq.providers.hms import request
from pushq.rendering.contents import Format


def format_of(message: Message, api: request.Api) -> Format[Notification]:
    """See :meth:`pushq.providers.client.ProviderClient.format`."""
    collapse_id = message.collapse_id

    def write(notification: Notification) -> bytes:
        return request.content(notification, api=api, collapse_id=collapse_id)

    def measure(notification: Notification) -> int:
        return request.size(notification, api=api, collapse_id=collapse_id)

    return Format(write, measure, request.MAX_PAYLOAD_BYTES)


def template(message: Message, *, api: request.Api, path_id: str, authorization: bytes) -> HeaderTemplate:
    """What the requests have in common.

    Args:
        path_id: the app's or the project's, which stands in the path.
        authorization: ``Bearer <access token>``.
    """
    headers = request.headers(message.notification, api=api, authorization=authorization)
    return HeaderTemplate(request.path(api, path_id), headers)
