"""Errors as RFC 9457 problem+json for programs, and as a readable page for people."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException

from api.rendering import render
from core.errors import ServiceDown, UserError
from core.logs import get_logger

log = get_logger("api")

MEDIA_TYPE = "application/problem+json"
_TITLES = {404: "Nothing here", 405: "This address does not take that method", 413: "Too large", 415: "Not a form that we read"}
_TYPES = {404: "not-found", 405: "method-not-allowed", 413: "request/too-large", 400: "request/malformed"}


def install(app: FastAPI) -> None:
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ServiceDown, _service_down)
    app.add_exception_handler(IntegrityError, _changed_meanwhile)
    app.add_exception_handler(Exception, _unexpected)


def problem(error: UserError) -> dict[str, Any]:
    """``type`` is stable and documented; ``errors`` holds what to do per photo or per field."""
    body = {"type": f"urn:likeness:{error.type}", "title": error.title, "status": error.status}
    return body | ({"detail": error.detail} if error.detail else {}) | error.extra


def answer(request: Request, error: UserError, headers: dict[str, str] | None = None) -> Response:
    if wants_page(request):
        if error.status == 401:
            return RedirectResponse("/", status_code=303)
        return render(request, "error.html", status=error.status, error=error)
    return JSONResponse(problem(error), error.status, headers=headers, media_type=MEDIA_TYPE)


def wants_page(request: Request) -> bool:
    return not request.url.path.startswith("/v1/") and "text/html" in request.headers.get("accept", "")


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return answer(request, error, headers)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    items = [{"field": _field(item["loc"]), "message": _plain(item["msg"])} for item in error.errors()]
    detail = "; ".join(f"{item['field']}: {item['message']}" if item["field"] else item["message"] for item in items)
    return answer(request, UserError("request/invalid", "Some fields need another look", detail, extra={"errors": items}))


def _field(where: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in where if part not in ("body", "query", "path", "header"))


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = _TITLES.get(error.status_code, str(error.detail))
    detail = str(error.detail) if str(error.detail) != title and error.status_code not in (404, 405) else ""
    type_ = _TYPES.get(error.status_code, "request/refused")
    return answer(request, UserError(type_, title, detail, error.status_code), dict(error.headers or {}))


async def _service_down(request: Request, error: Exception) -> Response:
    log.warning("a server is down", path=request.url.path, error=str(error))
    detail = f"{str(error).split(':')[0]}. Nothing is lost; please try again in a minute."
    return answer(request, UserError("service/down", "Something that we need is not answering", detail, 503), {"Retry-After": "30"})


async def _changed_meanwhile(request: Request, error: Exception) -> Response:
    """Two requests met in the database, such as one that adds to a subject and one that erases it."""
    log.warning("rows changed meanwhile", path=request.url.path, error=str(getattr(error, "orig", error)).partition("\n")[0])
    detail = "Something that this refers to was erased or changed at the same moment. Reload, then try again if it is still there."
    return answer(request, UserError("conflict/changed", "This changed meanwhile", detail, 409))


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("unexpected error", path=request.url.path, exc_info=error)
    detail = "This is our mistake, not yours. It has been written down; please try again."
    return answer(request, UserError("internal", "Something went wrong here", detail, 500))
