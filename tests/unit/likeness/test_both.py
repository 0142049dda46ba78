"""Training and rendering in one process, on one base model."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from core.settings import Settings
from core.words import JobKind, new_id
from diffusion.loading import load_base
from diffusion.lora_slots import LoraSlots
from diffusion.sharing import stepped_aside
from inference.engine import Engine
from inference.requests import RenderRequest
from likeness.both import SharedChild
from storage import jobs, tables
from storage.wiring import open_storage
from tests.tiny import build_tiny_flux
from tests.tiny_adapters import random_adapter
from tests.tiny_encoders import build_tiny_clip, build_tiny_dino
from tests.unit.trainer.conftest import stripes
from tests.unit.trainer.test_jobs import order
from trainer.caches import CaptionedPhoto, build_cache
from trainer.checkpoints import CheckpointFolder
from trainer.fit import fit
from trainer.recipe import Recipe

REQUEST = RenderRequest("a photo of a cat", seed=7, num_inference_steps=2)
RECIPE = {"steps": 6, "checkpoint_every": 3, "caption_dropout": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_flux(tmp_path_factory.mktemp("tiny") / "flux")


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def base(folder, request):
    return load_base(folder, precision=request.param, device="cpu")


@pytest.fixture
def cache(base):
    photos = [CaptionedPhoto(f"{n:064x}", stripes(n), f"a photo of zokzex cat, number {n}") for n in range(5)]
    return build_cache(base, photos, base.resolution)


def trained(base, cache, folder, guest=lambda: None):
    """What a fit leaves: adapters, averages and optimizer states, by file and name."""
    recipe = Recipe.for_run(len(cache), base, RECIPE)
    fit(base, cache, recipe, CheckpointFolder(folder, {"seed": 3}), seed=3, on_step=lambda report: guest())
    return {f"{path.name}: {name}": tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def pixels(images):
    return np.stack([np.asarray(image) for image in images])


def test_a_training_between_whose_steps_portraits_are_drawn_ends_bit_for_bit_the_same(base, cache, tmp_path):
    engine, drawn = Engine(base), []
    expected = [pixels(engine.render(REQUEST, random_adapter(base, 1))), pixels(engine.render(REQUEST, style=random_adapter(base, 2)))]
    alone = trained(base, cache, tmp_path / "alone")

    def portrait():
        with stepped_aside(base):
            torch.manual_seed(99), np.random.seed(99), random.seed(99)
            drawn.append(pixels(engine.render(REQUEST, random_adapter(base, 1))))
            drawn.append(pixels(engine.render(REQUEST, style=random_adapter(base, 2))))

    shared = trained(base, cache, tmp_path / "shared", portrait)
    assert len(alone) > 50 and alone.keys() == shared.keys()
    assert [name for name in alone if not torch.equal(alone[name], shared[name])] == []
    assert len(drawn) == 2 * RECIPE["steps"]
    assert all(np.array_equal(picture, expected[n % 2]) for n, picture in enumerate(drawn))


def test_slots_modes_forward_and_randomness_are_back_afterwards(base):
    transformer = base.transformer
    slots = LoraSlots(transformer, base.family.lora_spec("blocks", rank=2, alpha=2), count=2, dtype=base.dtype)
    slots.start(1, seed=5)
    modules, weights = dict(transformer.named_modules()), slots.weights.clone()
    transformer.train()
    transformer.forward = patched = transformer.forward
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), stepped_aside(base):
        assert not any("lora" in name for name, _ in transformer.named_parameters())
        assert "forward" not in vars(transformer)
        torch.rand(3)
        transformer.eval()
        raise ZeroDivisionError
    assert dict(transformer.named_modules()) == modules
    assert torch.equal(slots.weights, weights)
    assert transformer.training and transformer.forward is patched
    assert torch.equal(torch.get_rng_state(), before)
    transformer.__dict__.pop("forward")
    transformer.eval()
    slots.remove()


@pytest.fixture
def storage(tmp_path, folder):
    dino, clip = build_tiny_dino(tmp_path / "dino"), build_tiny_clip(tmp_path / "clip")
    models = {
        "device": "cpu",
        "precision": "fp32",
        "base_model": str(folder),
        "identity_encoder": str(dino),
        "text_image_encoder": str(clip),
    }
    settings = Settings(_env_file=None, var_dir=tmp_path / "var", secret_key="x" * 32, min_photos=8, **models)
    storage = open_storage(settings)
    storage.db.create_all()
    yield storage
    storage.db.close()


def portrait(storage, account_id):
    """A waiting portrait of the bare base; its job's id."""
    with storage.db.session() as session:
        row = tables.Portrait(id=new_id("por"), account_id=account_id, prompt="a cat", seed=1, count=1, params={"num_inference_steps": 1})
        session.add(row)
        session.flush()
        return jobs.create(session, account_id, JobKind.PORTRAIT, row.id).id


def job(storage, job_id):
    with storage.db.reader() as session:
        return session.get(tables.Job, job_id)


def test_portraits_that_wait_are_drawn_while_the_training_goes_on_one_a_step(storage):
    child = SharedChild(storage.settings)
    training, training_job = order(storage)
    waiting = [portrait(storage, training.account_id) for _ in range(3)]
    seen = []
    serve = child.serve_waiting

    def counted():
        serve()
        seen.append([job(storage, job_id).state for job_id in waiting].count("succeeded"))

    child.trainer.guest = counted
    assert child.run_training(training_job.id) == "succeeded"
    assert seen[:4] == [1, 2, 3, 3]
    assert all(job(storage, job_id).completed_at < job(storage, training_job.id).completed_at for job_id in waiting)
    assert child.run_portrait(waiting[0]) == "stepped back"
    assert child.run_portrait(portrait(storage, training.account_id)) == "succeeded"


def test_a_portrait_that_fails_does_not_fail_the_training(storage):
    child = SharedChild(storage.settings)
    training, training_job = order(storage)
    bad = portrait(storage, training.account_id)
    with storage.db.session() as session:
        session.get(tables.Portrait, session.get(tables.Job, bad).target_id).params = {"mode": "no such mode"}
    assert child.run_training(training_job.id) == "succeeded"
    assert job(storage, bad).state == "failed"


def test_the_parent_of_a_shared_worker_never_imports_torch(tmp_path):
    code = (
        "import sys; from core.settings import Settings; from likeness.workers import app_for;"
        f"app_for('both', Settings(_env_file=None, var_dir={str(tmp_path)!r}, broker_url='redis://localhost:1/0'));"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
