"""What an evaluation looks like: a contact sheet, and tables as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

if TYPE_CHECKING:  # who only draws a sheet need not wait for torch
    from lab.evaluate import Evaluation

PAPER, INK, SOFT = "#ffffff", "#1c1917", "#78716c"
GAP, MARGIN, LABELS = 10, 28, 116  # pixels


@dataclass(frozen=True)
class Row:
    """A line of pictures, as many as there are styles, with its name at the left."""

    name: str
    note: str
    images: Sequence[Image.Image]


def contact_sheet(title: str, photos: Sequence[Image.Image], styles: Sequence[str], rows: Sequence[Row], side: int = 224) -> Image.Image:
    """Photos, if any, on top, styles as columns, one row for each adapter or none. Pictures are ``side`` pixels wide."""
    assert all(len(row.images) == len(styles) for row in rows), "a row needs one picture a style"
    left = MARGIN + LABELS
    width = left + len(styles) * (side + GAP) - GAP + MARGIN
    photo_side = _photo_side(len(photos), width - 2 * MARGIN, side)
    top = MARGIN + 52 + (photo_side + 30 if photos else 0)
    sheet = Image.new("RGB", (width, top + 34 + len(rows) * (side + GAP) - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, _font(26))
    _line(sheet, photos, MARGIN, MARGIN + 52, photo_side)
    for column, name in enumerate(styles):
        draw.text((left + column * (side + GAP), top + 8), _fitting(name, side, 16), INK, _font(16))
    for number, row in enumerate(rows):
        y = top + 34 + number * (side + GAP)
        _label(draw, row, y + side // 2 - 30, LABELS - GAP)
        _line(sheet, row.images, left, y, side)
    return sheet


def sheet_of(evaluation: Evaluation, title: str) -> Image.Image:
    """The base model's row, then one row for each training seed; of each style its first picture."""
    step, styles = evaluation.catalogue.per_style, evaluation.catalogue.styles
    rows = [Row("without", "adapter", evaluation.base.images[::step])]
    for run, figures in zip(evaluation.runs, evaluation.report["runs"], strict=True):
        rows.append(Row("with", f"adapter · likeness {_number(figures['likeness']['normalised'])}", run.judged.images[::step]))
    return contact_sheet(title, [*evaluation.photos.learned, *evaluation.photos.held_out], [style.title for style in styles], rows)


SUBJECT_COLUMNS = (
    "subject",
    "seeds",
    "base",
    "adapter",
    "real photos",
    "I (0–1)",
    "95 %",
    "P10",
    "held-out I",
    "prompt fidelity",
    "leaks",
    "foreign I",
)


def subjects_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a subject: cosines of base, adapter and real photos, then normalised likeness I with its spread."""
    return table(SUBJECT_COLUMNS, [_subject_line(name, report) for name, report in reports.items()])


def _subject_line(name: str, report: Mapping[str, Any]) -> list[str]:
    near, foreign = report["likeness"], report.get("foreign")
    return [
        name,
        str(len(report["runs"])),
        *(_number(near[key]) for key in ("base", "adapter", "real", "normalised")),
        "–" if near["low"] is None else f"{near['low']:.2f}–{near['high']:.2f}",
        _number(near["p10"]),
        _number(near["to_held_out"]),
        _number(report["prompt_fidelity"]["ratio"]),
        f"{report['leak']['rate']:.0%}",
        _number(foreign["normalised"]) if foreign else "–",
    ]


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; numbers stand right of a first column of names."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [columns, rule, *lines])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _photo_side(count: int, room: int, most: int) -> int:
    return min(most, (room + GAP) // max(1, count) - GAP)


def _line(sheet: Image.Image, images: Sequence[Image.Image], x: int, y: int, side: int) -> None:
    for image in images:
        sheet.paste(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS), (x, y))
        x += side + GAP


def _label(draw: ImageDraw.ImageDraw, row: Row, y: int, room: int) -> None:
    name = _wrapped(row.name, room, 16)
    y -= 10 * (len(name) - 1)
    draw.multiline_text((MARGIN, y), "\n".join(name), INK, _font(16), spacing=4)
    draw.multiline_text((MARGIN, y + 2 + 20 * len(name)), "\n".join(_wrapped(row.note, room, 13)), SOFT, _font(13), spacing=3)


def _wrapped(text: str, room: int, size: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font(size).getlength(longer) <= room or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _fitting(text: str, room: int, size: int) -> str:
    while _font(size).getlength(text) > room and len(text) > 1:
        text = text[:-2].rstrip() + "…"
    return text


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font
