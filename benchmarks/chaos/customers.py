"""Customers: they sign in, upload photos, and keep asking for trainings and portraits, each under an Idempotency-Key until answered."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx

from benchmarks.chaos.service import Service
from core.words import new_id

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "photos"

EMAIL = "customer@example.com"
PHOTOS = 5
OPEN_TRAININGS, OPEN_PORTRAITS = 3, 3
STYLES = ("oil-painting", "watercolour", "linocut")
ENDED = ("succeeded", "failed", "canceled")


@dataclass
class Asked:
    """One request: ``id`` of the training or portrait once the service has answered."""

    kind: str
    body: dict[str, Any]
    key: str = field(default_factory=lambda: new_id("key"))
    id: str = ""
    status: str = ""
    tries: int = 0


class Customers:
    """A thread that never lets a request go: whatever the API answers or does not, it asks again with the same key."""

    def __init__(self, service: Service, subjects: int, seed: int) -> None:
        self.service, self.random = service, Random(seed)
        self.asked: list[Asked] = []
        self.unexpected: list[str] = []  # answers that no customer should get
        self._wanted = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="customers", daemon=True)
        self.client = self._sign_in()
        self.subjects = [self._subject(n) for n in range(subjects)]

    def start(self) -> None:
        self._wanted.set()
        self._thread.start()

    def want_no_more(self) -> None:
        """What was asked for is still followed to its end."""
        self._wanted.clear()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(60)

    @property
    def open(self) -> list[Asked]:
        return [one for one in self.asked if one.status not in ENDED]

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            for one in self.open:
                self._follow(one) if one.id else self._ask(one)
            if self._wanted.is_set():
                self._ask_for_more()

    def _ask_for_more(self) -> None:
        busy = {one.body.get("subject_id") for one in self.open}
        free = [subject for subject in self.subjects if subject not in busy]
        if free and self._open("trainings") < OPEN_TRAININGS:
            body = {"subject_id": self.random.choice(free), "seed": self.random.randrange(1000)}
            self.asked.append(Asked("trainings", body))
        if self._open("portraits") < OPEN_PORTRAITS:
            self.asked.append(Asked("portraits", self._portrait()))

    def _open(self, kind: str) -> int:
        return sum(one.kind == kind for one in self.open)

    def _portrait(self) -> dict[str, Any]:
        adapters = [one.body["adapter_id"] for one in self.asked if one.kind == "trainings" and one.body.get("adapter_id")]
        body = {"style": self.random.choice(STYLES), "seed": self.random.randrange(1000), "count": 2, "num_inference_steps": 2}
        return body | ({"adapter_id": self.random.choice(adapters)} if adapters else {"class_word": "cat"})

    def _ask(self, one: Asked) -> None:
        one.tries += 1
        body = {name: value for name, value in one.body.items() if not (one.kind == "trainings" and name == "adapter_id")}
        answer = self._send("POST", f"/v1/{one.kind}", json=body, headers={"Idempotency-Key": one.key})
        if answer is None or answer.status_code >= 500 or _problem(answer) == "urn:likeness:idempotency/in-progress":
            return
        if answer.status_code != 201:
            self.unexpected.append(f"POST /v1/{one.kind}: {answer.status_code} {answer.text[:300]}")
            one.status = "failed"
            return
        one.id = answer.json()["id"]

    def _follow(self, one: Asked) -> None:
        answer = self._send("GET", f"/v1/{one.kind}/{one.id}")
        if answer is None or answer.status_code >= 500:
            return
        if answer.status_code != 200:
            self.unexpected.append(f"GET /v1/{one.kind}/{one.id}: {answer.status_code} {answer.text[:300]}")
            return
        one.status = answer.json()["status"]
        if one.kind == "trainings" and one.status == "succeeded":
            one.body["adapter_id"] = answer.json()["adapter_id"]

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response | None:
        try:
            return self.client.request(method, path, **options)
        except httpx.HTTPError:
            return None

    # ---- before the faults begin

    def _sign_in(self) -> httpx.Client:
        url = self.service.url
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as browser:
            browser.post("/v1/sign-in", json={"email": EMAIL}).raise_for_status()
            browser.post("/v1/sign-in/confirm", json={"token": self._token()}).raise_for_status()
            key = browser.post("/v1/api-keys", json={"name": "chaos"}, headers={"Origin": url}).raise_for_status().json()["key"]
        return httpx.Client(base_url=url, timeout=8, trust_env=False, headers={"Authorization": f"Bearer {key}"})

    def _token(self) -> str:
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            for text in self.service.mail.texts:
                if found := re.search(r"/sign-in\?token=(\S+)", text):
                    return found[1]
            time.sleep(0.2)
        raise RuntimeError("no sign-in mail came")

    def _subject(self, number: int) -> str:
        folders = sorted(folder for folder in EXAMPLES.iterdir() if folder.is_dir())
        folder = folders[number % len(folders)]
        consent = self.client.get("/v1/consent").raise_for_status().json()["sha256"]
        kind = (folder / "kind.txt").read_text().strip()
        body = {"name": f"{folder.name} {number}", "kind": kind, "consent": True, "consent_sha256": consent, "adult": kind == "person"}
        subject_id = str(self.client.post("/v1/subjects", json=body, timeout=60).raise_for_status().json()["id"])
        self._upload(subject_id, self._good(folder))
        return subject_id

    def _good(self, folder: Path) -> list[Path]:
        return sorted(folder.glob("*.jpg"))[:PHOTOS]

    def _upload(self, subject_id: str, paths: list[Path]) -> None:
        files = [{"filename": path.name} for path in paths]
        places = (
            self.client.post(f"/v1/subjects/{subject_id}/uploads", json={"files": files}, timeout=60).raise_for_status().json()["uploads"]
        )
        for path, place in zip(paths, places, strict=True):
            data = path.read_bytes()
            if place["method"] == "POST":
                answer = httpx.post(place["url"], data=place["fields"], files={"file": (path.name, data)}, timeout=60, trust_env=False)
            else:
                answer = httpx.put(place["url"], content=data, headers=place["headers"], timeout=60, trust_env=False)
            answer.raise_for_status()
        body = {"upload_ids": [place["id"] for place in places]}
        self.client.post(f"/v1/subjects/{subject_id}/photos", json=body, timeout=120).raise_for_status()


def _problem(answer: httpx.Response) -> str:
    return answer.json().get("type", "") if "json" in answer.headers.get("content-type", "") else ""
