"""The example alerts speak of figures that the service really has, with labels that these really carry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from core.settings import Settings
from core.words import JobKind
from storage import figures, totals
from storage.tables import Account, Job, now
from storage.wiring import Storage, open_storage
from tests.unit.deploy.files import ALERTS, OPERATIONS


@pytest.fixture
def names(tmp_path: Path) -> dict[str, set[str]]:
    """``{figure as Prometheus reads it: its labels}``, of a service where one job of each sort has ended."""
    storage = open_storage(Settings(_env_file=None, var_dir=tmp_path, gpu_price_per_hour=1.0))  # type: ignore[call-arg]
    storage.db.create_all()
    _job(storage)
    totals.count_ended(storage)
    found = {"likeness_database_up": set(), "likeness_build_info": {"version"}}
    for figure in figures.read(storage):
        suffix = "_total" if figure.kind == "counter" else ""
        found[f"likeness_{figure.name}{suffix}"] = {label for labels, _ in figure.samples for label in labels}
    return found


def _job(storage: Storage) -> None:
    metrics = {"seconds": {"render": 1.0}, "device": "cuda", "adapter_from": "ram", "images": 1}
    job = Job(id="job_1", account_id="acc_1", kind=JobKind.PORTRAIT, target_id="por_1", state="failed", attempts=3, metrics=metrics)
    job.started_at = job.completed_at = now()
    job.error = {"type": "job/gave-up", "attempts": [{"type": "WorkerLost"}]}
    with storage.db.session() as session:
        session.add(Account(id="acc_1", email="a@b.example"))
        session.flush()
        session.add(job)


def test_alerts_name_figures_that_exist(names: dict[str, set[str]]) -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert len(rules) >= 10
    for rule in rules:
        used = re.findall(r"(likeness_[a-z_]+)(?:\{([^}]*)\})?", rule["expr"])
        assert used, rule
        for name, selector in used:
            assert name in names, (rule["alert"], name)
            labels = set(re.findall(r"([a-z]+)\s*=", selector))
            assert labels <= names[name], (rule["alert"], name, labels)
        assert rule["annotations"]["summary"] and rule["labels"]["severity"] in ("page", "warn")


def test_the_handbook_lists_every_figure_and_every_alert(names: dict[str, set[str]]) -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    assert not {name for name in names if f"`{name}" not in text}
    alerts = {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    assert not {name for name in alerts if name not in text}
