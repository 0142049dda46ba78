from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

from core.settings import Settings
from storage.secret import derived_key, secret_key


def test_made_once_however_many_ask_at_once(settings: Settings) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: secret_key(settings), range(32)))
    assert len(made) == 1
    assert len(made.pop()) == 32
    assert [path.name for path in settings.var_dir.iterdir()] == ["secret.key"]


def test_only_the_owner_reads_it(settings: Settings) -> None:
    secret_key(settings)
    assert stat.S_IMODE((settings.var_dir / "secret.key").stat().st_mode) == 0o600


def test_the_operators_own_key_leaves_no_file(settings: Settings) -> None:
    given = settings.model_copy(update={"secret_key": settings.secret_key.__class__("hunter2")})
    assert secret_key(given) != secret_key(settings.model_copy(update={"secret_key": settings.secret_key.__class__("hunter3")}))
    assert not settings.var_dir.exists()


def test_each_purpose_has_its_own_key(settings: Settings) -> None:
    assert derived_key(settings, "links") != derived_key(settings, "receipts")
    assert derived_key(settings, "links") == derived_key(settings, "links")
