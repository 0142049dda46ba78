"""A job that comes while the worker still warms up, each in a fresh interpreter: transformers imported by two threads at once breaks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import build_tiny_flux
from tests.tiny_encoders import build_tiny_clip, build_tiny_dino

PROGRAM = """
import sys
from core.settings import Settings
settings = Settings(_env_file=None, var_dir=sys.argv[1], base_model=sys.argv[2], identity_encoder=sys.argv[3],
    text_image_encoder=sys.argv[4], broker_url="redis://localhost:1", min_photos=8, training_steps=2, secret_key="x" * 32)
from storage.wiring import open_storage
from tests.integration.trainer import first_job
storage = open_storage(settings)
storage.db.create_all()
job_id = first_job.order(storage, sys.argv[5])
assert "torch" not in sys.modules
print(first_job.race(settings, storage, job_id, sys.argv[5]))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    home = tmp_path_factory.mktemp("models")
    made = [build_tiny_flux(home / "flux"), build_tiny_dino(home / "dino"), build_tiny_clip(home / "clip")]
    return [str(path) for path in made]


@pytest.mark.parametrize("kind", ["training", "portrait"])
def test_a_job_that_arrives_during_the_warm_up_succeeds(kind: str, folders: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "var"), *folders, kind]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert ran.stdout.strip().endswith("succeeded"), ran.stdout[-2000:] + ran.stderr[-2000:]
