"""The adapters of the subjects that are told apart: several in one pass, or by several processes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.isolation_subjects import Subject
from core.settings import Settings
from trainer.bench import Bench
from trainer.caches import CaptionedPhoto, build_cache
from trainer.captions import caption_photos
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit_together
from trainer.loading import load_bench
from trainer.member import FitOrder
from trainer.photos import from_images
from trainer.recipe import Recipe

TOGETHER = {"cuda": 4, "cpu": 10}  # on a GPU no more than are recorded as one graph: launches are what a small base waits for


def fitted(bench: Bench, subjects: Sequence[Subject], drawn: Path, folder: Path, steps: int) -> dict[Subject, Path]:
    """Adapter files, those that are in the folder already included."""
    paths = {subject: folder / f"{subject.number}.safetensors" for subject in subjects}
    missing = [subject for subject in subjects if not paths[subject].exists()]
    together = TOGETHER[bench.base.device.type]
    for start in range(0, len(missing), together):
        some = missing[start : start + together]
        with tempfile.TemporaryDirectory() as scratch:
            orders = [_order(bench, subject, drawn, Path(scratch) / str(subject.number), steps) for subject in some]
            for subject, fitting in zip(some, fit_together(bench.base, orders), strict=True):
                if fitting.error:
                    raise fitting.error
                folder.mkdir(parents=True, exist_ok=True)
                paths[subject].write_bytes(fitting.candidates[max(fitting.candidates)].read_bytes())
        print(f"{time.strftime('%H:%M:%S')} fitted {start + len(some)} of {len(missing)}", flush=True)
    return paths


def fitted_side_by_side(subjects: Sequence[Subject], drawn: Path, folder: Path, steps: int, precision: str, workers: int) -> None:
    """By processes of their own, each with a base of its own: one of them does not keep a GPU busy with a small base."""
    missing = [subject for subject in subjects if not (folder / f"{subject.number}.safetensors").exists()]
    shares = [share for n in range(workers) if (share := missing[n::workers])]
    if not shares:
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for done in [pool.submit(_share, share, drawn, folder, steps, precision) for share in shares]:
            done.result()


def _share(subjects: Sequence[Subject], drawn: Path, folder: Path, steps: int, precision: str) -> None:
    fitted(load_bench(Settings(precision=precision)), subjects, drawn, folder, steps)


def _order(bench: Bench, subject: Subject, drawn: Path, folder: Path, steps: int) -> FitOrder:
    photos = from_images(subject.photos(drawn))
    captions = caption_photos(photos, subject.words, bench.text_image)
    captioned = [CaptionedPhoto(photo.key, photo.image, caption) for photo, caption in zip(photos, captions, strict=True)]
    recipe = Recipe.for_run(len(photos), bench.base, {"steps": steps, "candidates": (1.0,)} if steps else {"candidates": (1.0,)})
    return FitOrder(build_cache(bench.base, captioned, recipe.resolution), recipe, CheckpointFolder(folder, {}), seed=subject.number)
