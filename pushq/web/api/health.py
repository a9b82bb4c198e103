"""``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from starlette.responses import PlainTextResponse, Response

from pushq.observe.health import Report
from pushq.web.answers import Json
from pushq.web.api.documents import Responses, gives_stream, refused
from pushq.web.api.parameters import known_query
from pushq.web.api.schemas import ref
from pushq.web.security import Principal, require
from pushq.web.state import State

router = APIRouter(tags=["health"])


def _said(report: Report) -> Json:
    # Why something is not well may name hosts: that is for the log and for `pushq doctor`, not for whoever asks.
    checks = {name: why is None for name, why in report.checks.items()}
    return Json({"ok": report.ok, "checks": checks}, 200 if report.ok else 503)


_HEALTH: Final[Responses] = {
    200: {"description": "It is well", "content": {"application/json": {"schema": ref("Health")}}},
    503: {"description": "It is not", "content": {"application/json": {"schema": ref("Health")}}},
}


@router.get(
    "/healthz",
    summary="Whether the process works",
    operation_id="live",
    responses={200: _HEALTH[200], **refused()},
    dependencies=[Depends(known_query)],
)
async def live(state: State) -> Response:
    """200 as long as the process answers. What it needs from others is no part of it."""
    return _said(state.health.live())


@router.get(
    "/readyz",
    summary="Whether the process could be useful now",
    operation_id="ready",
    responses={**_HEALTH, **refused()},
    dependencies=[Depends(known_query)],
)
async def ready(state: State) -> Response:
    """200 when PostgreSQL, Redis and the broker answer, 503 when one of them does not or the process is about to end."""
    if state.closing.is_set():
        return Json({"ok": False, "checks": {"shutdown": False}}, 503)
    return _said(await state.short.run(state.health.ready))


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    operation_id="metrics",
    response_class=PlainTextResponse,
    responses=gives_stream("In Prometheus' format", ("text/plain", "application/openmetrics-text")),
    dependencies=[Depends(known_query)],
)
async def metrics(
    request: Request, state: State, _: Annotated[Principal, Depends(require("sends:read"))]
) -> Response:
    """What this process counted. Without a key the same stands on PUSHQ_METRICS_PORT."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(await state.short.run(encode, REGISTRY), headers={"Content-Type": content_type})
