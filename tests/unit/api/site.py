"""What tests of the API share: a signed-in customer, and pictures of every sort."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from httpx import Response
from PIL import Image

SITE = "http://likeness.test"


@dataclass
class Customer:
    """``client`` holds the session cookie; ``token`` was the link's."""

    client: TestClient
    token: str = ""

    def subject(self, kind: str = "cat", name: str = "Minka") -> str:
        consent = self.client.get("/v1/consent").json()
        body = {"name": name, "kind": kind, "consent": True, "consent_sha256": consent["sha256"]}
        answer = self.client.post("/v1/subjects", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def send(self, subject: str, *files: tuple[str, bytes], **headers: str) -> Response:
        return self.client.post(f"/v1/subjects/{subject}/photos", files=[("files", file) for file in files], headers=headers)

    def photographed(self, count: int = 10) -> str:
        """A subject with so many good photos."""
        subject = self.subject()
        answer = self.send(subject, *((f"{n}.jpg", photo(n)) for n in range(count)))
        assert answer.json()["counts"]["usable"] == count, answer.text
        return subject

    def photos(self, subject: str) -> list[dict[str, Any]]:
        return list(self.client.get(f"/v1/subjects/{subject}/photos").json()["items"])

    def api_key(self) -> str:
        return str(self.client.post("/v1/api-keys", json={"name": "test"}).json()["key"])


def picture(seed: int = 0, width: int = 320, height: int = 320) -> Image.Image:
    """Sharp coloured blocks, different for each seed."""
    blocks = np.random.default_rng(seed).integers(20, 236, (20, 20, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photo(seed: int = 0) -> bytes:
    return encoded(picture(seed))
