"""Settings as objects: what is derived from them follows a copy."""

from __future__ import annotations

from core.settings import Settings


def test_a_copy_derives_its_values_anew():
    settings = Settings(var_dir="here")
    derived = [name for name, kind in vars(Settings).items() if type(kind).__name__ == "cached_property"]
    before = {name: str(getattr(settings, name)) for name in derived}
    copy = settings.model_copy(update={"var_dir": settings.var_dir.with_name("elsewhere")})
    changed = {name for name in derived if str(getattr(copy, name)) != before[name]}
    assert changed and not any("/here" in str(getattr(copy, name)) for name in derived)
