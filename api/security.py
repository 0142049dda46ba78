"""Headers that keep pages to themselves: scripts and styles of this site only, pictures and uploads also of the object store."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.site import Site


def policy(site: Site) -> str:
    """A Content-Security-Policy without inline scripts or styles."""
    own = "{0.scheme}://{0.netloc}".format(urlsplit(site.settings.site_url))
    stores = " ".join((own, *site.store_origins))
    return (
        f"default-src 'self'; img-src 'self' blob: data: {stores}; connect-src 'self' {stores}; "
        f"object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' {stores}"
    )


class SecurityHeaders:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, policy: str) -> None:
        self._app, self._policy = app, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "same-origin")
                headers.setdefault("Content-Security-Policy", self._policy)
                if scope["path"].startswith("/v1/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, with_headers)
