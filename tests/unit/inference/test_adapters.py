import hashlib
import os
import threading

import pytest
import torch

from core.errors import JobFailed, ServiceDown, UserError
from diffusion import lora
from inference import digests, loaded
from inference.adapters import AdapterCache
from inference.slot import read_adapter
from storage import tables


class Reader:
    """Reads adapter files as the worker does, and counts."""

    def __init__(self, base):
        self.base, self.reads = base, 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, path, adapter_id):
        self.reads += 1
        assert self.gate.wait(10)
        return read_adapter(self.base, path, adapter_id)


@pytest.fixture
def reader(base):
    return Reader(base)


@pytest.fixture
def cache(storage, reader):
    return AdapterCache(storage, reader)


def test_store_then_ram_then_disk(storage, cache, reader, shelf, make_adapter):
    row = shelf.put(1)
    loaded, tier = cache.ensure(row)
    assert tier == "store"
    assert all(torch.equal(loaded.state[key], weight) for key, weight in make_adapter(1).state.items())
    assert cache.ensure(row)[1] == "ram"
    assert AdapterCache(storage, reader).ensure(row)[1] == "disk"
    assert reader.reads == 2


def test_requests_at_the_same_time_load_once(cache, reader, shelf):
    row = shelf.put(1)
    reader.gate.clear()
    tiers = []
    threads = [threading.Thread(target=lambda: tiers.append(cache.ensure(row)[1])) for _ in range(4)]
    for thread in threads:
        thread.start()
    reader.gate.set()
    for thread in threads:
        thread.join(10)
    assert sorted(tiers) == ["ram", "ram", "ram", "store"]
    assert reader.reads == 1


def test_ram_and_disk_stay_within_their_bytes(storage, reader, shelf, make_adapter):
    rows = [shelf.put(seed) for seed in (1, 2, 3)]
    storage.settings.adapter_cache_bytes = int(2.5 * make_adapter(1).nbytes)
    storage.settings.adapter_disk_bytes = int(2.5 * rows[0].size_bytes)
    cache = AdapterCache(storage, reader)
    tiers = [cache.ensure(rows[n])[1] for n in (0, 1, 0, 2, 0, 1)]
    # the first is used again before the third comes, so RAM gives up the second; the disk saw the first only once and gave up that
    assert tiers == ["store", "store", "ram", "store", "ram", "disk"]
    assert set(cache.disk.ids()) == {rows[1].id, rows[2].id}


def test_a_file_that_another_process_takes_away_before_it_is_read_is_fetched_again(storage, cache, shelf, monkeypatch):
    row, download = shelf.put(1), storage.objects.download
    taken = []

    def taken_once(key, path):
        download(key, path)
        if not taken:
            taken.append(path.unlink())

    monkeypatch.setattr(storage.objects, "download", taken_once)
    assert cache.ensure(row)[1] == "store"
    assert taken == [None]


def test_a_disk_that_keeps_nothing_is_our_fault_and_not_the_adapters(storage, cache, shelf, monkeypatch):
    row = shelf.put(1)
    monkeypatch.setattr(storage.objects, "download", lambda key, path: None)
    with pytest.raises(ServiceDown, match="no room"):
        cache.ensure(row)


def test_a_download_that_a_killed_process_left_is_swept(cache, shelf):
    cache.ensure(shelf.put(1))
    left = cache.disk.folder / ".part-x"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    cache.sweep()
    assert not left.exists()


def test_a_damaged_cache_file_is_fetched_again(storage, cache, reader, shelf):
    row = shelf.put(1)
    cache.ensure(row)
    cache.disk.path(row.id).write_bytes(b"half a file")
    assert AdapterCache(storage, reader).ensure(row)[1] == "store"


def test_a_file_that_was_whole_once_is_checked_again_each_time(storage, cache, reader, shelf, monkeypatch):
    """By its pieces from the second time on: one value is another, and the file reads well."""
    monkeypatch.setattr(digests, "PIECE_BYTES", 4 * digests.CHUNK_BYTES)
    row = shelf.put(1)
    cache.ensure(row)
    path = cache.disk.path(row.id)
    cache._ram.drop(row.id)
    assert cache.ensure(row)[1] == "disk"
    cache._ram.drop(row.id)
    altered = bytearray(path.read_bytes())
    altered[-2] ^= 1
    path.write_bytes(altered)
    assert cache.ensure(row)[1] == "store"
    cache._ram.drop(row.id)
    path.write_bytes(path.read_bytes() + b"more")
    assert cache.ensure(row)[1] == "store"


def test_digests_of_pieces_see_a_change_in_any_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "PIECE_BYTES", 2 * digests.CHUNK_BYTES)
    path = tmp_path / "file"
    path.write_bytes(os.urandom(7 * digests.CHUNK_BYTES + 5))
    name, checked = hashlib.sha256(path.read_bytes()).hexdigest(), digests.Digests(threads=2)
    assert not checked.start(path, "0" * 64)()
    assert [checked.start(path, name)() for _ in range(2)] == [True, True]
    whole = path.read_bytes()
    for place in (0, 3 * digests.CHUNK_BYTES, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not checked.start(path, name)()
    for other in (whole[:-1], whole + b"x", b""):
        path.write_bytes(other)
        assert not checked.start(path, name)()
    path.write_bytes(whole)
    assert checked.start(path, name)()


@pytest.mark.parametrize("piece_bytes", [2**24, 4096, 64])
def test_a_file_is_read_where_it_will_lie(base, make_adapter, tmp_path, monkeypatch, piece_bytes):
    """Same weights as through the general way, which a file in float32, or with alphas of its own, takes."""
    monkeypatch.setattr(loaded, "PIECE_BYTES", piece_bytes)
    state = {key: weight.to(base.dtype) for key, weight in make_adapter(1).state.items()}
    general, _ = lora.read(lora.save(tmp_path / "a.safetensors", state, {}), base.transformer)
    monkeypatch.setattr(lora, "read", None)
    found = read_adapter(base, tmp_path / "a.safetensors", "a")
    assert found.state.keys() == general.keys() and all(same_weights(found.state, general))
    assert {weight.untyped_storage().data_ptr() for weight in found.state.values()} == {
        piece.untyped_storage().data_ptr() for piece in found.pieces
    }
    assert sum(piece.nbytes for piece in found.pieces) == found.nbytes


def test_files_in_other_forms_give_the_same_adapter(base, make_adapter, tmp_path):
    state = make_adapter(1).state
    alpha = {key.replace("lora_A.weight", "alpha"): torch.tensor(8.0) for key in state if ".lora_A." in key}
    halved = {key: weight * (weight.shape[1] / 8.0 if ".lora_B." in key else 1) for key, weight in state.items()}
    text = {"text_encoder.x.lora_A.weight": torch.zeros(2, 2)}
    other = torch.float16 if base.dtype != torch.float16 else torch.float32
    for number, form in enumerate((halved | alpha, state | text, {key: weight.to(other) for key, weight in state.items()})):
        found = read_adapter(base, lora.save(tmp_path / f"{number}.safetensors", form, {}), "other")
        assert found.state.keys() == state.keys()
        assert all(torch.allclose(found.state[key], weight.to(base.dtype), atol=1e-3) for key, weight in state.items())


@pytest.mark.parametrize(("left", "reason"), [(-2, "ends too early"), (None, "cannot be read")])
def test_a_file_that_shrinks_or_goes_while_it_is_read_is_refused(base, make_adapter, tmp_path, monkeypatch, left, reason):
    state = {key: weight.to(base.dtype) for key, weight in make_adapter(1).state.items()}
    path, outline = lora.save(tmp_path / "a.safetensors", state, {}), lora.outline

    def then_cut(path):
        found = outline(path)
        whole = path.read_bytes()
        path.unlink()
        if left:
            path.write_bytes(whole[:left])
        return found

    monkeypatch.setattr(lora, "outline", then_cut)
    with pytest.raises(UserError, match=reason):
        read_adapter(base, path, "cut")


def test_a_damaged_stored_file_fails_with_its_reason_and_leaves_nothing(storage, cache, shelf):
    row = shelf.put(1)
    storage.objects.put(row.object_key, b"something else")
    with pytest.raises(JobFailed, match="damaged"):
        cache.ensure(row)
    assert cache.disk.ids() == []


def test_a_foreign_file_is_refused_before_it_reaches_the_model(storage, cache, shelf, tmp_path, base):
    row = shelf.put(1)
    state = {"transformer.proj_out.lora_A.weight": torch.zeros(4, 16), "transformer.proj_out.lora_B.weight": torch.zeros(16, 4)}
    path = lora.save(tmp_path / "foreign.safetensors", state, {})
    row.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    storage.objects.put(row.object_key, path)
    with pytest.raises(UserError, match="refused"):
        cache.ensure(row)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_enough_to_refuse_a_file(base, make_adapter, tmp_path, value):
    state = {key: weight.clone() for key, weight in make_adapter(1).state.items()}
    list(state.values())[-1].view(-1)[3] = value
    with pytest.raises(UserError, match="not finite"):
        read_adapter(base, lora.save(tmp_path / "spoiled.safetensors", state, {}), "spoiled")


def test_an_erased_adapter_is_refused_although_it_is_cached_everywhere(cache, shelf):
    row = shelf.put(1)
    cache.ensure(row)
    shelf.erase(row)
    with pytest.raises(JobFailed, match="erased"):
        cache.ensure(row)
    assert cache.disk.ids() == []
    assert cache.sweep() == set()


def test_an_erasure_during_the_load_is_seen(cache, reader, shelf):
    row = shelf.put(1)
    reader.gate.clear()
    failures = []

    def ensure():
        try:
            cache.ensure(row)
        except JobFailed as error:
            failures.append(str(error))

    thread = threading.Thread(target=ensure)
    thread.start()
    shelf.erase(row)
    reader.gate.set()
    thread.join(10)
    assert "erased" in failures[0]
    assert cache.disk.ids() == []


def test_an_object_that_is_gone_means_erased(storage, cache, shelf):
    row = shelf.put(1)
    storage.objects.erase([row.object_key])
    with pytest.raises(JobFailed, match="erased"):
        cache.ensure(row)


def test_the_sweep_finds_what_was_erased_and_keeps_the_rest(cache, shelf):
    gone, kept = shelf.put(1), shelf.put(2)
    for row in (gone, kept):
        cache.ensure(row)
    shelf.erase(gone)
    assert cache.sweep() == {gone.id}
    assert cache.disk.ids() == [kept.id]
    assert cache.ensure(kept)[1] == "ram"


def test_the_sweep_needs_no_tombstone(storage, cache, shelf):
    row = shelf.put(1)
    cache.ensure(row)
    with storage.db.session() as session:
        session.delete(session.get(tables.Adapter, row.id))
    assert cache.sweep() == {row.id}


def test_an_adapter_evicted_here_but_held_elsewhere_is_swept_too(cache, shelf):
    gone, kept = shelf.put(1), shelf.put(2)
    shelf.erase(gone)
    assert cache.sweep(also=[gone.id, kept.id]) == {gone.id}


def test_the_gpu_tier_is_asked_first_and_stays_within_its_bytes(storage, reader, shelf, make_adapter):
    """A CPU stands for the GPU: what counts here is who is asked, what is kept, and that erasure reaches it."""
    rows = [shelf.put(seed) for seed in (1, 2, 3)]
    storage.settings.adapter_gpu_bytes = int(2.5 * make_adapter(1).nbytes)
    brought = []

    def near(loaded):
        brought.append(loaded.id)
        return loaded.packed(torch.float32)

    cache = AdapterCache(storage, reader, near)
    assert [cache.ensure(rows[n])[1] for n in (0, 0, 1, 2, 0, 2)] == ["store", "gpu", "store", "store", "ram", "gpu"]
    assert brought == [rows[n].id for n in (0, 1, 2, 0)]
    shelf.erase(rows[2])
    with pytest.raises(JobFailed, match="erased"):
        cache.ensure(rows[2])
    assert cache.sweep() == set()


@pytest.mark.parametrize(("piece_bytes", "several"), [(2**24, False), (4096, True), (64, True)])
def test_an_adapter_is_packed_into_few_buffers(make_adapter, monkeypatch, piece_bytes, several):
    """The last is smaller than any matrix: each is alone."""
    monkeypatch.setattr(loaded, "PIECE_BYTES", piece_bytes)
    adapter = make_adapter(1, dtype=torch.bfloat16)
    packed = adapter.packed(torch.bfloat16)
    assert (len(packed.pieces) > 1) == several
    assert all(piece.nbytes <= max(piece_bytes, *(weight.nbytes for weight in adapter.state.values())) for piece in packed.pieces)
    assert sum(piece.nbytes for piece in packed.pieces) == packed.nbytes
    assert list(packed.state) == list(adapter.state) and all(same_weights(packed.state, adapter.state))
    assert {weight.untyped_storage().data_ptr() for weight in packed.state.values()} == {
        piece.untyped_storage().data_ptr() for piece in packed.pieces
    }
    assert all(same_weights(packed.views_of([piece.clone() for piece in packed.pieces]), adapter.state))


def same_weights(one, other):
    return [torch.equal(one[key], weight) for key, weight in other.items()]
