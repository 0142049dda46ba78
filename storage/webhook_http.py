"""One POST to a customer's endpoint: to public addresses only, without redirects, in bounded time.

The name is resolved once an attempt; every address of it must be public, and the connection goes to one of those very addresses, so that a
name server that answers differently the second time (DNS rebinding) gains nothing. Certificates are checked against the name.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore
import httpx

from core.errors import UserError

TOTAL_S, CONNECT_S = 8.0, 4.0
LONGEST_URL, MOST_ADDRESSES = 2000, 3
_NAT64 = IPv6Network("64:ff9b::/96")
_PROTOCOLS = IPv4Network("192.0.0.0/24")  # not public by the registry; older Pythons know only a part of it

Resolve = Callable[[str, int], list[str]]  # name, port → addresses


class NotDelivered(Exception):
    """Why the endpoint could not be asked; it may be tried again."""


@dataclass(frozen=True)
class Endpoints:
    """``allow_private`` (the operator's choice, for trying on one machine) also allows plain http and addresses inside the house."""

    allow_private: bool = False
    resolve: Resolve | None = None

    def check(self, url: str) -> str:
        """The URL as it will be stored; :class:`core.errors.UserError` ``webhook/url`` says what to change."""
        try:
            parsed = self._parsed(url.strip())
            self.addresses(parsed.raw_host.decode(), _port(parsed))
        except NotDelivered as error:
            raise UserError("webhook/url", "This address cannot receive webhooks", f"{error}.") from error
        return str(parsed)

    def post(self, url: str, headers: dict[str, str], body: bytes) -> int:
        """The status that the endpoint answers with; nothing of its answer's body is read. :class:`NotDelivered` if there was none."""
        parsed = self._parsed(url)
        deadline, sent = _Deadline(TOTAL_S), list({"Host": parsed.netloc.decode(), **headers}.items())
        target = httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
        try:
            with (
                httpcore.ConnectionPool(ssl_context=ssl.create_default_context(), network_backend=_Pinned(self, deadline)) as pool,
                pool.stream("POST", target, headers=sent, content=body) as answer,
            ):
                return answer.status
        except httpcore.TimeoutException as error:
            raise NotDelivered(f"no answer within {TOTAL_S:.0f} seconds") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise NotDelivered(
                f"the connection failed: {error}" if str(error) else "the connection was closed without an answer"
            ) from error

    def addresses(self, host: str, port: int) -> list[str]:
        found = (self.resolve or resolved)(host, port)
        inside = [] if self.allow_private else [address for address in found if not is_public(address)]
        if inside:
            raise NotDelivered(f"{host} points to {inside[0]}, which is not a public address")
        return found[:MOST_ADDRESSES]

    def _parsed(self, url: str) -> httpx.URL:
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise NotDelivered("This is not a URL") from error
        schemes = ("https", "http") if self.allow_private else ("https",)
        if parsed.scheme not in schemes or not parsed.host or parsed.userinfo or parsed.fragment or len(url) > LONGEST_URL:
            raise NotDelivered(
                f"Write {' or '.join(schemes)}://host/path, without a password, a fragment or more than {LONGEST_URL} characters"
            )
        return parsed


def resolved(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise NotDelivered(f"the name {host} has no address") from error
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def is_public(address: str) -> bool:
    """Whether it can only mean a host on the open internet; an IPv4 address inside an IPv6 one counts as itself."""
    ip = ip_address(address)
    ip = (_inner(ip) or ip) if isinstance(ip, IPv6Address) else ip
    odd = ip in _PROTOCOLS or ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback or ip.is_link_local
    return ip.is_global and not odd and not (isinstance(ip, IPv6Address) and ip.is_site_local)


def _inner(ip: IPv6Address) -> IPv4Address | None:
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def left(self) -> float:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left


class _Pinned(httpcore.NetworkBackend):
    """Connects to what was checked, and to nothing else."""

    def __init__(self, endpoints: Endpoints, deadline: _Deadline) -> None:
        self._endpoints, self._deadline = endpoints, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in self._endpoints.addresses(host, port):
            try:
                return _Bounded(httpcore.SyncBackend().connect_tcp(address, port, min(CONNECT_S, self._deadline.left())), self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class _Bounded(httpcore.NetworkStream):
    """No read or write outlasts the whole attempt, however slowly the other side sends."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, self._deadline.left()), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
