import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from core.limits import free_main_memory, usable_cores

GIB = 2**30
Write = Callable[[str, dict[str, str]], tuple[Path, Path]]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Control groups of a machine of 16 cores with 64 GiB free: their folder and the process's own list, from texts by path."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))

    def write(own: str, texts: dict[str, str]) -> tuple[Path, Path]:
        (tmp_path / "own").write_text(own)
        for name, text in texts.items():
            file = tmp_path / "groups" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path / "groups", tmp_path / "own"

    return write


@pytest.mark.parametrize(
    ("own", "texts", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 16),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/host/only\n", {"cpu.max": "400000 100000\n"}, 4),
        (
            "9:pids:/\n4:cpu,cpuacct:/a\n",
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "50000\n"},
            5,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ("3:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000\n", "cpuset/cpu.cfs_period_us": "100000\n"}, 16),
        ("", {}, 16),
    ],
)
def test_a_containers_share_of_the_cores_counts(groups: Write, own: str, texts: dict[str, str], cores: int) -> None:
    assert usable_cores(*groups(own, texts)) == cores


@pytest.mark.parametrize(
    ("own", "texts", "gib"),
    [
        ("0::/\n", {"memory.max": f"{8 * GIB}\n", "memory.current": f"{3 * GIB}\n"}, 5),
        (
            "0::/\n",
            {"memory.max": f"{8 * GIB}\n", "memory.current": f"{7 * GIB}\n", "memory.stat": f"anon 1\ninactive_file {4 * GIB}\n"},
            5,
        ),
        ("0::/\n", {"memory.max": f"{8 * GIB}\n", "memory.current": f"{9 * GIB}\n"}, 0),
        ("0::/\n", {"memory.max": "max\n", "memory.current": f"{3 * GIB}\n"}, 64),
        ("0::/a/b\n", {"a/b/cpu.max": "max\n", "a/memory.max": f"{4 * GIB}\n", "a/memory.current": "0\n"}, 4),
        (
            "5:memory:/a\n",
            {
                "memory/a/memory.limit_in_bytes": f"{6 * GIB}\n",
                "memory/a/memory.usage_in_bytes": f"{4 * GIB}\n",
                "memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
            },
            3,
        ),
        ("5:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.usage_in_bytes": "1\n"}, 64),
        ("", {}, 64),
    ],
)
def test_a_containers_share_of_the_memory_counts(groups: Write, own: str, texts: dict[str, str], gib: int) -> None:
    assert free_main_memory(*groups(own, texts)) == gib * GIB


def test_this_machine_has_some() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert 0 < free_main_memory() <= psutil.virtual_memory().total
