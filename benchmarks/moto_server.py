"""``python -m benchmarks.moto_server``: moto's S3 server on a free port of the loopback, which it prints.

moto copies every version of every object in the bucket, contents and parts included, to list some of them: a bucket of a few GB that is
swept often took 21 GB of memory. Here the copies hold no contents.
"""

from __future__ import annotations

import threading
from typing import Any

from moto.s3.models import FakeKey
from moto.server import ThreadedMotoServer


def _listed(key: Any, memo: Any) -> Any:
    copy = object.__new__(type(key))
    facts = {"_etag": key.etag.strip('"'), "_value_buffer": None, "multipart": None, "lock": threading.Lock(), "disposed": True}
    copy.__dict__.update(key.__dict__ | facts)
    return copy


def main() -> None:
    FakeKey.__deepcopy__ = _listed  # type: ignore[attr-defined]
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
