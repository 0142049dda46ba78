"""What each mode of rendering does to likeness, style, form and leakage, on unseen subjects of the drawn world.

    python -m benchmarks.modes --json benchmarks/results/modes-DATE-HOST.json --sheets docs/images --device cuda

Two passes beside one with the style adapter at scale 1 and 2, for a style that the base does not know and for one that it does; a clean
reference beside plain image-to-image at equal style; every mode with a subject's adapter and without; poses with a ControlNet and without.
Every figure is a mean with a 95 % bootstrap interval over subjects or prompts.
``--subjects 1 --trained 1 --seeds 1 --captions 6`` is for a laptop.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.mode_adapters import modes_trial
from benchmarks.mode_judges import Judges, Subject, Trial, draw_subjects
from benchmarks.mode_poses import pose_trial
from benchmarks.mode_reference import STYLES, reference_trial
from benchmarks.mode_style import KNOWN, UNKNOWN, fit_known, two_pass_trial
from benchmarks.mode_style_judge import StyleJudge, draw_style_set
from core.settings import Settings
from diffusion.control import add_control
from inference.slot import LoadedAdapter, read_adapter
from lab.pictures import engine_over
from lab.report import Row, contact_sheet, table
from lab.surroundings import surroundings
from miniature import world
from miniature.teach import style as blueprints
from trainer.bench import Bench
from trainer.loading import load_bench

KNOWN_STYLE, KNOWN_PICTURES = "linocut", 16
PARTS = ("two_pass", "two_pass_known", "reference", "pose", "modes")  # the costliest last


def main(arguments: Sequence[str] | None = None) -> None:
    asked = _parser().parse_args(arguments)
    settings = Settings(device=asked.device, precision=asked.precision)
    bench = load_bench(settings)
    if asked.denoising_steps:
        bench.base.facts.setdefault("render", {})["num_inference_steps"] = asked.denoising_steps
    control = asked.control or settings.controlnet_path
    if control:
        add_control(bench.base, str(control))
    judges, style = Judges(bench), read_adapter(bench.base, asked.style_adapter or _shipped_style(settings), "style:blueprint")
    subjects, result = draw_subjects(bench, asked.subjects), {"what": "modes", **surroundings(bench)}
    result |= {"measured_at": datetime.now(UTC).isoformat(timespec="seconds"), "subjects_a_kind": asked.subjects, "trials": {}}
    for part in asked.parts:
        if part == "pose" and not control:
            print("pose: left out, there is no ControlNet", flush=True)
            continue
        began = time.perf_counter()
        print(f"{part} …", flush=True)
        trial = _run(part, judges, subjects, style, asked)
        seconds = round(time.perf_counter() - began, 1)
        result["trials"][part] = {"figures": trial.figures, "differences": trial.differences, "seconds": seconds}
        _save(asked.json, result)
        if asked.sheets:
            asked.sheets.mkdir(parents=True, exist_ok=True)
            sheet(part, trial, subjects).convert("RGB").save(asked.sheets / f"mode-{part.replace('_', '-')}.jpg", quality=84)
    print(markdown(result))


def _run(part: str, judges: Judges, subjects: Sequence[Subject], style: LoadedAdapter, asked: argparse.Namespace) -> Trial:
    if part == "modes":
        some = [subject for n, subject in enumerate(subjects) if n % asked.subjects < asked.trained]
        with tempfile.TemporaryDirectory() as folder:
            return modes_trial(judges, some, style, Path(folder), asked.seeds, asked.steps)
    if part.startswith("two_pass"):
        return _two_pass(part, judges.bench, style, asked)
    with engine_over(judges.bench.base) as engine:
        if part == "reference":
            return reference_trial(engine, judges, subjects, asked.seeds)
        return pose_trial(engine, judges, asked.seeds)


def _two_pass(part: str, bench: Bench, style: LoadedAdapter, asked: argparse.Namespace) -> Trial:
    ways = UNKNOWN
    if part == "two_pass":
        pictures = draw_style_set(blueprints.NAME, blueprints.PICTURES)
    else:
        pictures, ways = draw_style_set(asked.known_style, asked.known_pictures), KNOWN
        with tempfile.TemporaryDirectory() as folder:
            style = fit_known(bench, pictures, Path(folder), asked.steps)
    judge = StyleJudge(bench, pictures)
    with engine_over(bench.base) as engine:
        return two_pass_trial(engine, judge, style, ways, asked.seeds, asked.captions)


def _shipped_style(settings: Settings) -> Path:
    return settings.miniature_dir / "styles" / "blueprint.safetensors"


def sheet(part: str, trial: Trial, subjects: Sequence[Subject]) -> Any:
    """Rows are ways of rendering; the photos on top are the subjects', where subjects are drawn."""
    columns = len(next(iter(trial.pictures.values())))
    if part == "reference":
        photos, names = [subjects[0].photo, subjects[-1].photo], [*STYLES, *STYLES]
    else:
        photos, names = [subject.photo for subject in subjects[:8]] if part == "modes" else [], [""] * columns
    rows = [Row(name, _note(trial.figures.get(name, {})), images) for name, images in trial.pictures.items()]
    return contact_sheet(f"{part}: ways of rendering (AI-made, by the miniature)", photos, names[:columns], rows, side=144)


def _note(figures: dict[str, dict[str, float]]) -> str:
    return ", ".join(f"{what} {value['mean']:.2f}" for what, value in figures.items())


def markdown(result: dict[str, Any]) -> str:
    """The tables of docs/benchmarks.md."""
    parts = []
    for part, trial in result["trials"].items():
        parts.append(f"### {part}")
        for rows in (trial["figures"], trial["differences"]):
            if rows:
                measures = list(dict.fromkeys(measure for row in rows.values() for measure in row))
                parts.append(table(("", *measures), [[name, *(_cell(row.get(m)) for m in measures)] for name, row in rows.items()]))
    return "\n\n".join(parts)


def _cell(value: dict[str, float] | None) -> str:
    return f"{value['mean']:.3f} ({value['low']:.3f} … {value['high']:.3f})" if value else "–"


def _save(path: Path | None, result: dict[str, Any]) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--subjects", type=int, default=4, help="unseen subjects of each kind")
    parser.add_argument("--trained", type=int, default=2, help="of them, subjects of each kind that get an adapter")
    parser.add_argument("--seeds", type=int, default=2, help="pictures of each prompt")
    parser.add_argument(
        "--captions", type=int, default=24, help="captions of the style adapter's own pictures, if it has so many; as many fresh ones"
    )
    parser.add_argument("--steps", type=int, default=0, help="optimizer steps of adapters that are fitted here; 0: the recipe's own")
    parser.add_argument("--denoising-steps", type=int, default=0, help="of a picture; 0: the base model's own (a rehearsal takes 2)")
    parser.add_argument("--style-adapter", type=Path, help="default: the one that ships")
    parser.add_argument("--known-style", choices=world.STYLES[1:], default=KNOWN_STYLE, help="of two_pass_known")
    parser.add_argument("--known-pictures", type=int, default=KNOWN_PICTURES, help="that its adapter is fitted on")
    parser.add_argument("--control", type=Path, help="a ControlNet's folder; default: the one that ships")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    return parser


if __name__ == "__main__":
    main()
