from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import study
from benchmarks.study_cells import FACTORS, SHIPPED, Cell, Drawn, arms_of, shipped_recipe, tasks_of
from benchmarks.study_report import draw_plot, markdown, summarise
from core.errors import UserError
from trainer.recipe import Recipe


def row(arm: str, subject: str, likeness: float | None, fidelity: float = 0.9, seed: int = 0) -> dict:
    factor, _, value = arm.partition("=") if arm != SHIPPED else ("", "", None)
    known = {"likeness": likeness, "fidelity": fidelity, "leak_rate": 0.0, "fit_s": 10.0, "size_mb": 3.0}
    return {"arm": arm, "factor": factor, "value": value, "subject": subject, "seed": seed} | (known if likeness is not None else EMPTY)


EMPTY = {"likeness": None, "fidelity": None, "leak_rate": None, "diverged": "why", "fit_s": 3.0}


def test_the_shipped_recipe_comes_first_and_every_arm_changes_one_thing() -> None:
    arms = list(arms_of(FACTORS))
    assert arms[0] == ("", None, {})
    own = shipped_recipe()
    for factor, _, changes in arms[1:]:
        changed = {name for name, value in Recipe(**{**own, **changes}).model_dump().items() if value != own[name]}
        assert changed == ({"rank", "alpha"} if factor == "rank" else {factor})


def test_a_task_is_one_arm_on_several_subjects_with_one_seed() -> None:
    drawn = [Drawn(f"cat-{n}", "cat", Path()) for n in range(5)]
    tasks = tasks_of(drawn, 2, FACTORS, 0, together=3)
    assert [len(task) for task in tasks[:2]] == [3, 2]
    assert {cell.arm for task in tasks[:2] for cell in task} == {SHIPPED}
    assert all(len({(cell.arm, cell.seed) for cell in task}) == 1 for task in tasks)
    cells = [(cell.arm, cell.seed, cell.subject) for task in tasks for cell in task]
    assert len(set(cells)) == len(cells) == 5 * 2 * len(list(arms_of(FACTORS)))


def run_with_a_fault_in(arm: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], dict[str, str]]:
    """Arms of the rows that came, and what was left out, where one arm's trainings cannot be done."""

    def run_together(cells: list[Cell]) -> list[dict]:
        if cells[0].arm == arm:
            raise UserError("training/no-masks", "cannot be masked", "install another OpenCV")
        return [{"arm": cell.arm, "seed": cell.seed} for cell in cells]

    monkeypatch.setattr(study, "run_together", run_together)
    tasks = tasks_of([Drawn("cat-1", "cat", Path())], 2, {"rank": (8, 32), "background_weight": (0.1, 1.0)}, 0, together=1)
    left_out: dict[str, str] = {}
    with ThreadPoolExecutor(1) as pool:
        rows = [row["arm"] for rows in study.run_all(pool, tasks, None, 1, left_out) for row in rows]
    return rows, left_out


def test_an_arm_that_this_machine_cannot_do_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, left_out = run_with_a_fault_in("background_weight=0.1", monkeypatch)
    assert rows == [SHIPPED, "rank=8"] * 2
    assert left_out == {"background_weight=0.1": "cannot be masked: install another OpenCV"}


def test_without_the_shipped_recipe_there_is_nothing_to_compare_with(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot be masked"):
        run_with_a_fault_in(SHIPPED, monkeypatch)


def test_every_factor_is_tried_beside_its_shipped_value() -> None:
    own = shipped_recipe()
    assert [name for name, values in FACTORS.items() if name != "steps" and own[name] not in values] == []


def test_changes_are_paired_by_subject_and_seed() -> None:
    """Subjects differ by far more than the arms: only pairs show that rank 8 costs a tenth everywhere."""
    levels = {"a": 0.9, "b": 0.5, "c": 0.2}
    rows = [row(SHIPPED, name, level) for name, level in levels.items()]
    rows += [row("rank=8", name, level - 0.1) for name, level in levels.items()]
    change = summarise(rows)["rank=8"]["likeness_change"]
    assert change == {"mean": -0.1, "low": -0.1, "high": -0.1}


def test_an_arm_without_its_pair_gives_no_change() -> None:
    found = summarise([row(SHIPPED, "a", 0.5), row("rank=8", "b", 0.6)])
    assert "likeness_change" not in found["rank=8"] and found["rank=8"]["likeness"]["mean"] == 0.6


def test_what_diverged_is_counted_and_left_out_of_the_means() -> None:
    found = summarise([row(SHIPPED, "a", 0.5), row("rank=8", "a", 0.7), row("rank=8", "a", None, seed=1), row("rank=16", "a", None)])
    assert (found["rank=8"]["trainings"], found["rank=8"]["diverged"]) == (2, 1)
    assert found["rank=8"]["likeness"]["mean"] == 0.7
    assert "likeness" not in found["rank=16"]


def test_table_and_plot_show_every_arm(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [row(SHIPPED, "a", 0.5), row("rank=8", "a", 0.4), row("rank=16", "a", None)]
    result = {"rows": rows, "summary": summarise(rows), "planned": 3, "seconds": 1.0, "workers": 1}
    result |= {"hardware": {"device": "cpu", "cores": 2}, "base_model": {"name": "flux", "precision": "fp32"}}
    result["left_out"] = {"steps=2.0": "no time"}
    text = markdown(result)
    assert "Left out: steps=2.0 (no time)." in text
    assert "-0.100 (-0.100 to -0.100)" in text and "all diverged" in text
    draw_plot(result["summary"], tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 600
