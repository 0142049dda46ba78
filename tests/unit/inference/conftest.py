import hashlib
from functools import partial

import pytest

from core.settings import Settings
from core.words import JobKind, new_id
from diffusion import lora
from diffusion.loading import load_base
from inference.engine import Engine
from inference.state import RenderState
from storage import jobs, keys, tables
from storage.wiring import open_storage
from tests.tiny import build_tiny_flux
from tests.tiny_adapters import random_adapter
from tests.tiny_encoders import build_tiny_dino


@pytest.fixture(scope="session")
def tiny_flux(tmp_path_factory):
    return build_tiny_flux(tmp_path_factory.mktemp("base") / "flux")


@pytest.fixture(scope="session")
def base(tiny_flux):
    return load_base(tiny_flux, precision="fp32", device="cpu")


@pytest.fixture
def engine(base):
    engine = Engine(base)
    yield engine
    engine.slot.clear()


@pytest.fixture(scope="session")
def make_adapter(base):
    """Another seed is another subject."""
    return partial(random_adapter, base)


@pytest.fixture
def storage(tmp_path, tiny_flux):
    dino = build_tiny_dino(tmp_path / "world" / "dino")
    settings = Settings(
        _env_file=None, var_dir=tmp_path / "var", base_model=str(tiny_flux), identity_encoder=str(dino), device="cpu", precision="fp32"
    )
    storage = open_storage(settings)
    storage.db.create_all()
    yield storage
    storage.db.close()


@pytest.fixture
def shelf(storage, make_adapter, tmp_path):
    """Puts adapters of one account where a trainer would: rows, and files in the object store."""
    return Shelf(storage, make_adapter, tmp_path)


class Shelf:
    def __init__(self, storage, make_adapter, folder):
        self.storage, self.make_adapter, self.folder = storage, make_adapter, folder
        with storage.db.session() as session:
            session.add(tables.Account(id="acc_1", email="a@example.org"))
            session.flush()
            session.add(tables.Subject(id="sub_1", account_id="acc_1", name="Tom", kind="cat", class_word="cat"))

    def put(self, seed, card=None):
        weights = self.make_adapter(seed)
        path = lora.save(self.folder / f"{seed}.safetensors", weights.state, {})
        key = keys.adapter_weights("acc_1", weights.id)
        self.storage.objects.put(key, path)
        row = self._row(weights.id, key, path, card or {})
        with self.storage.db.session() as session:
            recipe = {"id": f"trn_{seed}", "account_id": "acc_1", "subject_id": "sub_1", "base_model": "tiny", "trigger_token": "ohwx"}
            session.add(tables.Training(**recipe))
            session.flush()
            session.add(row)
        return row

    def portrait(self, adapter, count=1, prompt="a photo of ohwx cat", style=None, **params):
        """A portrait's id and its job's id."""
        params = {"num_inference_steps": 2} | params
        with self.storage.db.session() as session:
            portrait = tables.Portrait(id=new_id("por"), account_id="acc_1", prompt=prompt, seed=11, count=count, params=params)
            portrait.adapter_id, portrait.style = adapter.id if adapter else None, style
            session.add(portrait)
            session.flush()
            job = jobs.create(session, "acc_1", JobKind.PORTRAIT, portrait.id)
            return portrait.id, job.id

    def erase(self, adapter):
        with self.storage.db.session() as session:
            session.add(tables.Tombstone(target_id=adapter.id))
            session.delete(session.get(tables.Adapter, adapter.id))

    def _row(self, adapter_id, key, path, card):
        return tables.Adapter(
            id=adapter_id,
            account_id="acc_1",
            subject_id="sub_1",
            training_id=f"trn_{path.stem}",
            object_key=key,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            size_bytes=path.stat().st_size,
            base_model="tiny",
            rank=4,
            alpha=4,
            trigger_token="ohwx",
            class_word="cat",
            card=card,
        )


@pytest.fixture
def state(storage, base):
    """What a render worker keeps."""
    state = RenderState(storage, base)
    yield state
    state.engine.slot.clear()
