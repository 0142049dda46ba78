"""The main job, as a customer's program would do it: everything through HTTP, as against any Likeness server.

Starts the service on the embedded default, signs in from the mail, uploads photos, watches the training, asks for portraits in every style
with and without the adapter, and writes var/demo/{portraits.png, adapter.safetensors, report.json}. ``--help`` lists the choices.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lab.report import Row, contact_sheet

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "examples" / "photos"
OUT = ROOT / "var" / "demo"
EMAIL = "visitor@example.com"
READY_WITHIN_S, JOB_WITHIN_S = 120, 1800
PACKAGES = ("likeness", "torch", "diffusers", "transformers", "peft", "accelerate", "celery")
console = Console(highlight=False)


@dataclass
class Subject:
    name: str
    kind: str
    photos: list[Path]


@dataclass
class Outcome:
    """What one subject gave."""

    name: str
    adapter: dict[str, Any]
    seconds: dict[str, float]
    photos: list[Image.Image] = field(default_factory=list)
    with_adapter: list[Image.Image] = field(default_factory=list)
    without: list[Image.Image] = field(default_factory=list)
    likeness_each: list[float | None] = field(default_factory=list)


def main() -> None:
    arguments = _arguments()
    subjects = chosen_subjects(arguments)
    began = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    with running_service(OUT / "service") as (url, var), MemoryWatch() as memory:
        client = sign_in(url, var)
        styles = client.get("/v1/styles").raise_for_status().json()["items"]
        outcomes = [do_subject(client, var, subject, styles) for subject in subjects]
    report = make_report(outcomes, time.monotonic() - began, memory.peak_bytes)
    write_results(outcomes, styles, report)
    say_summary(report)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(folder.name for folder in SHIPPED.iterdir() if folder.is_dir())
    parser.add_argument("--subject", default=names[0], choices=[*names, "all"], help="a shipped photo set")
    parser.add_argument("--photos", type=Path, help="a folder of your own, 10–20 photos of one subject")
    parser.add_argument("--kind", default="cat", choices=["cat", "dog", "person", "other"], help="what --photos shows")
    return parser.parse_args()


def chosen_subjects(arguments: argparse.Namespace) -> list[Subject]:
    if arguments.photos:
        return [Subject(arguments.photos.name, arguments.kind, _pictures_in(arguments.photos))]
    folders = sorted(SHIPPED.iterdir()) if arguments.subject == "all" else [SHIPPED / arguments.subject]
    return [Subject(folder.name, (folder / "kind.txt").read_text().strip(), _pictures_in(folder)) for folder in folders]


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp", ".heic"})


# ---- the service, as its own processes


@contextmanager
def running_service(var: Path) -> Iterator[tuple[str, Path]]:
    """``likeness up`` on a free port with a folder of its own; gone afterwards whatever happens."""
    var.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIKENESS_")}
    environment = kept | {"LIKENESS_VAR_DIR": str(var), "LIKENESS_PUBLIC_URL": url}
    with (var / "up.log").open("wb") as log:
        command = [sys.executable, "-m", "likeness.cli", "up", "--port", str(port), "--while-input-lasts"]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
    stopped = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _wait_until_ready(url, process, var)
        yield url, var
    finally:
        process.terminate()
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
        signal.signal(signal.SIGTERM, stopped)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], var: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    with console.status("starting the service …"):
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                    console.print(f"service: {url}")
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
    sys.exit(f"the service did not come up; its log: {var / 'up.log'}\n{(var / 'up.log').read_text(errors='replace')[-2000:]}")


class MemoryWatch:
    """Most memory (proportional share) that this program's children held together, looked at twice a second."""

    def __enter__(self) -> MemoryWatch:
        import threading

        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            self.peak_bytes = max(self.peak_bytes, sum(_memory_of(child) for child in psutil.Process().children(recursive=True)))


def _memory_of(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.uss)
    except psutil.Error:
        return 0


# ---- the customer


def sign_in(url: str, var: Path) -> httpx.Client:
    """Ask for a link, read it from the outbox, use it, and make an API key."""
    with httpx.Client(base_url=url, timeout=30) as browser:
        browser.post("/v1/sign-in", json={"email": EMAIL}).raise_for_status()
        token = re.search(r"/sign-in\?token=(\S+)", wait_for_mail(var, "sign-in"))
        assert token, "the mail holds no link"
        browser.post("/v1/sign-in/confirm", json={"token": token[1]}).raise_for_status()
        key = browser.post("/v1/api-keys", json={"name": "demo"}, headers={"Origin": url}).raise_for_status().json()["key"]
    console.print(f"signed in as {EMAIL} from the mail in the outbox")
    return httpx.Client(base_url=url, timeout=60, headers={"Authorization": f"Bearer {key}"})


def wait_for_mail(var: Path, words: str, within_s: float = 60) -> str:
    """The plain text of the first mail whose text holds ``words``."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        for path in (var / "outbox").rglob("*.eml"):
            body = message_from_bytes(path.read_bytes(), policy=policy.default).get_body(("plain",))
            if body and words in body.get_content():
                return str(body.get_content())
        time.sleep(0.3)
    sys.exit(f"no mail with «{words}» within {within_s:.0f} s")


def do_subject(client: httpx.Client, var: Path, subject: Subject, styles: list[dict[str, Any]]) -> Outcome:
    console.rule(f"{subject.name} ({subject.kind})")
    subject_id = create_subject(client, subject)
    upload(client, subject_id, subject.photos)
    training = check(client.post("/v1/trainings", json={"subject_id": subject_id, "seed": 0}))
    began = time.monotonic()
    training = watch(client, training["urls"]["get"], "training")
    seconds = {"photos to stored adapter": round(time.monotonic() - began, 1), **training["metrics"].get("seconds", {})}
    adapter = check(client.get(f"/v1/adapters/{training['adapter_id']}"))
    wait_for_mail(var, f"The training of {subject.name} has finished")
    console.print("the mail «your portraits can start» has arrived")
    outcome = Outcome(subject.name, adapter, seconds, photos=[_opened(path) for path in subject.photos])
    render_all(client, outcome, styles)
    weights = client.get(f"/v1/adapters/{adapter['id']}/download", follow_redirects=True).raise_for_status().content
    assert hashlib.sha256(weights).hexdigest() == adapter["sha256"], "the downloaded adapter is not the stored one"
    (OUT / _file_name("adapter.safetensors", subject.name)).write_bytes(weights)
    return outcome


def create_subject(client: httpx.Client, subject: Subject) -> str:
    consent = check(client.get("/v1/consent"))
    body = {"name": subject.name, "kind": subject.kind, "consent": True, "consent_sha256": consent["sha256"]}
    body |= {"adult": True} if subject.kind == "person" else {}  # the sample person is drawn; with photos of your own it is your statement
    return str(check(client.post("/v1/subjects", json=body))["id"])


def upload(client: httpx.Client, subject_id: str, paths: list[Path]) -> None:
    """Each file to the place that the service names, then the verdicts."""
    files = [{"filename": path.name, "size": path.stat().st_size} for path in paths]
    places = check(client.post(f"/v1/subjects/{subject_id}/uploads", json={"files": files}))["uploads"]
    for path, place in zip(paths, places, strict=True):
        send(client, path, place)
    answer = check(client.post(f"/v1/subjects/{subject_id}/photos", json={"upload_ids": [place["id"] for place in places]}))
    for photo in answer["photos"]:
        why = "; ".join(f"{reason['message']} {reason['fix']}" for reason in photo["reasons"])
        console.print(f"  {photo['filename']}: {photo['verdict']}{' — ' + why if why else ''}")
    for error in answer.get("errors", []):
        console.print(f"  [yellow]{error}[/]")


def send(client: httpx.Client, path: Path, place: dict[str, Any]) -> None:
    if place["method"] == "POST":
        httpx.post(place["url"], data=place["fields"], files={"file": (path.name, path.read_bytes())}, timeout=60).raise_for_status()
    else:
        httpx.put(place["url"], content=path.read_bytes(), headers=place["headers"], timeout=60).raise_for_status()


def watch(client: httpx.Client, address: str, name: str) -> dict[str, Any]:
    """Polls a job to its end with a bar for each stage; where nobody sees bars move, a line for each tenth."""
    deadline = time.monotonic() + JOB_WITHIN_S
    columns = (TextColumn("  {task.description:8}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    told = ""
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        line, stage = bars.add_task("waiting", total=None, note=""), "waiting"
        while time.monotonic() < deadline:
            job = check(client.get(address))
            progress = job["progress"]
            if progress.get("stage", stage) != stage:
                bars.update(line, total=1, completed=1)
                stage = progress["stage"]
                line = bars.add_task(stage, total=None, note="")
            if progress.get("total"):
                bars.update(line, total=progress["total"], completed=progress.get("step", 0), note=_note(progress))
            told = told if console.is_terminal else _tell(progress, told)
            if job["status"] in ("succeeded", "failed", "canceled"):
                bars.update(line, total=1, completed=1)
                break
            time.sleep(1)  # on two cores each look at it takes a little of the training
    if job["status"] != "succeeded":
        sys.exit(f"the {name} ended as {job['status']}: {job['error']}")
    return job


def _tell(progress: dict[str, Any], told: str) -> str:
    """Prints how far a stage is if it is a tenth further than what was told last; returns what is told now."""
    tenth = 10 * progress.get("step", 0) // progress["total"] if progress.get("total") else 0
    now = f"{progress.get('stage', 'waiting')} {tenth}"
    if now != told:
        console.print(f"  {progress.get('stage', 'waiting'):8} {_note(progress) if progress.get('total') else ''}".rstrip())
    return now


def _note(progress: dict[str, Any]) -> str:
    parts = [f"{progress.get('step', 0)}/{progress['total']}"]
    if progress.get("loss") is not None:
        parts.append(f"loss {progress['loss']:.3f}")
    if progress.get("eta_s") is not None:
        parts.append(f"{progress['eta_s']:.0f} s left")
    return " · ".join(parts)


def render_all(client: httpx.Client, outcome: Outcome, styles: list[dict[str, Any]]) -> None:
    """Every style once with the adapter and once without, from the same seed."""
    began = time.monotonic()
    asked: list[tuple[list[Image.Image], dict[str, Any], bool]] = []
    for adapter_id, pictures in ((outcome.adapter["id"], outcome.with_adapter), (None, outcome.without)):
        for style in styles:
            body = {"adapter_id": adapter_id, "style": style["name"], "seed": 7, "class_word": outcome.adapter["class_word"]}
            asked.append((pictures, check(client.post("/v1/portraits", json=body)), adapter_id is not None))
    for number, (pictures, portrait, scored) in enumerate(asked):
        done = _finished(client, portrait["urls"]["get"])
        pictures.append(Image.open(io.BytesIO(client.get(done["images"][0]["urls"]["picture"]).raise_for_status().content)).convert("RGB"))
        if scored:
            outcome.likeness_each.append(done["images"][0]["likeness"])
        console.print(f"  portrait {number + 1} of {len(asked)}", end="\r")
    outcome.seconds["a portrait"] = round((time.monotonic() - began) / len(asked), 2)
    console.print(f"  {len(asked)} portraits, {outcome.seconds['a portrait']} s each")


def _finished(client: httpx.Client, address: str) -> dict[str, Any]:
    deadline = time.monotonic() + JOB_WITHIN_S
    while time.monotonic() < deadline:
        job = check(client.get(address))
        if job["status"] in ("succeeded", "failed", "canceled"):
            break
        time.sleep(0.2)
    if job["status"] != "succeeded":
        sys.exit(f"a portrait ended as {job['status']}: {job['error']}")
    return job


def check(response: httpx.Response) -> dict[str, Any]:
    """The JSON of a good answer; otherwise what the service said is wrong, and the end."""
    if response.is_success:
        return dict(response.json())
    problem = response.json() if "json" in response.headers.get("content-type", "") else {}
    request, title = response.request, problem.get("title", response.status_code)
    sys.exit(f"{request.method} {request.url.path}: {title}\n{json.dumps(problem, indent=2)}")


# ---- what remains


def make_report(outcomes: list[Outcome], total_s: float, peak_bytes: int) -> dict[str, Any]:
    return {
        "subjects": {outcome.name: _figures(outcome) for outcome in outcomes},
        "versions": {package: version(package) for package in PACKAGES} | {"python": platform.python_version()},
        "hardware": {"processor": _processor(), "cores": os.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1)},
        "total_seconds": round(total_s, 1),
        "peak_memory_gib": round(peak_bytes / 2**30, 2),
    }


def _figures(outcome: Outcome) -> dict[str, Any]:
    scores = outcome.adapter["card"]["scores"]
    return {
        "likeness": scores["likeness"],
        "prompt_fidelity": scores["prompt_fidelity"],
        "leak_rate": scores.get("leak_rate"),
        "portraits_likeness_normalised": outcome.likeness_each,
        "seconds": outcome.seconds,
        "adapter": {
            key: outcome.adapter[key] for key in ("base_model", "rank", "alpha", "size_bytes", "sha256", "trigger_token", "class_word")
        },
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine()
    )


def write_results(outcomes: list[Outcome], styles: list[dict[str, Any]], report: dict[str, Any]) -> None:
    for outcome in outcomes:
        score = outcome.adapter["card"]["scores"]["likeness"]["normalised"]
        rows = [
            Row("with", f"adapter · likeness {score:.2f}" if score is not None else "adapter", outcome.with_adapter),
            Row("without", "adapter", outcome.without),
        ]
        title = f"{outcome.name.title()}: photos, then portraits by style"
        sheet = contact_sheet(title, outcome.photos, [style["title"] for style in styles], rows)
        sheet.save(OUT / _file_name("portraits.png", outcome.name))
        if outcome is outcomes[0]:
            sheet.save(OUT / "portraits.png")
            first = OUT / _file_name("adapter.safetensors", outcome.name)
            shutil.copyfile(first, OUT / "adapter.safetensors")
    (OUT / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")


def say_summary(report: dict[str, Any]) -> None:
    console.rule("done")
    for name, figures in report["subjects"].items():
        likeness, fidelity, seconds = figures["likeness"], figures["prompt_fidelity"], figures["seconds"]
        console.print(
            f"[bold]{name}[/]: likeness without {likeness['base']:.2f}, with {likeness['adapter']:.2f}, real photos {likeness['real']:.2f}"
        )
        console.print(
            f"  normalised {likeness['normalised']:.2f} (0 = base model, 1 = held-out photos); prompt fidelity kept {fidelity['ratio']:.2f}"
        )
        console.print(f"  photos to stored adapter {seconds['photos to stored adapter']} s, a portrait {seconds['a portrait']} s")
    console.print(f"total {report['total_seconds']} s, peak memory of the service {report['peak_memory_gib']} GiB")
    console.print(f"look at {OUT / 'portraits.png'}; then `make up` and open the site in a browser")


def _file_name(name: str, subject: str) -> str:
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{subject}{dot}{suffix}"


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


if __name__ == "__main__":
    main()
