from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import Settings
from storage.redis_child import EmbeddedRedis, start_embedded_redis
from storage.wiring import Storage, open_storage


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, var_dir=tmp_path / "var", lease_s=5, heartbeat_s=0.5)  # type: ignore[call-arg]


@pytest.fixture
def redis_child(settings: Settings) -> Iterator[EmbeddedRedis]:
    child = start_embedded_redis(settings)
    yield child
    child.stop()


@pytest.fixture
def storage(settings: Settings) -> Iterator[Storage]:
    storage = open_storage(settings)
    storage.db.create_all()
    yield storage
    storage.db.close()
