import numpy as np
from PIL import Image, ImageDraw

from lab.report import Row, contact_sheet, subjects_table, table


def plain(colour):
    return Image.new("RGB", (64, 64), colour)


def test_the_sheet_shows_photos_on_top_and_every_row_under_its_style():
    rows = [Row("without", "adapter", [plain("red"), plain("lime")]), Row("with", "adapter", [plain("blue"), plain("yellow")])]
    sheet = contact_sheet("A cat", [plain("cyan")] * 3, ["Photo", "Oil painting"], rows, side=100)
    places = {colour: position(sheet, colour) for colour in ("cyan", "red", "lime", "blue", "yellow")}
    assert places["cyan"][1] < places["red"][1] == places["lime"][1] < places["blue"][1] == places["yellow"][1]
    assert places["red"][0] == places["blue"][0] < places["lime"][0] == places["yellow"][0]


def test_no_picture_or_label_is_cut_off_at_the_edge():
    rows = [Row("with", "adapter · likeness 0.83 of a very long note", [plain("red")] * 3)]
    sheet = contact_sheet("Title", [plain("cyan")] * 20, ["A style whose name is far too long for its column"] * 3, rows, side=100)
    pixels = np.asarray(sheet)
    for edge in (pixels[:, 0], pixels[:, -1], pixels[0], pixels[-1]):
        assert (edge == 255).all()


def position(sheet, colour):
    """Left top corner of the first pixel of that colour."""
    wanted = np.asarray(Image.new("RGB", (1, 1), colour))[0, 0]
    ys, xs = np.nonzero((np.asarray(sheet) == wanted).all(2))
    return xs.min(), ys.min()


REPORT = {
    "runs": [{}, {}],
    "likeness": {
        "base": 0.2,
        "adapter": 0.7,
        "real": 0.8,
        "normalised": 0.83,
        "low": 0.8,
        "high": 0.9,
        "p10": 0.6,
        "to_held_out": None,
    },
    "prompt_fidelity": {"base": 0.3, "adapter": 0.29, "ratio": 0.97},
    "leak": {"rate": 0.25},
    "foreign": None,
}


def test_a_subjects_line_holds_its_figures_and_a_dash_where_there_is_none():
    lines = subjects_table({"cat 1": REPORT, "cat 2": REPORT | {"foreign": {"normalised": 0.04}}}).splitlines()
    assert len(lines) == 4
    assert lines[2] == "| cat 1 | 2 | 0.20 | 0.70 | 0.80 | 0.83 | 0.80–0.90 | 0.60 | – | 0.97 | 25% | – |"
    assert lines[3].endswith("| 0.04 |")


def test_a_table_is_markdown():
    assert table(("a", "b"), [("x", "1")]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_the_font_draws():
    canvas = Image.new("L", (60, 30))
    ImageDraw.Draw(canvas).text((2, 2), "Abc", 255)
    assert np.asarray(canvas).any()
