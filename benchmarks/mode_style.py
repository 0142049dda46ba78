"""Two passes beside one with the style adapter: does the style stay, without its training pictures and without broken forms?

Asked twice: of blueprints, which the base has no word for, with the adapter that ships; and of a style that the base knows by its words but
draws in its own way, as FLUX.1 knows most styles, with an adapter that is fitted here on so few pictures that it recalls them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from benchmarks.mode_judges import Trial, difference, mean_with
from benchmarks.mode_style_judge import StyleJudge, StyleSet, kinds_in_turn
from core.words import Mode
from inference.engine import Engine
from inference.requests import RenderRequest
from inference.slot import LoadedAdapter, read_adapter
from miniature.teach.style import fit_style
from trainer.bench import Bench

SHOWN = 4  # captions that the adapter was fitted on, and as many fresh ones, on the contact sheet


@dataclass(frozen=True)
class Way:
    """How a picture is rendered; two passes of the published recipe unless said otherwise."""

    mode: Mode = Mode.TWO_PASS
    options: Mapping[str, float] = field(default_factory=dict)

    @property
    def styled(self) -> bool:
        """Whether the style adapter is used."""
        return self.mode != Mode.TEXT_TO_IMAGE


ONE_PASS = {
    "base, no adapter": Way(Mode.TEXT_TO_IMAGE),
    "one pass at 1": Way(Mode.STACKED, {"style_scale": 1.0}),
    "one pass at 2": Way(Mode.STACKED, {"style_scale": 2.0}),
}
# a style that the base does not know goes in a second pass without the adapter, so it is tried with it too, at lower scales
UNKNOWN = {"two_pass, 2 then 0.9": Way()} | {f"two_pass, with it at {s}": Way(options={"second_pass_scale": s}) for s in (0.4, 0.6, 0.8)}
KNOWN = {
    f"two_pass, {scale:g} then {strength:g}": Way(options={"first_pass_scale": scale, "strength": strength})
    for scale, strength in ((2.0, 0.9), (2.0, 0.8), (2.0, 0.7), (1.5, 0.9), (1.5, 0.8))
}


def fit_known(bench: Bench, pictures: StyleSet, folder: Path, steps: int) -> LoadedAdapter:
    """An adapter for ``pictures`` in the shipped adapter's recipe; ``steps`` 0: the recipe's own."""
    recipe = {"steps": steps} if steps else {}
    path = fit_style(bench.base, pictures.learned, pictures.learned_captions, folder / "style.safetensors", recipe, name=pictures.name)
    return read_adapter(bench.base, path, f"style:{pictures.name}")


def two_pass_trial(
    engine: Engine, judge: StyleJudge, adapter: LoadedAdapter, two_pass: Mapping[str, Way], seeds: int, captions_each: int
) -> Trial:
    """The captions that the adapter was fitted on, where recall shows, and as many fresh ones, in one pass and in two."""
    pictures = judge.pictures
    learned = pictures.learned_captions[:captions_each]
    fresh = pictures.fresh_captions[: len(learned)]
    captions, kinds = [*learned, *fresh], [*kinds_in_turn(len(learned)), *kinds_in_turn(len(fresh))]
    groups, asked = ([word for word in words for _ in range(seeds)] for words in (captions, kinds))
    shown = [*range(min(SHOWN, len(learned))), *range(len(learned), min(len(learned) + SHOWN, len(captions)))]
    trial, measured = Trial(), {}
    trial.pictures["drawn: half of it fitted on"] = [[*pictures.learned[: len(learned)], *pictures.drawn][n] for n in shown]
    for name, way in (ONE_PASS | dict(two_pass)).items():
        images = _render(engine, adapter, way, captions, seeds)
        measured[name] = judge.measures(images, asked)
        trial.figures[name] = {what: mean_with(values, groups) for what, values in measured[name].items()}
        trial.pictures[name] = [images[n * seeds] for n in shown]
        print(f"  {name}: {trial.figures[name]}", flush=True)
    real = judge.measures(pictures.drawn, pictures.kinds)
    trial.figures[f"drawn: {pictures.name}"] = {what: mean_with(values, pictures.fresh_captions) for what, values in real.items()}
    trial.differences = {
        f"{two} − {one}": {what: difference(values, measured[one][what], groups) for what, values in measured[two].items()}
        for two in two_pass
        for one in ONE_PASS
    }
    return trial


def _render(engine: Engine, adapter: LoadedAdapter, way: Way, captions: Sequence[str], seeds: int) -> list[Image.Image]:
    """``seeds`` pictures of each caption, in order."""
    name = adapter.id if way.styled else ""
    orders = [(caption, seed) for caption in captions for seed in range(500, 500 + seeds)]
    requests = [RenderRequest(caption, seed, mode=way.mode, style_adapter=name, options=dict(way.options)) for caption, seed in orders]
    return [image for request in requests for image in engine.render(request, style=adapter if way.styled else None)]
