"""How well adapters work: unseen subjects of the drawn world × training seeds, on this machine.

    python -m benchmarks.likeness --subjects 5 --seeds 3 --json benchmarks/results/likeness-DATE-HOST.json --sheets var/likeness

Every subject's photos are drawn afresh from seeds that the miniature was never taught on; three photos a subject are kept from everything
but the judge. The same figures on a customer's photos: ``likeness evaluate quick``. Prints the tables of docs/benchmarks.md.
Seeds can be had one after the other, and several results be read as one:

    python -m benchmarks.likeness --first-seed 1 --seeds 1 --only cat-4 dog-5 --json second.json
    python -m benchmarks.likeness --pool first.json second.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.likeness_pool import reports_of
from benchmarks.likeness_subjects import Plan, Subject, side_by_side
from lab.evaluate import Evaluation, measure_foreign
from lab.report import sheet_of, subjects_table, table
from lab.surroundings import peak_memory
from metrics.stats import summary
from miniature.world import KINDS, UNSEEN_SEED_START
from trainer.bench import Bench

FIRST_SUBJECT = UNSEEN_SEED_START + 50_000  # apart from the shipped samples and from what the miniature's acceptance looked at
TRAINING_S, PORTRAIT_S = 180, 8


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    if asked.pool:
        print(markdown(pooled_files(asked.pool)))
        return
    result: dict[str, Any] = {"what": "likeness", "measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "subjects": {}}
    evaluations: dict[str, Evaluation] = {}
    with tempfile.TemporaryDirectory() as scratch:
        seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
        plan = Plan(Path(scratch), asked.photos, seeds, asked.per_style, asked.steps, asked.device, asked.precision)
        chosen = [subject for subject in subjects(asked.subjects, asked.kinds) if not asked.only or subject.name in asked.only]
        bench = plan.open_bench()
        done = side_by_side(plan, chosen, asked.workers, asked.cores) if asked.workers > 1 else one_by_one(plan, bench, chosen)
        for subject, evaluation in done:
            evaluations[subject.name] = evaluation
            _tell(subject.name, evaluation)
            _save(asked.json, _with(result, evaluations, bench))
        check_foreign(bench, evaluations)
    _save(asked.json, _with(result, evaluations, bench))
    _save_sheets(asked.sheets, evaluations)
    print(markdown(result))


def one_by_one(plan: Plan, bench: Bench, chosen: Sequence[Subject]) -> Iterator[tuple[Subject, Evaluation]]:
    for subject in chosen:
        yield subject, plan.evaluate(bench, subject)


def subjects(count: int, kinds: Sequence[str]) -> list[Subject]:
    """Kinds in turn."""
    return [Subject(f"{kinds[n % len(kinds)]}-{n + 1}", kinds[n % len(kinds)], FIRST_SUBJECT + n) for n in range(count)]


def check_foreign(bench: Bench, evaluations: Mapping[str, Evaluation]) -> None:
    """Each subject with the adapter of another of its own kind, where it is hardest to tell apart; else of the next subject."""
    names = list(evaluations)
    for n, evaluation in enumerate(evaluations.values()):
        others = names[n + 1 :] + names[:n]
        kind = evaluation.report["subject"]["kind"]
        same_kind = [other for other in others if evaluations[other].report["subject"]["kind"] == kind]
        if others:
            stranger = evaluations[(same_kind or others)[0]].runs[0].fitted.adapter
            evaluation.report["foreign"] = measure_foreign(bench, evaluation, stranger)


def pooled(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Over all pictures of all subjects; the interval resamples subjects. None where the encoder cannot tell a subject from its class."""
    values = [(name, value) for name, report in reports.items() for run in report["likeness"]["each"] for value in run]
    known = [(name, value) for name, value in values if value is not None]
    likeness = summary([value for _, value in known], [name for name, _ in known]).as_dict() if known else None
    foreign = _known(report["foreign"]["normalised"] for report in reports.values() if report["foreign"])
    ratios = _known(report["prompt_fidelity"]["ratio"] for report in reports.values())
    return {
        "subjects": len(reports),
        "pictures": len(values),
        "likeness": likeness,
        "prompt_fidelity_ratio": fmean(ratios) if ratios else None,
        "leak_rate": fmean(report["leak"]["rate"] for report in reports.values()),
        "foreign": {"mean": fmean(foreign), "highest": max(foreign)} if foreign else None,
        "swap_back_identical": all(report["swap_back_identical"] for report in reports.values()),
        "training_s": {"mean": fmean(_trainings(reports)), "longest": max(_trainings(reports))},
        "portrait_s": {
            "mean": fmean(report["seconds"]["portrait"] for report in reports.values()),
            "longest": max(report["seconds"]["portrait_longest"] for report in reports.values()),
        },
    }


def pooled_files(paths: Sequence[Path]) -> dict[str, Any]:
    reports, memory = reports_of(paths)
    return {"subjects": reports, "pooled": pooled(reports), "memory": memory}


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _trainings(reports: Mapping[str, Mapping[str, Any]]) -> list[float]:
    return [sum(run["seconds"].values()) for report in reports.values() for run in report["runs"]]


def markdown(result: Mapping[str, Any]) -> str:
    """The tables of docs/benchmarks.md: what was promised, then each subject."""
    some = next(iter(result["subjects"].values()))
    where = f"{some['hardware']['processor']}, {some['hardware']['cores']} cores, {some['hardware']['device']}"
    what = f"base {some['base_model']['name']} ({some['base_model']['precision']}), encoders {', '.join(some['encoders'].values())}"
    return "\n\n".join([f"{where}; {what}.", promises(result["pooled"], result["memory"]), subjects_table(result["subjects"])])


def promises(figures: Mapping[str, Any], memory: Mapping[str, float]) -> str:
    likeness, foreign = figures["likeness"], figures["foreign"]
    lines = [
        ("training, photos to adapter, longest", f"≤ {TRAINING_S} s", f"{figures['training_s']['longest']:.0f} s"),
        ("portrait, longest", f"≤ {PORTRAIT_S} s", f"{figures['portrait_s']['longest']:.1f} s"),
        ("pictures that repeat a photo", "", f"{figures['leak_rate']:.1%}"),
        ("no adapter after swapping back", "identical pixels", "identical" if figures["swap_back_identical"] else "DIFFERENT"),
        ("peak resident memory of this process", "", f"{memory['resident_gib']:.1f} GiB"),
    ]
    if likeness:
        interval = f"{likeness['mean']:.2f} (95 %: {likeness['low']:.2f}–{likeness['high']:.2f})"
        lines[:0] = [("likeness I, mean", "≥ 0.6", interval), ("likeness I, P10", "≥ 0.4", f"{likeness['p10']:.2f}")]
    if figures["prompt_fidelity_ratio"]:
        lines.append(("prompt fidelity, of the base model's", "≥ 90 %", f"{figures['prompt_fidelity_ratio']:.0%}"))
    if foreign:
        lines.append(("I with another subject's adapter, mean (highest)", "≤ 0.2", f"{foreign['mean']:.2f} ({foreign['highest']:.2f})"))
    return table(("what", "promised", "measured"), lines)


def _with(result: dict[str, Any], evaluations: Mapping[str, Evaluation], bench: Bench) -> dict[str, Any]:
    reports = {name: evaluation.report for name, evaluation in evaluations.items()}
    result |= {"subjects": reports, "pooled": pooled(reports), "memory": peak_memory(bench.base.device)}
    return result


def _tell(name: str, evaluation: Evaluation) -> None:
    report = evaluation.report
    print(
        f"{time.strftime('%H:%M:%S')} {name}: I {report['likeness']['normalised']}, {report['seconds']['training']} s a training",
        flush=True,
    )


def _save(path: Path | None, result: Mapping[str, Any]) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _save_sheets(folder: Path | None, evaluations: Mapping[str, Evaluation]) -> None:
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        for name, evaluation in evaluations.items():
            sheet_of(evaluation, name).save(folder / f"{name}.png")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each subject")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="subjects of those, by name: cat-4")
    parser.add_argument("--pool", nargs="+", type=Path, metavar="FILE", help="measures nothing; reads results as one")
    parser.add_argument("--photos", type=int, default=15, help="photos of each subject, three of which are only measured with")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--per-style", type=int, default=1, help="pictures of each style")
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps; 0: the recipe's own")
    parser.add_argument("--workers", type=int, default=1, help="subjects at the same time, on a machine with cores to spare")
    parser.add_argument("--cores", type=int, default=2, help="cores of each worker, if there are several")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheets", type=Path, help="folder for a contact sheet of each subject")
    return parser


if __name__ == "__main__":
    main()
