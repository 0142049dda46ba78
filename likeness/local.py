"""Commands that work on files, without a server: train, render, evaluate. The same rooms as the workers use."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from core.errors import UserError
from core.settings import Settings
from core.styles import find_style
from core.words import CLASS_WORDS, SubjectKind, new_id
from inference.engine import Engine
from inference.requests import RenderRequest
from inference.slot import read_adapter
from lab.evaluate import evaluate_subject
from lab.report import sheet_of, subjects_table
from metrics.photo_files import PhotoLimits, PhotoRefused, open_upload
from storage.trigger import new_trigger_token
from trainer.captions import SubjectWords
from trainer.loading import load_bench
from trainer.pipeline import train_on_photos
from trainer.recipe import Recipe
from trainer.world import World

console = Console(highlight=False)
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif"}


class ShownProgress:
    """A line for the stage at work: its name, a bar, the loss and the seconds left."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:10}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console)
        self.line: Any = None
        self.stage = ""

    def __enter__(self) -> ShownProgress:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, snapshot: dict[str, Any]) -> None:
        if snapshot["stage"] != self.stage:
            self.stage = snapshot["stage"]
            self.line = self.progress.add_task(self.stage, total=None, note="")
        if "total" in snapshot:
            self.progress.update(self.line, completed=snapshot["step"], total=snapshot["total"], note=note_of(snapshot))


def note_of(snapshot: dict[str, Any]) -> str:
    """«120/240 · loss 0.21 · 35 s left»"""
    parts = [f"{snapshot['step']}/{snapshot['total']}"]
    if snapshot.get("loss") is not None:
        parts.append(f"loss {snapshot['loss']:.3f}")
    if snapshot.get("eta_s") is not None:
        parts.append(f"{snapshot['eta_s']:.0f} s left")
    return " · ".join(parts)


def read_photos(settings: Settings, folder: Path) -> list[Any]:
    """Pictures of a folder, opened as uploads are; one that cannot be opened is named and left out."""
    pictures = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES):
        try:
            _, picture = open_upload(
                path.read_bytes(), PhotoLimits(settings.max_photo_pixels, settings.training_max_side, settings.photo_side_floor)
            )
            pictures.append(picture)
        except PhotoRefused as error:
            console.print(f"[yellow]{path.name}: {error} {error.reason.fix}[/]")
    if not pictures:
        raise UserError("photos/none", "No photos found", f"{folder} holds no usable {', '.join(sorted(PHOTO_SUFFIXES))}.")
    return pictures


def train_folder(settings: Settings, photos: Path, out: Path, kind: str, class_word: str, seed: int, overrides: Mapping[str, Any]) -> None:
    """``overrides``: of the recipe."""
    pictures = read_photos(settings, photos)
    if not settings.min_photos <= len(pictures) <= settings.max_photos:
        wanted = f"{settings.min_photos} to {settings.max_photos}"
        raise UserError("photos/count", f"{len(pictures)} usable photos", f"Between {wanted} are needed.")
    bench = load_bench(settings)
    recipe = Recipe.for_run(len(pictures), bench.base, overrides)
    world = World.open(bench.base)  # of one, or of those that accelerate launch started
    words = SubjectWords(world.agreed(new_trigger_token()), class_word or CLASS_WORDS[SubjectKind(kind)])
    console.quiet = not world.main
    with ShownProgress() as shown:
        trained = train_on_photos(bench, pictures, kind, words, recipe, out, shown, seed=seed, base_name=settings.base_model)
    console.print_json(json.dumps(trained.card["scores"]))
    console.print(f"adapter: {trained.path}  trigger: {words.in_training}")


def render_files(settings: Settings, out: Path, adapter: Path | None, style: str | None, prompt: str | None, count: int, seed: int) -> None:
    if (style is None) == (prompt is None):
        raise UserError("portrait/style-or-prompt", "Give either --style or --prompt")
    bench = load_bench(settings)
    card = json.loads(adapter.with_name("card.json").read_text(encoding="utf-8")) if adapter else None
    subject = f"{card['trigger_token']} {card['class_word']}" if card else "a subject"
    chosen = find_style(settings, style) if style else None
    text = chosen.prompt_for(subject) if chosen else str(prompt).replace("{subject}", subject)
    loaded = read_adapter(bench.base, adapter, str(adapter)) if adapter else None
    out.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(Engine(bench.base).render(RenderRequest(text, seed, count), loaded)):
        path = out / f"{(style or 'prompt')}-{seed + number}.png"
        image.save(path)
        console.print(str(path))


def evaluate_folder(settings: Settings, photos: Path, kind: str, seeds: int, json_file: Path | None) -> None:
    """Figures to the terminal and, if asked, everything to a JSON file with the contact sheet beside it."""
    pictures = read_photos(settings, photos)
    bench = load_bench(settings)
    with tempfile.TemporaryDirectory(prefix=new_id("evaluate")) as folder, ShownProgress() as shown:
        evaluation = evaluate_subject(bench, pictures, kind, Path(folder), seeds=range(seeds), on_progress=shown)
    console.print(subjects_table({photos.name: evaluation.report}))
    if json_file:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(evaluation.report, indent=2), encoding="utf-8")
        sheet = json_file.with_suffix(".png")
        sheet_of(evaluation, photos.name).save(sheet)
        console.print(f"{json_file} and {sheet}")
