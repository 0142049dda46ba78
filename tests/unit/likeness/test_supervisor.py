from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from likeness import supervisor
from likeness.supervisor import Supervisor

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
FALL = [sys.executable, "-c", "raise SystemExit(3)"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_leaving_the_block_stops_every_child(tmp_path: Path) -> None:
    with Supervisor(lambda _: None) as group:
        pids = [group.add(name, SLEEP, tmp_path / f"{name}.log").process.pid for name in ("a", "b")]
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)


def test_a_child_that_ignores_the_request_is_killed_with_its_own_children(tmp_path: Path) -> None:
    note = tmp_path / "grandchild"
    code = (
        "import signal, subprocess, sys, pathlib, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); pathlib.Path({str(note)!r}).write_text(str(p.pid));"
        "time.sleep(60)"
    )
    with Supervisor(lambda _: None, grace_s=0.5) as group:
        group.add("stubborn", [sys.executable, "-c", code], tmp_path / "stubborn.log")
        deadline = time.monotonic() + 10
        while not (note.exists() and note.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
    grandchild = int(note.read_text())
    time.sleep(0.2)
    assert not alive(grandchild) or Path(f"/proc/{grandchild}/stat").read_text().split()[2] == "Z"


def test_what_falls_is_said_and_started_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_AFTER_S", (0.1,))
    said: list[str] = []
    with Supervisor(said.append) as group:
        child = group.add("faller", FALL, tmp_path / "faller.log")
        first = child.process
        deadline = time.monotonic() + 10
        while child.process is first and time.monotonic() < deadline:
            group.keep_up()
            time.sleep(0.05)
        assert child.process is not first
    assert "faller ended with 3" in said[0]


@pytest.mark.parametrize(("forgiven_after_s", "falls"), [(0.0, 1), (60.0, 3)])
def test_one_that_stayed_up_is_started_again_as_soon_as_at_first(tmp_path: Path, monkeypatch, forgiven_after_s: float, falls: int) -> None:
    monkeypatch.setattr(supervisor, "RESTART_AFTER_S", (0.05,))
    monkeypatch.setattr(supervisor, "FORGIVEN_AFTER_S", forgiven_after_s)
    said: list[str] = []
    with Supervisor(said.append) as group:
        child = group.add("faller", FALL, tmp_path / "faller.log")
        deadline = time.monotonic() + 20
        while len(said) < 3 and time.monotonic() < deadline:
            group.keep_up()
            time.sleep(0.02)
        assert child.falls == falls
