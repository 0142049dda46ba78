"""Two passes beside one with the style adapter: does the style stay, without its training pictures and without broken forms?"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from benchmarks.mode_judges import Judges, Trial, difference, mean_with
from core.words import Mode
from inference.engine import Engine
from inference.requests import RenderRequest
from inference.slot import LoadedAdapter
from miniature import world


def two_pass_trial(engine: Engine, judges: Judges, style: LoadedAdapter, seeds: int, captions_each: int) -> Trial:
    """The captions that the adapter was fitted on, where recall shows, and as many fresh ones. The base knows no blueprints by their name,
    so two passes are tried both as published and with the adapter, at a lower scale, in the second too."""
    captions = [*judges.learned_captions[:captions_each], *judges.fresh_captions[:captions_each]]
    kinds = [world.KINDS[n % len(world.KINDS)] for n in range(len(captions))]
    orders = [(caption, kind, seed) for caption, kind in zip(captions, kinds, strict=True) for seed in range(seeds)]
    ways: dict[str, tuple[LoadedAdapter | None, Mode, dict[str, float]]] = {
        "base, no adapter": (None, Mode.TEXT_TO_IMAGE, {}),
        "one pass at 1": (style, Mode.STACKED, {"style_scale": 1.0}),
        "one pass at 2": (style, Mode.STACKED, {"style_scale": 2.0}),
        "two_pass, 2 then 0.9": (style, Mode.TWO_PASS, {}),
        "two_pass, with it at 0.8": (style, Mode.TWO_PASS, {"second_pass_scale": 0.8}),
    }
    trial, measured = Trial(), {}
    groups, asked_kinds = [caption for caption, _, _ in orders], [kind for _, kind, _ in orders]
    for name, (adapter, mode, options) in ways.items():
        images = []
        for caption, _, seed in orders:
            request = RenderRequest(caption, 500 + seed, mode=mode, style_adapter="blueprint" if adapter else "", options=dict(options))
            images += engine.render(request, style=adapter)
        measured[name] = _style_measures(judges, images, asked_kinds)
        trial.figures[name] = {what: mean_with(values, groups) for what, values in measured[name].items()}
        trial.pictures[name] = [images[orders.index((caption, kind, 0))] for caption, kind in list(zip(captions, kinds, strict=True))[:8]]
        print(f"  {name}: {trial.figures[name]}", flush=True)
    real = _style_measures(judges, judges.drawn, judges.kinds)
    trial.figures["drawn blueprints"] = {what: mean_with(values, judges.fresh_captions) for what, values in real.items()}
    twos, ones = [name for name in ways if name.startswith("two_pass")], [name for name in ways if not name.startswith("two_pass")]
    trial.differences = {
        f"{two} − {one}": {what: difference(measured[two][what], measured[one][what], groups) for what in measured[two]}
        for two in twos
        for one in ones
    }
    return trial


def _style_measures(judges: Judges, images: Sequence[Image.Image], kinds: Sequence[str]) -> dict[str, list[float]]:
    structure, copies = judges.leaks(images)
    return {
        "style": judges.style(images),
        "leak (structure)": structure,
        "copies": copies,
        "kind": judges.kind(images, kinds),
        "form": judges.form(images, kinds),
    }
