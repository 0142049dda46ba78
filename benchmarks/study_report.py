"""What the study found: each arm beside the shipped recipe, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study_cells import FACTORS, SHIPPED
from lab.report import table
from metrics.stats import summary

MEASURES = ("likeness", "fidelity")


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Arm → figures. ``likeness`` and ``fidelity``: mean with its interval; ``…_change``: the paired difference to the shipped recipe."""
    shipped = {_block(row): row for row in rows if row["arm"] == SHIPPED}
    return {arm: _arm([row for row in rows if row["arm"] == arm], shipped) for arm in dict.fromkeys(_in_order(rows))}


def _in_order(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    order = [SHIPPED, *(f"{factor}={value}" for factor, values in FACTORS.items() for value in values)]
    return sorted({row["arm"] for row in rows}, key=order.index)


def _block(row: Mapping[str, Any]) -> tuple[str, int]:
    return row["subject"], row["seed"]


def _arm(rows: Sequence[Mapping[str, Any]], shipped: Mapping[tuple[str, int], Mapping[str, Any]]) -> dict[str, Any]:
    known = [row for row in rows if row["likeness"] is not None]
    first = rows[0]
    figures: dict[str, Any] = {
        "factor": first["factor"],
        "value": first["value"],
        "trainings": len(rows),
        "diverged": len(rows) - len(known),
    }
    if not known:
        return figures
    pairs = [(row, shipped[_block(row)]) for row in known if (shipped.get(_block(row)) or {}).get("likeness") is not None]
    for measure in MEASURES:
        figures[measure] = _spread([row[measure] for row in known], known)
        if pairs and first["arm"] != SHIPPED:
            figures[f"{measure}_change"] = _spread([own[measure] - other[measure] for own, other in pairs], [own for own, _ in pairs])
    figures["leak_rate"] = round(sum(row["leak_rate"] for row in known) / len(known), 4)
    figures["fit_s"] = sorted(row["fit_s"] for row in known)[len(known) // 2]
    figures["size_mb"] = known[0]["size_mb"]
    return figures


def _spread(values: Sequence[float], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = summary(values, [row["subject"] for row in rows])
    return {name: round(getattr(found, name), 4) for name in ("mean", "low", "high")}


def markdown(result: Mapping[str, Any]) -> str:
    """For docs/recipe.md."""
    hardware, base = result["hardware"], result["base_model"]
    lines = [_line(arm, figures) for arm, figures in result["summary"].items()]
    columns = ("arm", "trainings", "I", "change of I (95 %)", "P", "change of P (95 %)", "leaks", "MB", "fit, median s")
    where = f"{hardware['device']}, {hardware['cores']} cores, {result['workers']} at a time; base {base['name']} ({base['precision']})"
    head = f"{where}; {len(result['rows'])} of {result['planned']} trainings in {result['seconds']:.0f} s."
    without = [f"Left out: {arm} ({reason})." for arm, reason in result.get("left_out", {}).items()]
    return "\n\n".join([" ".join([head, *without]), table(columns, lines)])


def _line(arm: str, figures: Mapping[str, Any]) -> list[str]:
    if "likeness" not in figures:
        return [arm, f"{figures['trainings']}, all diverged", *[""] * 7]
    diverged = f" ({figures['diverged']} diverged)" if figures["diverged"] else ""
    own = [
        f"{figures['likeness']['mean']:.3f}",
        _change(figures, "likeness"),
        f"{figures['fidelity']['mean']:.3f}",
        _change(figures, "fidelity"),
    ]
    rest = [f"{figures['leak_rate']:.1%}", f"{figures['size_mb']:.1f}", f"{figures['fit_s']:.0f}"]
    return [arm, f"{figures['trainings']}{diverged}", *own, *rest]


def _change(figures: Mapping[str, Any], measure: str) -> str:
    change = figures.get(f"{measure}_change")
    return f"{change['mean']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})" if change else ""


def draw_plot(arms: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Changes of I and P beside the shipped recipe, one row an arm, with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    known = [(arm, figures) for arm, figures in arms.items() if "likeness_change" in figures]
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 0.9 + 0.28 * len(known)), sharey=True, layout="constrained")
    for axis, measure, title, colour in zip(axes, MEASURES, ("likeness I", "prompt fidelity P"), ("#1d4ed8", "#b45309"), strict=True):
        axis.axvline(0, color="#78716c", linewidth=1)
        for row, (_, figures) in enumerate(known):
            change = figures[f"{measure}_change"]
            axis.plot([change["low"], change["high"]], [row, row], color=colour, linewidth=2, alpha=0.5)
            axis.plot(change["mean"], row, "o", color=colour, markersize=5)
        axis.set_title(f"change of {title}, 95 % interval", fontsize=10)
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(known)), [arm.replace("=", " = ").replace("steps = ", "steps × ") for arm, _ in known], fontsize=9)
    axes[0].invert_yaxis()
    shipped = arms.get(SHIPPED, {})
    if "likeness" in shipped:
        text = f"shipped recipe: I {shipped['likeness']['mean']:.2f}, P {shipped['fidelity']['mean']:.2f}; 0 = the shipped recipe"
        figure.suptitle(text, fontsize=10)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
