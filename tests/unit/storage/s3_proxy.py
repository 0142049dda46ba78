"""A store with habits: in front of moto, which checks neither signatures nor limits, stands a server that can check, refuse and fail."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import httpx

SECRET = "test"
_ENDS_HERE = {"connection", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Habits:
    """``checks``: signatures of presigned PUTs and the size limit of presigned POSTs hold, as on a real store."""

    checks: bool = True
    refuses_post: int = 0  # the status that it answers to a form
    fails: list[int] = field(default_factory=list)  # statuses for the next requests, whatever they are
    ignores_encryption: bool = False
    breaks_off: int = 0  # so many of the next bodies end in the middle
    wants_md5: bool = False
    guards_origins: bool = False  # browsers are told what the bucket's CORS rules say, and nothing else
    seen: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        habits: Habits = self.server.habits  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        habits.seen.append(f"{self.command} {urlsplit(self.path).path}")
        if habits.guards_origins and self.command == "OPTIONS":
            self._answer(200 if self._welcome() else 403, b"")
            return
        status = habits.fails.pop(0) if habits.fails else self._judged(habits, body)
        if status:
            self._answer(status, b"<Error><Code>Refused</Code></Error>")
        else:
            self._forward(habits, body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_OPTIONS = _serve

    def _judged(self, habits: Habits, body: bytes) -> int:
        """A status to refuse with, or 0."""
        form = self.headers.get("Content-Type", "").startswith("multipart/form-data")
        if form and habits.refuses_post:
            return habits.refuses_post
        if form and habits.checks and not _within_limit(body):
            return 400
        if habits.checks and self.command == "PUT" and "X-Amz-Signature" in self.path and not self._signed():
            return 403
        if habits.wants_md5 and self.command == "POST" and "delete" in self.path and not _md5_fits(self.headers.get("Content-MD5"), body):
            return 400
        return 0

    def _forward(self, habits: Habits, body: bytes) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        if habits.ignores_encryption:
            headers = {name: value for name, value in headers.items() if "server-side-encryption" not in name.lower()}
        upstream = self.server.upstream  # type: ignore[attr-defined]
        answer = httpx.request(self.command, upstream + self.path, headers=headers, content=body, timeout=30, trust_env=False)
        if habits.breaks_off and self.command == "GET":
            habits.breaks_off -= 1
            self._answer(answer.status_code, answer.content, answer.headers, sent=len(answer.content) // 2)
        else:
            self._answer(answer.status_code, answer.content, answer.headers)

    def _answer(self, status: int, content: bytes, headers: httpx.Headers | None = None, sent: int | None = None) -> None:
        self.send_response(status)
        guards = self.server.habits.guards_origins  # type: ignore[attr-defined]
        for name, value in (headers or {}).items():
            if name.lower() not in _ENDS_HERE and not (guards and name.lower().startswith("access-control-")):
                self.send_header(name, value)
        for name, value in (self._welcome() if guards else {}).items():
            self.send_header(name, value)
        length = (headers or {}).get("content-length", "0") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:sent])
        if sent is not None:
            self.close_connection = True

    def _welcome(self) -> dict[str, str]:
        """The CORS headers for the page that asks, by the bucket's rules; none for a stranger's."""
        origin, bucket = self.headers.get("Origin", ""), urlsplit(self.path).path.split("/")[1]
        method = self.headers.get("Access-Control-Request-Method", self.command)
        rules = httpx.get(f"{self.server.upstream}/{bucket}?cors", trust_env=False).text  # type: ignore[attr-defined]
        for rule in re.findall(r"<CORSRule>(.*?)</CORSRule>", rules, re.DOTALL):
            if f"<AllowedOrigin>{origin}<" in rule and f"<AllowedMethod>{method}<" in rule:
                asked = self.headers.get("Access-Control-Request-Headers", "")
                allowed = {"Access-Control-Allow-Headers": asked} if asked and "<AllowedHeader>*<" in rule else {}
                return {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Methods": method, **allowed}
        return {}

    def _signed(self) -> bool:
        """AWS Signature Version 4 in the query, worked out anew from what really arrived."""
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        given, names = query.pop("X-Amz-Signature"), query["X-Amz-SignedHeaders"]
        canonical = "\n".join(
            [
                self.command,
                quote(unquote(url.path), safe="/~"),
                "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in sorted(query.items())),
                *(f"{name}:{(self.headers.get(name) or '').strip()}" for name in names.split(";")),
                "",
                names,
                "UNSIGNED-PAYLOAD",
            ]
        )
        _, date, region, service, end = query["X-Amz-Credential"].split("/")
        key = f"AWS4{SECRET}".encode()
        for part in (date, region, service, end):
            key = hmac.digest(key, part.encode(), "sha256")
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = "\n".join(["AWS4-HMAC-SHA256", query["X-Amz-Date"], "/".join((date, region, service, end)), digest])
        return hmac.compare_digest(given, hmac.new(key, text.encode(), "sha256").hexdigest())


def _within_limit(form: bytes) -> bool:
    policy = re.search(rb'name="policy"\r\n\r\n([A-Za-z0-9+/=]+)', form)
    file = re.search(rb'name="file".*?\r\n\r\n(.*)\r\n--', form, re.DOTALL)
    assert policy and file
    conditions = json.loads(base64.b64decode(policy.group(1)))["conditions"]
    low, high = next(one[1:] for one in conditions if isinstance(one, list) and one[0] == "content-length-range")
    return low <= len(file.group(1)) <= high


def _md5_fits(given: str | None, body: bytes) -> bool:
    return given == base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


@contextmanager
def store_with(habits: Habits, upstream: str) -> Iterator[str]:
    """Its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.habits, server.upstream = habits, upstream  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
