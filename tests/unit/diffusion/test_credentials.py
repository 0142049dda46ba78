import io
import json

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError
from core.settings import Settings
from diffusion.credentials import credentials_of, read_credentials
from diffusion.provenance import TRAINED_ALGORITHMIC_MEDIA, marked_jpeg, marked_png, read_marks
from tests.unit.diffusion.certificates import write_chain

MAKERS = {"image/png": marked_png, "image/jpeg": marked_jpeg}


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def settings(tmp_path, **values):
    return Settings(_env_file=None, var_dir=tmp_path, **values)


@pytest.mark.parametrize("kind", ["ec", "ed25519"])
@pytest.mark.parametrize("media_type", MAKERS)
def test_a_signed_picture_says_how_it_was_made_and_can_be_verified(tmp_path, kind, media_type):
    chain, key = write_chain(tmp_path, kind)
    marked = MAKERS[media_type](picture())
    signed = credentials_of(settings(tmp_path, c2pa_certificate=chain, c2pa_key=key)).sign(marked, media_type)
    manifest = read_credentials(signed, media_type)
    assert manifest["validation"] == "Valid"  # the signature and the hash of the pixels hold; the root is trusted by nobody but this test
    assert manifest["signature_info"]["issuer"] == "Likeness tests"
    (created,) = [a for assertion in manifest["assertions"] for a in assertion["data"].get("actions", [])]
    assert (created["action"], created["digitalSourceType"]) == ("c2pa.created", TRAINED_ALGORITHMIC_MEDIA)
    assert read_marks(signed) == read_marks(marked) != {}
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(signed))), np.asarray(Image.open(io.BytesIO(marked))))


def test_a_changed_picture_is_found_out(tmp_path):
    chain, key = write_chain(tmp_path)
    signed = bytearray(credentials_of(settings(tmp_path, c2pa_certificate=chain, c2pa_key=key)).sign(marked_png(picture()), "image/png"))
    at = signed.rindex(b"IDAT") + 40
    signed[at] ^= 0xFF
    assert read_credentials(bytes(signed), "image/png")["validation"] == "Invalid"


def test_the_manifest_tells_nothing_of_the_customer(tmp_path):
    chain, key = write_chain(tmp_path)
    signed = credentials_of(settings(tmp_path, c2pa_certificate=chain, c2pa_key=key)).sign(marked_png(picture()), "image/png")
    known = {
        "claim_generator_info",
        "title",
        "format",
        "instance_id",
        "assertions",
        "signature_info",
        "label",
        "validation",
        "claim_version",
    }
    manifest = read_credentials(signed, "image/png")
    assert set(manifest) - known - {"thumbnail", "ingredients"} == set(), json.dumps(manifest)
    assert "prompt" not in json.dumps(manifest)


def test_nothing_is_signed_without_a_certificate(tmp_path):
    assert credentials_of(settings(tmp_path)) is None
    assert read_credentials(marked_png(picture()), "image/png") is None


def test_a_certificate_that_cannot_be_read_says_which_settings(tmp_path):
    (tmp_path / "chain.pem").write_text("not a certificate")
    broken = settings(tmp_path, c2pa_certificate=tmp_path / "chain.pem", c2pa_key=tmp_path / "missing.pem")
    with pytest.raises(UserError, match="LIKENESS_C2PA_CERTIFICATE"):
        credentials_of(broken)


def test_a_key_of_another_certificate_is_refused(tmp_path):
    chain, _ = write_chain(tmp_path)
    (tmp_path / "other").mkdir()
    _, key = write_chain(tmp_path / "other")
    with pytest.raises(UserError, match="cannot be signed"):
        credentials_of(settings(tmp_path, c2pa_certificate=chain, c2pa_key=key)).sign(marked_png(picture()), "image/png")
