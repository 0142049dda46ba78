"""Draw photo sets and contact sheets of the drawn world."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from miniature.world.identity import KINDS, UNSEEN_SEED_START
from miniature.world.photos import PHOTO_SIZE, draw_photo_set
from miniature.world.sheet import contact_sheet


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miniature.world", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    draw = commands.add_parser("draw", help="a photo set of one identity: JPEGs with EXIF, and truth.json")
    draw.add_argument("--kind", choices=KINDS, required=True)
    draw.add_argument("--seed", type=int, required=True, help=f"which identity; from {UNSEEN_SEED_START} up, one the miniature never saw")
    draw.add_argument("--photos", type=int, default=12, help="how many photos (default %(default)s)")
    draw.add_argument("--out", type=Path, required=True, help="folder to write into, made if need be")
    draw.add_argument("--size", type=int, default=PHOTO_SIZE, help="pixels across (default %(default)s)")
    draw.add_argument("--flaws", action="store_true", help="add a blurred photo, a near-duplicate and one of another subject")
    sheet = commands.add_parser("sheet", help="a contact sheet: kinds by styles, one identity in many scenes, many identities")
    sheet.add_argument("--out", type=Path, required=True, help="image file to write")
    sheet.add_argument("--seed", type=int, default=1, help="which identities and scenes (default %(default)s)")
    sheet.add_argument("--size", type=int, default=256, help="pixels across each picture (default %(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    asked = _parser().parse_args(arguments)
    if asked.command == "draw":
        truth = draw_photo_set(asked.kind, asked.seed, asked.photos, asked.out, flaws=asked.flaws, size=asked.size)
        print(f"{len(truth['photos'])} photos of {asked.kind} {asked.seed} in {asked.out}")
    else:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(asked.seed, asked.size).save(asked.out)
        print(asked.out)


if __name__ == "__main__":
    main()
