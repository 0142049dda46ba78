from pathlib import Path

import pytest

from diffusion.loading import BaseModel, load_base
from tests.tiny import build_tiny_flux


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_flux(tmp_path_factory.mktemp("tiny") / "flux")


@pytest.fixture(scope="session")
def base(tiny_folder: Path) -> BaseModel:
    return load_base(tiny_folder, precision="fp32", device="cpu")
