"""The list of what wants a GPU: every program is there, and a run of it does not begin what it cannot end."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.gpu import Item, Place, Runner, main

QUICK = ("timeit", "-n1", "-r1", "pass")


def test_every_program_is_there_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    items = Place(tmp_path / "weights", tmp_path / "out").items()
    assert len({item.name for item in items}) == len(items)
    assert all(find_spec(item.command[0]) for item in items)
    assert {item.base.rpartition("-")[0] for item in items if item.base} == {"flux1-dev", "klein-4b"}


def test_what_fails_is_told_and_the_rest_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = Runner(Place(tmp_path, tmp_path), minutes=1, at_once=2)
    runner.run([Item("good", QUICK, 1), Item("bad", ("no_such_program",), 1), Item("last", QUICK, 1, alone=True)])
    told = capsys.readouterr().out
    assert runner.failed == ["bad"] and "good: done" in told and "last: done" in told
    assert "no_such_program" in (tmp_path / "bad.log").read_text()


def test_what_would_not_end_in_time_is_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = Runner(Place(tmp_path, tmp_path), minutes=1, at_once=1)
    runner.run([Item("long", QUICK, 10**6), Item("short", QUICK, 1)])
    assert "long: left out" in capsys.readouterr().out and not (tmp_path / "long.log").exists() and (tmp_path / "short.log").exists()


def test_what_takes_longer_than_all_the_time_is_ended(tmp_path: Path) -> None:
    runner = Runner(Place(tmp_path, tmp_path), minutes=2 / 60, at_once=1)
    runner.run([Item("stuck", ("timeit", "-n1", "-r1", "import time; time.sleep(60)"), 1)])
    assert runner.failed == ["stuck"]


def test_a_name_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "jobz"])
    assert "there is no jobz" in capsys.readouterr().err
