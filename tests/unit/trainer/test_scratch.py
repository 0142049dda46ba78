import fcntl
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer.scratch import scratch

WORKER = """
import sys, time
from pathlib import Path
from trainer.scratch import scratch
with scratch(Path(sys.argv[1]), sys.argv[2]) as folder:
    (folder / "state").write_bytes(b"kept")
    print("working", flush=True)
    time.sleep(60)
"""


@contextmanager
def worker(home: Path, attempt: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that works on an attempt."""
    command = [sys.executable, "-c", WORKER, str(home), attempt]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_nothing_stays_whatever_happened(tmp_path: Path) -> None:
    try:
        with scratch(tmp_path, "trn_1-1") as folder:
            (folder / "state").touch()
            raise ValueError
    except ValueError:
        assert list(tmp_path.iterdir()) == []


def test_a_late_worker_clears_away_its_own_and_not_its_successors(tmp_path: Path) -> None:
    with scratch(tmp_path, "trn_1-1") as late:
        with scratch(tmp_path, "trn_1-2") as successor:
            (successor / "candidate").touch()
            shutil.rmtree(late)
        assert not successor.exists()
    with scratch(tmp_path, "trn_1-2") as successor:
        (successor / "candidate").touch()
        with scratch(tmp_path, "trn_1-1"):
            pass
        assert (successor / "candidate").exists()


def test_what_a_killed_worker_left_goes_with_the_next_attempt(tmp_path: Path) -> None:
    with worker(tmp_path, "trn_1-1") as process:
        process.kill()
        process.wait()
        assert (tmp_path / "trn_1-1" / "state").exists()
        with scratch(tmp_path, "trn_2-1") as folder:
            assert {path.name for path in tmp_path.iterdir()} == {"trn_2-1", "trn_2-1.lock"} and folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_only_paused_keeps_what_it_has(tmp_path: Path) -> None:
    with worker(tmp_path, "trn_1-1") as process:
        process.send_signal(signal.SIGSTOP)
        with scratch(tmp_path, "trn_2-1"):
            assert (tmp_path / "trn_1-1" / "state").read_bytes() == b"kept"
        process.send_signal(signal.SIGCONT)


def test_a_lock_that_was_cleared_away_while_it_was_waited_for_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the making of the file and its lock another worker, which clears killed ones away, had it."""
    flock, cleared = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        if not cleared:
            cleared.append(True)
            (tmp_path / "trn_1-1.lock").unlink()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with scratch(tmp_path, "trn_1-1") as folder:
        with scratch(tmp_path, "trn_2-1"):
            pass
        assert folder.exists(), "its lock was to be found"
    assert cleared and list(tmp_path.iterdir()) == []
