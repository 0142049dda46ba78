"""As much of an AMQP 0-9-1 server as a publisher meets, which then stops answering where a test says so. Loopback only."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

START, TUNE, CONNECTION_OPEN, CONNECTION_CLOSE = (10, 11), (10, 31), (10, 40), (10, 50)
CHANNEL_OPEN, CHANNEL_CLOSE, DECLARE, CONFIRM, PUBLISH = (20, 10), (20, 40), (50, 10), (85, 10), (60, 40)
ANSWERS = {  # to what the client says: class, method, arguments
    START: (10, 30, struct.pack(">HLH", 16, 131072, 0)),
    CONNECTION_OPEN: (10, 41, b"\0"),
    CONNECTION_CLOSE: (10, 51, b""),
    CHANNEL_OPEN: (20, 11, struct.pack(">L", 0)),
    CHANNEL_CLOSE: (20, 41, b""),
    CONFIRM: (85, 11, b""),
    (40, 10): (40, 11, b""),
    (50, 20): (50, 21, b""),
}


class AmqpServer:
    """``silent_at``: what it does not answer, nor anything after; None: it answers all. ``half``: of that answer it sends three bytes."""

    def __init__(self, silent_at: tuple[int, int] | str | None, half: bool = False) -> None:
        self.silent_at, self.half = silent_at, half
        self.published = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._taken: list[socket.socket] = []
        self.url = f"amqp://guest:guest@127.0.0.1:{self._listening.getsockname()[1]}//"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in (self._listening, *self._taken):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._taken.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, struct.error):
            _exactly(client, 8)
            if not self._say(client, "greeting", 0, 10, 10, b"\0\x09" + struct.pack(">L", 0) + _long(b"PLAIN AMQPLAIN") + _long(b"en_US")):
                return
            while True:
                kind, channel, size = struct.unpack(">BHL", _exactly(client, 7))
                payload = _exactly(client, size + 1)
                if kind == 1 and not self._answer(client, channel, payload):
                    return

    def _answer(self, client: socket.socket, channel: int, payload: bytes) -> bool:
        said = struct.unpack(">HH", payload[:4])
        if said == PUBLISH:
            self.published += 1
            return self._say(client, said, channel, 60, 80, struct.pack(">QB", self.published, 0))
        if said == DECLARE:
            name = payload[7 : 7 + payload[6]]
            return self._say(client, said, channel, 50, 11, bytes([len(name)]) + name + struct.pack(">LL", 0, 0))
        return said == TUNE or said not in ANSWERS or self._say(client, said, channel, *ANSWERS[said])

    def _say(self, client: socket.socket, to: tuple[int, int] | str, channel: int, cls: int, method: int, arguments: bytes) -> bool:
        payload = struct.pack(">HH", cls, method) + arguments
        frame = struct.pack(">BHL", 1, channel, len(payload)) + payload + b"\xce"
        if to != self.silent_at:
            client.sendall(frame)
        elif self.half:
            client.sendall(frame[:3])
        return to != self.silent_at


@contextmanager
def amqp_server(silent_at: tuple[int, int] | str | None, half: bool = False) -> Iterator[AmqpServer]:
    server = AmqpServer(silent_at, half)
    try:
        yield server
    finally:
        server.close()


def _long(text: bytes) -> bytes:
    return struct.pack(">L", len(text)) + text


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = client.recv(count - len(data))
        if not more:
            raise OSError("closed")
        data += more
    return data
