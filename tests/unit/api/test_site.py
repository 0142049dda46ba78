from __future__ import annotations

import json
from pathlib import Path

from api.site import base_card, store_origins


def test_a_folder_speaks_for_itself(tmp_path: Path) -> None:
    facts = {"title": "Small Flux", "licence": "Apache-2.0", "notes": ["Drawn pictures only.", "It says nothing about real faces."]}
    (tmp_path / "likeness.json").write_text(json.dumps(facts))
    card = base_card(str(tmp_path))
    assert (card.title, card.licence) == ("Small Flux", "Apache-2.0")
    assert card.note == "Drawn pictures only. It says nothing about real faces."


def test_known_bases_say_whether_commerce_is_allowed() -> None:
    assert base_card("black-forest-labs/FLUX.1-dev").commercial is False
    assert "Non-commercial" in base_card("black-forest-labs/FLUX.1-Kontext-dev").note
    assert base_card("black-forest-labs/FLUX.2-klein-base-4B").commercial is True


def test_an_unknown_base_claims_nothing(tmp_path: Path) -> None:
    assert "not stated" in base_card(str(tmp_path)).licence
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert base_card(str(tmp_path)).licence == "mit"


def test_browsers_may_talk_to_the_store() -> None:
    assert store_origins("file:///srv/objects") == ()
    assert store_origins("s3://photos?endpoint_url=https://s3.example.com&region=eu") == (
        "https://s3.example.com",
        "https://photos.s3.example.com",
    )
    inside = "s3://photos?endpoint_url=http://s3:8333&public_url=https://files.example.com&addressing=path"
    assert store_origins(inside) == ("https://files.example.com", "https://photos.files.example.com")
