"""All of the console, to be put into the application."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from pushq.web.console import access, compose, looks, sends
from pushq.web.console.pages import static_file

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


def install(app: FastAPI) -> None:
    """Add the routes of the console."""
    for each in (router, sends.router, compose.router, looks.router, access.router):
        app.include_router(each)
