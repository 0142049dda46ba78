"""What a machine keeps on its disk although it could be fetched again."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from storage.disk_tier import ABANDONED_AFTER_S, DiskTier

Usage = namedtuple("Usage", "total used free")
TEN = b"0123456789"


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Of 1,000 bytes, a tenth of which is to stay free; ``others`` is what is not ours."""
    state = {"others": 0}

    def usage(folder: Path) -> Usage:
        used = state["others"] + sum(path.stat().st_size for path in Path(folder).glob("*"))
        return Usage(1000, used, 1000 - used)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    return state


@pytest.fixture
def tier(tmp_path: Path) -> DiskTier:
    return filled(DiskTier(tmp_path / "adapters", limit=500), "oldest", "middle", "newest")


def filled(tier: DiskTier, *names: str) -> DiskTier:
    tier.folder.mkdir()
    for age, name in enumerate(names):
        tier.path(name).write_bytes(TEN)
        os.utime(tier.path(name), (age, age))
    return tier


def held(tier: DiskTier) -> set[str]:
    return set(tier.ids())


def test_what_was_used_longest_ago_goes_first(tier: DiskTier) -> None:
    tier.touch("oldest")
    tier.limit = 25
    tier.admit(5)
    assert held(tier) == {"oldest", "newest"}


def test_nothing_goes_while_there_is_room(tier: DiskTier) -> None:
    tier.admit(400)
    tier.make_room(400)
    assert held(tier) == {"oldest", "middle", "newest"}


@pytest.mark.parametrize("ask", [DiskTier.admit, DiskTier.make_room])
def test_a_tenth_of_the_disk_stays_free_beside_what_comes(tier: DiskTier, disk: dict[str, int], ask) -> None:  # type: ignore[no-untyped-def]
    disk["others"] = 855
    ask(tier, 20)  # 855 + 30 + 20 > 900 by five bytes: one file
    assert held(tier) == {"middle", "newest"}
    ask(tier, 30)
    assert held(tier) == {"newest"}


def test_a_disk_that_others_filled_gets_all_there_is(tier: DiskTier, disk: dict[str, int]) -> None:
    disk["others"] = 970
    tier.make_room(500)
    assert held(tier) == set()


def test_room_is_made_where_no_adapter_ever_was(tmp_path: Path) -> None:
    DiskTier(tmp_path / "none", limit=10).make_room(10**6)


def test_only_downloads_that_nobody_writes_any_more_are_dropped(tier: DiskTier) -> None:
    for name, age in {"under-way": 10.0, "abandoned": 2 * ABANDONED_AFTER_S}.items():
        part = tier.folder / f".part-{name}"
        part.write_bytes(TEN)
        os.utime(part, (part.stat().st_mtime - age,) * 2)
    tier.drop_abandoned()
    assert [path.name for path in tier.folder.glob(".part-*")] == [".part-under-way"]
    assert held(tier) == {"oldest", "middle", "newest"}
