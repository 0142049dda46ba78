"""Every bad input gets its own answer, the good photos are kept, and nothing of the original file is stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from core.settings import Settings
from storage.wiring import Storage
from tests.unit.api.conftest import sign_in
from tests.unit.api.site import SITE, Customer, encoded, photo, picture
from tests.unit.metrics.pictures import png_bomb, with_exif


def test_a_good_photo_is_kept_and_shown(customer: Customer) -> None:
    subject = customer.subject()
    answer = customer.send(subject, ("minka.jpg", photo(1)))
    assert answer.status_code == 201
    kept = answer.json()["photos"][0]
    assert (kept["filename"], kept["verdict"], kept["width"]) == ("minka.jpg", "warn", 320)
    assert kept["reasons"][0]["code"] == "photo/small"
    thumb = customer.client.get(kept["urls"]["thumb"])
    assert (thumb.status_code, thumb.headers["content-type"]) == (200, "image/webp")


def test_no_photo_at_all(customer: Customer) -> None:
    subject = customer.subject()
    for answer, type_ in (
        (customer.client.post(f"/v1/subjects/{subject}/photos", json={"upload_ids": []}), "photos/none"),
        (customer.client.post("/v1/trainings", json={"subject_id": subject}), "photos/too-few"),
        (customer.client.post(f"/v1/subjects/{subject}/photos", content=b"not json"), "request/invalid"),
        (customer.client.post(f"/v1/subjects/{subject}/photos", json={}), "request/invalid"),
    ):
        assert (answer.status_code, answer.json()["type"]) == (422, f"urn:likeness:{type_}"), answer.text


def test_nine_photos_are_one_too_few(customer: Customer) -> None:
    subject = customer.photographed(9)
    answer = customer.client.post("/v1/trainings", json={"subject_id": subject})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:likeness:photos/too-few")
    assert "add 1 more" in answer.json()["detail"]


def test_of_twenty_one_photos_twenty_are_kept(customer: Customer) -> None:
    subject = customer.subject()
    answer = customer.send(subject, *((f"{n}.jpg", photo(n)) for n in range(21)))
    assert answer.status_code == 201
    assert answer.json()["counts"]["usable"] == 20
    (error,) = answer.json()["errors"]
    assert (error["filename"], error["code"]) == ("20.jpg", "photos/too-many")
    assert customer.client.post("/v1/trainings", json={"subject_id": subject}).status_code == 201


BAD_FILES = {
    "diary.jpg": (b"Dear diary, this is text." * 50, "photo/not-a-photo"),
    "cut.jpg": (encoded(picture(1).resize((900, 900)), quality=95)[:9000], "photo/damaged"),
    "bomb.png": (png_bomb(), "photo/too-many-pixels"),
    "dance.webp": (encoded(picture(1), "WEBP", save_all=True, append_images=[picture(2)]), "photo/animated"),
    "empty.jpg": (b"", "photo/empty"),
}


def test_bad_files_are_named_one_by_one_and_the_good_one_is_kept(customer: Customer) -> None:
    subject = customer.subject()
    files = [(name, data) for name, (data, _code) in BAD_FILES.items()]
    answer = customer.send(subject, *files, ("good.jpg", photo(1)))
    assert answer.status_code == 201
    assert [kept["filename"] for kept in answer.json()["photos"]] == ["good.jpg"]
    assert {error["filename"]: error["code"] for error in answer.json()["errors"]} == {name: code for name, (_, code) in BAD_FILES.items()}
    assert all(error["fix"] for error in answer.json()["errors"])
    assert customer.client.get("/healthz").status_code == 200


def test_only_bad_files_is_a_problem_with_an_item_for_each(customer: Customer) -> None:
    answer = customer.send(customer.subject(), *((name, data) for name, (data, _code) in BAD_FILES.items()))
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["type"] == "urn:likeness:photos/none-usable"
    assert len(answer.json()["errors"]) == len(BAD_FILES)


def test_cmyk_and_sixteen_bit_pictures_are_taken(customer: Customer) -> None:
    import numpy as np
    from PIL import Image

    deep = Image.fromarray((np.asarray(picture(2).convert("L")).astype(np.uint16)) << 8)
    answer = customer.send(customer.subject(), ("print.jpg", encoded(picture(1).convert("CMYK"))), ("deep.png", encoded(deep, "PNG")))
    assert [kept["verdict"] for kept in answer.json()["photos"]] == ["warn", "warn"]  # small, and nothing else
    assert all([reason["code"] for reason in kept["reasons"]] == ["photo/small"] for kept in answer.json()["photos"])


def test_turned_photos_stand_upright_and_nothing_of_the_camera_is_stored(customer: Customer, settings: Settings) -> None:
    subject = customer.subject()
    kept = customer.send(subject, ("phone.jpg", with_exif(picture(1, 320, 400), 6))).json()["photos"][0]
    assert (kept["width"], kept["height"]) == (400, 320)
    stored = stored_files(settings)
    assert len(stored) == 2
    for file in stored:
        assert b"Secret Camera" not in file.read_bytes()
        assert b"Exif" not in file.read_bytes()


def test_a_200_mb_body_is_refused_by_its_length_before_it_is_sent(customer: Customer) -> None:
    subject = customer.subject()
    never = customer.client.build_request("POST", f"/v1/subjects/{subject}/photos", content=b"")
    never.headers |= {"Content-Length": str(200 * 2**20), "Content-Type": "multipart/form-data; boundary=x"}
    answer = customer.client.send(never)
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:likeness:request/too-large")


def test_a_200_mb_body_of_unknown_length_is_cut_off(customer: Customer) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="huge.jpg"\r\n\r\n'
        yield head
        for _ in range(200):
            sent += 1
            yield bytes(2**20)

    subject = customer.subject()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = customer.client.post(f"/v1/subjects/{subject}/photos", content=body(), headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    assert customer.client.get("/healthz").status_code == 200


def test_one_file_beyond_the_limit_is_refused_and_the_other_kept(customer: Customer, settings: Settings) -> None:
    settings.max_photo_bytes = 100_000
    answer = customer.send(customer.subject(), ("huge.jpg", bytes(100_001)), ("good.jpg", photo(1)))
    assert [error["code"] for error in answer.json()["errors"]] == ["photo/too-large"]
    assert len(answer.json()["photos"]) == 1


def test_an_upload_by_its_form(customer: Customer, settings: Settings) -> None:
    subject = customer.subject()
    places = customer.client.post(
        f"/v1/subjects/{subject}/uploads", json={"files": [{"filename": "../a.jpg", "content_type": "image/jpeg"}, {"filename": "b.jpg"}]}
    ).json()["uploads"]
    assert customer.client.post(places[0]["url"], data=places[0]["fields"], files={"file": photo(1)}).status_code == 204
    answer = customer.client.post(f"/v1/subjects/{subject}/photos", json={"upload_ids": [place["id"] for place in places]})
    assert [kept["filename"] for kept in answer.json()["photos"]] == ["a.jpg"]
    assert [error["code"] for error in answer.json()["errors"]] == ["photo/not-received"]
    assert not [file for file in stored_files(settings) if "incoming" in str(file)]


def test_an_altered_upload_link_is_refused(customer: Customer) -> None:
    subject = customer.subject()
    (place,) = customer.client.post(f"/v1/subjects/{subject}/uploads", json={"files": [{"filename": "a.jpg"}]}).json()["uploads"]
    answer = customer.client.post(place["url"][:-3] + "abc", files={"file": photo(1)})
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:likeness:link/refused")


def test_the_set_is_judged_anew_as_photos_come_and_go(customer: Customer) -> None:
    subject = customer.subject()
    customer.send(subject, ("first.jpg", photo(1)), ("other.jpg", photo(2)), ("twin.jpg", encoded(picture(1), quality=60)))
    verdicts = {one["filename"]: one for one in customer.photos(subject)}
    assert verdicts["twin.jpg"]["verdict"] == "rejected"
    assert "first.jpg" in verdicts["twin.jpg"]["reasons"][-1]["message"]
    receipt = customer.client.delete(f"/v1/subjects/{subject}/photos/{verdicts['first.jpg']['id']}").json()
    assert receipt["scope"] == "photo"
    assert {one["filename"]: one["verdict"] for one in customer.photos(subject)} == {"other.jpg": "warn", "twin.jpg": "warn"}


def test_a_repeated_form_with_the_same_key_acts_once(customer: Customer) -> None:
    subject = customer.subject()
    first = customer.send(subject, ("a.jpg", photo(1)), **{"Idempotency-Key": "one"})
    again = customer.send(subject, ("a.jpg", photo(1)), **{"Idempotency-Key": "one"})
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["photos"][0]["id"] == first.json()["photos"][0]["id"]
    other = customer.send(subject, ("a.jpg", photo(2)), **{"Idempotency-Key": "one"})
    assert (other.status_code, other.json()["type"]) == (422, "urn:likeness:idempotency/other-request")


@pytest.mark.parametrize("path", ["", "/photos", "/uploads"])
def test_a_foreign_subject_is_not_found(client: TestClient, storage: Storage, path: str) -> None:
    subject = sign_in(client, storage, "mia@example.com").subject()
    leo = sign_in(TestClient(client.app, base_url=SITE, headers={"Origin": SITE}), storage, "leo@example.com")
    if path != "/uploads":
        assert leo.client.get(f"/v1/subjects/{subject}{path}").status_code == 404
    if path:
        body = {"files": [{"filename": "a.jpg"}]} if path == "/uploads" else {"upload_ids": ["x"]}
        assert leo.client.post(f"/v1/subjects/{subject}{path}", json=body).status_code == 404
    assert leo.client.delete(f"/v1/subjects/{subject}").status_code == 404


def stored_files(settings: Settings) -> list[Path]:
    return [path for path in (settings.var_dir / "objects").rglob("*") if path.is_file()]


def test_a_photo_is_described_in_the_customers_words(customer: Customer) -> None:
    subject = customer.subject()
    photo_id = customer.send(subject, ("minka.jpg", photo(1))).json()["photos"][0]["id"]
    address = f"/v1/subjects/{subject}/photos/{photo_id}"
    answer = customer.client.patch(address, json={"description": "  on a red sofa,\n by lamplight "})
    assert (answer.status_code, answer.json()["description"]) == (200, "on a red sofa, by lamplight")
    assert customer.photos(subject)[0]["description"] == "on a red sofa, by lamplight"
    assert customer.client.patch(address, json={"description": ""}).json()["description"] == ""


def test_a_description_that_is_too_long_says_how_long_it_may_be(customer: Customer) -> None:
    subject = customer.subject()
    photo_id = customer.send(subject, ("minka.jpg", photo(1))).json()["photos"][0]["id"]
    answer = customer.client.patch(f"/v1/subjects/{subject}/photos/{photo_id}", json={"description": "red " * 100})
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:likeness:photo/description-too-long")
    assert "at most 300" in answer.json()["detail"]
    page = customer.client.post(f"/subjects/{subject}/photos/{photo_id}/describe", data={"description": "red " * 100})
    assert page.status_code == 422 and "at most 300" in page.text and 'role="alert"' in page.text


def test_the_page_takes_a_description_and_shows_it(customer: Customer) -> None:
    subject = customer.subject()
    photo_id = customer.send(subject, ("minka.jpg", photo(1))).json()["photos"][0]["id"]
    saved = customer.client.post(f"/subjects/{subject}/photos/{photo_id}/describe", data={"description": "<b>by a window</b>"})
    assert saved.status_code == 303
    page = customer.client.get(f"/subjects/{subject}/photos").text
    assert "&lt;b&gt;by a window&lt;/b&gt;" in page and "<b>by a window" not in page


def test_nobody_describes_photos_of_others(customer: Customer, storage: Storage) -> None:
    subject, other = customer.subject(), customer.subject(name="Rex")
    photo_id = customer.send(subject, ("minka.jpg", photo(1))).json()["photos"][0]["id"]
    assert customer.client.patch(f"/v1/subjects/{other}/photos/{photo_id}", json={"description": "x"}).status_code == 404
    leo = sign_in(TestClient(customer.client.app, base_url=SITE, headers={"Origin": SITE}), storage, "leo@example.com").client
    assert leo.patch(f"/v1/subjects/{subject}/photos/{photo_id}", json={"description": "x"}).status_code == 404
    assert leo.post(f"/subjects/{subject}/photos/{photo_id}/describe", data={"description": "x"}).status_code == 404
    assert customer.photos(subject)[0]["description"] == ""
