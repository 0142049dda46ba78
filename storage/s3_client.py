"""How to reach an S3-compatible store: what the URL says, clients with bounded time and retries, and boto's errors in our words."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from core.errors import ServiceDown

CONNECT_TIMEOUT_S, READ_TIMEOUT_S, ATTEMPTS = 5, 30, 4
QUICK_CONNECT_S, QUICK_READ_S = 1, 2  # for a question of readiness, asked once
UPLOADS = ("auto", "post", "put")
ENCRYPTIONS = ("", "AES256", "aws:kms")
_MISSING = {"404", "NoSuchKey", "NotFound"}


@dataclass(frozen=True)
class S3Options:
    """The parts of ``s3://bucket?endpoint_url=…&…``. Credentials are not among them: boto3 finds those in the environment or a profile."""

    bucket: str
    endpoint_url: str | None = None
    region: str | None = None
    addressing: str = "auto"  # path: for stores without a host name for each bucket
    public_url: str | None = None  # where browsers reach the store, if not at endpoint_url: links are signed for it
    sse: str = ""  # AES256 or aws:kms: asked for with every write, and read back
    sse_kms_key_id: str = ""
    upload: str = "auto"  # how browsers upload: post, put, or auto: found out

    @classmethod
    def from_url(cls, url: str) -> S3Options:
        """``ValueError`` for anything else, so that a slip in a setting is seen at the start."""
        parts = urlsplit(url)
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        known = [field.name for field in fields(cls)][1:]
        options = cls(parts.netloc, **{name: value for name, value in given.items() if name in known})
        right = parts.netloc and not parts.path.strip("/") and not set(given) - set(known)
        if not right or options.upload not in UPLOADS or options.sse not in ENCRYPTIONS:
            raise ValueError(f"write s3://bucket?endpoint_url=…&region=… with any of {', '.join(known)}, not {url!r}")
        return options

    @property
    def encryption(self) -> dict[str, str]:
        """What boto adds to a write."""
        if not self.sse:
            return {}
        return {"ServerSideEncryption": self.sse} | ({"SSEKMSKeyId": self.sse_kms_key_id} if self.sse_kms_key_id else {})


def make_client(options: S3Options, endpoint_url: str | None, quick: bool = False) -> Any:
    config = Config(
        connect_timeout=QUICK_CONNECT_S if quick else CONNECT_TIMEOUT_S,
        read_timeout=QUICK_READ_S if quick else READ_TIMEOUT_S,
        retries={"total_max_attempts": 1 if quick else ATTEMPTS, "mode": "standard"},
        signature_version="s3v4",
        s3={"addressing_style": options.addressing},
        request_checksum_calculation="when_required",  # many S3-compatible stores know only the older checksums
        response_checksum_validation="when_required",
    )
    client = boto3.session.Session().client("s3", endpoint_url=endpoint_url, region_name=options.region, config=config)
    client.meta.events.register("before-sign.s3.DeleteObjects", _add_md5)
    return client


@contextmanager
def translated(key: str) -> Iterator[None]:
    """A missing key is ``KeyError(key)``; everything else that goes wrong is :class:`core.errors.ServiceDown`."""
    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in _MISSING:
            raise KeyError(key) from error
        raise ServiceDown(f"the object store refused: {error}") from error
    except (BotoCoreError, Boto3Error) as error:
        raise ServiceDown(f"the object store does not answer: {error}") from error


def not_known(error: ClientError) -> bool:
    """The store has no such operation; said with 501 or, by some, with the code alone."""
    answer = error.response
    return answer.get("Error", {}).get("Code") == "NotImplemented" or answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 501


def _add_md5(request: Any, **_: Any) -> None:
    """S3 demands a checksum of a bulk delete; stores of before 2024 know only this one, which boto no longer sends."""
    request.headers["Content-MD5"] = base64.b64encode(hashlib.md5(request.body, usedforsecurity=False).digest()).decode()
