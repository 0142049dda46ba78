"""Switching adapters: from each tier of the cache to the moment when the next step would use it; and a thousand switches in a row."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import render_adapters
from benchmarks.measuring import Book, held_gib, peak_gib, wait
from benchmarks.object_stores import BUCKET, RANGES, client_installed, loopback_store, ranged_store
from core.settings import Settings
from diffusion import compiled
from inference.adapters import AdapterCache
from inference.engine import Engine
from inference.loaded import LoadedAdapter
from inference.reading import read_adapter
from inference.requests import RenderRequest
from storage import tables
from storage.database import Database
from storage.wiring import Storage

TIERS = ("gpu", "ram", "disk", "store")
ADAPTERS = 3


def switches(book: Book, engine: Engine, steps: int) -> None:
    """Three adapters in turns, so that none is in its slot when its turn comes: as trainings make them, then with all layers."""
    for target_set in ("image", "blocks"):
        _switches(book, engine, steps, target_set)


def _switches(book: Book, engine: Engine, steps: int, target_set: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with loopback_store(folder / "objects") as (store, kind), open_storage_of(folder, store) as storage:
            files = [
                render_adapters.write(engine, seed, folder / "objects" / f"{seed}.safetensors", target_set) for seed in range(ADAPTERS)
            ]
            rows = [shelve(storage, seed, file) for seed, file in enumerate(files)]
            for tier in TIERS if engine.base.device.type == "cuda" else TIERS[1:]:
                _measure(book, engine, storage, rows, tier, steps, kind if tier == "store" else tier)
        if client_installed():
            _from_ranges(book, engine, steps, folder, files)


def _from_ranges(book: Book, engine: Engine, steps: int, folder: Path, files: list[Path]) -> None:
    """The same client before a server that is not moto."""
    bucket = folder / "buckets" / BUCKET
    bucket.mkdir(parents=True)
    files = [file.rename(bucket / file.name) for file in files]
    with ranged_store(bucket.parent) as store, open_storage_of(folder / "ranged", store) as storage:
        rows = [shelve(storage, seed, file) for seed, file in enumerate(files)]
        _measure(book, engine, storage, rows, "store", steps, RANGES)


def _measure(book: Book, engine: Engine, storage: Storage, rows: list[tables.Adapter], tier: str, steps: int, named: str) -> None:
    """``named``: what the row calls the tier."""
    near = partial(LoadedAdapter.moved, device=engine.base.device) if engine.base.device.type == "cuda" and tier == "gpu" else None
    cache = AdapterCache(storage, partial(read_adapter, engine.base), near)
    for row in rows:
        cache.ensure(row)
    turn, fetching = 0, []

    def switch() -> None:
        nonlocal turn
        row, turn = rows[turn % ADAPTERS], turn + 1
        began = time.perf_counter()
        loaded, found = cache.ensure(row)
        fetching.append(time.perf_counter() - began)
        assert found == tier, found
        engine.put_on(loaded, steps)

    def colder() -> None:
        for row in rows:
            if tier in ("disk", "store"):
                cache._ram.drop(row.id)
            if tier == "store":
                cache.disk.drop(row.id)

    def once() -> None:
        colder()
        began = time.perf_counter()
        switch()
        wait(engine.base.device)
        seconds.append(time.perf_counter() - began)

    seconds: list[float] = []
    once()
    seconds.clear()
    fetching.clear()
    for _ in range(6):
        once()
    seconds.sort()
    figures = {"s": round(seconds[3], 4), "least_s": round(seconds[0], 4), "most_s": round(seconds[-1], 4), "takes": 6}
    size = round(rows[0].size_bytes / 1e6)
    folded = bool(engine.slot.merging and engine.slot.merging.folded)
    book.add(f"switch from {named}", **figures, fetch_s=round(sorted(fetching)[3], 4), adapter_mb=size, folded=folded)


def thousand(book: Book, engine: Engine, count: int, side: int, steps: int) -> None:
    """``count`` portraits, each with another adapter; then some of them again, in another order and each right after a stranger."""
    request = RenderRequest("a portrait", seed=5, width=side, height=side, num_inference_steps=steps)

    def draw(number: int) -> str:
        adapter = render_adapters.random_adapter(engine, number, engine.base.device)
        (picture,) = engine.render(request, adapter)
        return hashlib.sha256(picture.tobytes()).hexdigest()

    digests = [draw(0), draw(1)]
    graphs, held = compiled.graph_count(), held_gib(engine.base.device)
    began = time.perf_counter()
    digests += [draw(number) for number in range(2, count)]
    seconds = time.perf_counter() - began
    again = list(range(0, count, max(1, count // 25)))[::-1]
    wrong = sum(draw(number) != digests[number] for number in again) + (count - len(set(digests)))
    figures = {"s": round(seconds, 1), "each_s": round(seconds / max(1, count - 2), 4), "side": side, "steps": steps}
    after = {"held_before_gib": held, "held_after_gib": held_gib(engine.base.device), "peak_gib": peak_gib(engine.base.device)}
    counted = {"recompiles": compiled.graph_count() - graphs, "wrong": wrong, "drawn_again": len(again)}
    book.add(f"{count} portraits over {count} adapters", **figures, **after, **counted, precision=engine.base.precision.name)


@contextmanager
def open_storage_of(folder: Path, store: Any, few: int = 8 * 2**30) -> Iterator[Storage]:
    """A database in ``folder`` with one customer, over any object store; ``few``: bytes that the RAM tier may hold."""
    settings = Settings(_env_file=None, var_dir=folder, adapter_cache_bytes=few, adapter_gpu_bytes=8 * 2**30)
    folder.mkdir(parents=True, exist_ok=True)
    db = Database(settings.database)
    db.create_all()
    with db.session() as session:
        session.add(tables.Account(id="acc", email="a@example.org"))
        session.flush()
        session.add(tables.Subject(id="sub", account_id="acc", name="x", kind="person", class_word="person"))
    try:
        yield Storage(db, store, settings)
    finally:
        db.close()


def shelve(storage: Storage, number: int, path: Path) -> tables.Adapter:
    """A row for a file that the object store has, or is given now."""
    about = {"account_id": "acc", "subject_id": "sub", "base_model": "true size", "trigger_token": "ohwx"}
    row = tables.Adapter(
        id=f"ada_{number}", training_id=f"trn_{number}", object_key=path.name, rank=32, alpha=32, class_word="person", **about
    )
    row.sha256, row.size_bytes = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size
    if hasattr(storage.objects, "put"):
        storage.objects.put(path.name, path)
    with storage.db.session() as session:
        session.add(tables.Training(id=f"trn_{number}", **about))
        session.flush()
        session.add(row)
    return row
