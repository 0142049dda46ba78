"""Who is asking: a browser by its session cookie, a program by its API key. Cookies count only for requests that our own pages made."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response

from api.state import State, state_of
from core.errors import UserError
from storage import accounts
from storage.tables import Account, now

COOKIE = "likeness_session"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SEEN_EVERY = timedelta(days=1)  # a session lasts for weeks: visits count as use, without a write a visit
TOUCH_EVERY_S = 60.0  # «last used» of an API key is a date to recognise it by, not worth a write a request

_touched: dict[str, float] = {}


@dataclass(frozen=True)
class Caller:
    account_id: str
    email: str


def caller_or_none(request: Request) -> Caller | None:
    """Also puts the caller on ``request.state.account``, for pages."""
    state = state_of(request)
    key, token = _bearer(request), request.cookies.get(COOKIE)
    account = _by_key(state, key) if key else _by_session(state, request, token) if token else None
    caller = Caller(account.id, account.email) if account else None
    request.state.account = caller
    return caller


def caller(request: Request) -> Caller:
    found = caller_or_none(request)
    if found is None:
        detail = "Send «Authorization: Bearer lk_…» with an API key, or sign in through the page."
        raise UserError("auth/required", "Sign in first", detail, status=401)
    return found


MaybeSignedIn = Annotated[Caller | None, Depends(caller_or_none)]
SignedIn = Annotated[Caller, Depends(caller)]


def from_our_pages(request: Request) -> bool:
    """Browsers say on every POST which site sent it. Neither header: not a browser's form, and then a cookie has no business here."""
    fetch_site = request.headers.get("sec-fetch-site")
    if fetch_site:
        return fetch_site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return bool(origin) and urlsplit(origin).netloc in _our_hosts(request)


def refuse_other_sites(request: Request) -> None:
    """For forms that need no session, such as signing in: another site must not post them either."""
    if request.method not in SAFE_METHODS and not from_our_pages(request):
        raise _cross_site()


def set_session(response: Response, state: State, token: str) -> None:
    ttl, secure = state.settings.session_ttl_s, state.site.secure
    response.set_cookie(COOKIE, token, max_age=ttl, httponly=True, samesite="lax", secure=secure, path="/")


def clear_session(response: Response) -> None:
    response.delete_cookie(COOKIE, path="/")


def _our_hosts(request: Request) -> set[str]:
    return {request.headers.get("host", ""), urlsplit(state_of(request).settings.site_url).netloc}


def _bearer(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def _by_session(state: State, request: Request, token: str) -> Account | None:
    if request.method not in SAFE_METHODS and not from_our_pages(request):
        raise _cross_site()
    with state.storage.db.reader() as session:
        account = accounts.account_of_session(session, token)
    if account and now() - account.last_seen_at > SEEN_EVERY:
        with state.storage.db.session() as session:
            accounts.was_seen(session, account.id)
    return account


def _by_key(state: State, key: str) -> Account:
    with state.storage.db.reader() as session:
        account = accounts.account_of_api_key(session, key)
    if account is None:
        raise UserError("auth/bad-key", "This API key is not valid", "Make a new one on the account page.", status=401)
    _touch(state, key)
    return account


def _touch(state: State, key: str) -> None:
    name, moment = accounts.hashed(key), time.monotonic()
    if moment - _touched.get(name, float("-inf")) > TOUCH_EVERY_S:
        _touched[name] = moment
        with state.storage.db.session() as session:
            accounts.touch_api_key(session, key)


def _cross_site() -> UserError:
    detail = "Open this site itself and try there. Programs use an API key instead of a cookie."
    return UserError("auth/cross-site", "This request came from another site", detail, status=403)
