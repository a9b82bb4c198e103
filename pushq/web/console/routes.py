"""All of the console, to be put into the application."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from pushq.access.principal import Principal
from pushq.web.console import access, compose, looks, sends
from pushq.web.console.pages import static_file
from pushq.web.console.routing import PageRoute, go_to
from pushq.web.security import session

router = APIRouter(include_in_schema=False)


@router.get("/")
async def home() -> Response:
    """The way to the first page."""
    return RedirectResponse("/console/", 303)


@router.get("/console/static/{version}/{name}")
async def static(version: str, name: str) -> Response:
    """Style sheets, scripts and pictures: the same for everybody, and nobody's secret."""
    found = static_file(version, name)
    if found is None:
        raise HTTPException(404)
    return found


nowhere = APIRouter(route_class=PageRoute, include_in_schema=False)


@nowhere.get("/console/compose/{step}")
async def step(step: str, who: Annotated[Principal, Depends(session("send"))]) -> Response:
    """Steps of a form that is no longer there: somebody loads its address."""
    return go_to("/console/compose")


@nowhere.get("/console/{rest:path}")
async def lost(rest: str, who: Annotated[Principal, Depends(session())]) -> Response:
    """A page for whoever has lost the way."""
    raise HTTPException(404)


def install(app: FastAPI) -> None:
    """Add the routes of the console."""
    for each in (router, sends.router, compose.router, looks.router, access.router, nowhere):
        app.include_router(each)
