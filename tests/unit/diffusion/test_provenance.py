import io

import numpy as np
from PIL import Image

from diffusion.provenance import TRAINED_ALGORITHMIC_MEDIA, marked_jpeg, marked_png, read_marks


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))


def test_the_mark_is_read_back_and_the_pixels_are_untouched():
    png = marked_png(picture())
    marks = read_marks(png)
    assert marks["digital_source_type"] == TRAINED_ALGORITHMIC_MEDIA
    assert marks["software"].startswith("Likeness ")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), np.asarray(picture()))


def test_the_mark_survives_in_the_files_own_xmp_chunk():
    png = marked_png(picture())
    assert b"iTXtXML:com.adobe.xmp\x00" in png


def test_nothing_that_the_picture_carried_is_kept():
    carried = picture()
    carried.info["comment"] = "a prompt"
    carried.getexif()[270] = "a secret"
    assert b"secret" not in marked_png(carried)
    assert b"a prompt" not in marked_png(carried)


def test_an_unmarked_picture_has_no_marks():
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    assert read_marks(buffer.getvalue()) == {}


def test_a_jpeg_carries_the_same_marks_in_its_own_segment():
    jpeg = marked_jpeg(picture())
    assert read_marks(jpeg) == read_marks(marked_png(picture()))
    assert jpeg.index(b"http://ns.adobe.com/xap/1.0/\x00") < 100  # APP1, right after the header
    assert Image.open(io.BytesIO(jpeg)).size == (32, 24)
