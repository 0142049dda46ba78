from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from core.poses import pose_bank
from core.settings import Settings
from core.words import JobState
from diffusion.provenance import read_marks
from storage import adapters, keys, portraits, trainings
from storage.tables import Adapter, PortraitImage, now
from storage.wiring import Storage
from tests.unit.api.conftest import sign_in
from tests.unit.api.site import SITE, Customer, encoded, picture


@pytest.fixture
def adapter(customer: Customer, storage: Storage) -> str:
    """As a trainer leaves it: weights in the store, a row, a training that succeeded."""
    training = customer.client.post("/v1/trainings", json={"subject_id": customer.photographed(10)}).json()
    account, adapter_id = account_of(customer), adapters.new_adapter_id()
    storage.objects.put(keys.adapter_weights(account, adapter_id), b"weights")
    with storage.db.session() as session:
        row, job = trainings.get(session, account, training["id"])
        job.state, job.started_at, job.completed_at = JobState.SUCCEEDED, now(), now()
        about = {"rank": 32, "alpha": 32.0, "trigger_token": row.trigger_token, "class_word": "cat", "card": CARD}
        storage.objects.put(keys.adapter_sample(account, adapter_id, "sample-0.png"), encoded(picture(3), "PNG"), "image/png")
        files = {"object_key": keys.adapter_weights(account, adapter_id), "sha256": "0" * 64, "size_bytes": 7}
        owner = {"account_id": account, "subject_id": row.subject_id, "training_id": row.id, "base_model": "miniature"}
        adapters.add(session, Adapter(id=adapter_id, **about, **files, **owner))
    return adapter_id


CARD = {"steps": 30, "samples": [{"file": "sample-0.png", "prompt": "an oil painting of zokzex cat"}]}


def rendered(customer: Customer, storage: Storage, portrait: dict) -> None:
    """As a render worker leaves it."""
    account = account_of(customer)
    key = keys.portrait_image(account, portrait["id"], 0)
    storage.objects.put(key, encoded(picture(1), "PNG"), "image/png")
    with storage.db.session() as session:
        row, job = portraits.get(session, account, portrait["id"])
        image = PortraitImage(
            account_id=account, portrait_id=row.id, n=0, seed=row.seed, object_key=key, sha256="0" * 64, width=320, height=320
        )
        image.likeness = 0.83
        portraits.add_image(session, image)
        job.state, job.started_at, job.completed_at = JobState.SUCCEEDED, now(), now()


def account_of(customer: Customer) -> str:
    return str(customer.client.get("/v1/account").json()["id"])


def test_a_style_brings_its_recipe_and_the_trigger_token(customer: Customer, adapter: str) -> None:
    answer = customer.client.post("/v1/portraits", json={"adapter_id": adapter, "style": "oil-painting", "count": 2, "seed": 5})
    assert answer.status_code == 201, answer.text
    portrait = answer.json()
    trigger = customer.client.get(f"/v1/adapters/{adapter}").json()["trigger_token"]
    assert f"{trigger} cat" in portrait["prompt"]
    assert (portrait["status"], portrait["seed"], portrait["count"], portrait["images"]) == ("starting", 5, 2, [])


def test_a_prompt_and_its_own_numbers(customer: Customer, adapter: str) -> None:
    body = {"adapter_id": adapter, "prompt": "on a sofa", "lora_scale": 0.8, "guidance_scale": 2.5, "num_inference_steps": 12}
    params = customer.client.post("/v1/portraits", json=body).json()["params"]
    assert {name: params[name] for name in ("lora_scale", "guidance_scale", "num_inference_steps")} == {
        "lora_scale": 0.8,
        "guidance_scale": 2.5,
        "num_inference_steps": 12,
    }


def test_the_bare_base_model_needs_no_adapter(customer: Customer) -> None:
    answer = customer.client.post("/v1/portraits", json={"style": "oil-painting", "class_word": "cat"})
    assert answer.status_code == 201
    assert answer.json()["adapter_id"] is None


@pytest.mark.parametrize(
    ("body", "type_"),
    [
        ({}, "portrait/style-or-prompt"),
        ({"style": "oil-painting", "prompt": "x"}, "portrait/style-or-prompt"),
        ({"style": "oil-painting", "count": 9}, "portrait/count"),
        ({"style": "oil-painting", "count": 0}, "portrait/count"),
        ({"style": "no-such"}, "not-found"),
        ({"style": "oil-painting", "adapter_id": "ada_x"}, "not-found"),
        ({"style": "oil-painting", "lora_scale": 3}, "request/invalid"),
    ],
)
def test_what_cannot_be_made_says_why(customer: Customer, body: dict, type_: str) -> None:
    assert customer.client.post("/v1/portraits", json=body).json()["type"] == f"urn:likeness:{type_}"


def test_pictures_come_with_links_and_their_likeness(customer: Customer, adapter: str, storage: Storage) -> None:
    portrait = customer.client.post("/v1/portraits", json={"adapter_id": adapter, "style": "oil-painting"}).json()
    rendered(customer, storage, portrait)
    (image,) = customer.client.get(portrait["urls"]["get"]).json()["images"]
    assert image["likeness"] == 0.83
    picture_, download = customer.client.get(image["urls"]["picture"]), customer.client.get(image["urls"]["download"])
    assert (picture_.status_code, picture_.headers["content-type"]) == (200, "image/png")
    assert "attachment" in download.headers["content-disposition"]


def test_the_adapter_is_downloaded_by_a_link_that_expires(customer: Customer, adapter: str) -> None:
    answer = customer.client.get(f"/v1/adapters/{adapter}/download")
    assert answer.status_code == 303
    file = customer.client.get(answer.headers["location"])
    assert file.content == b"weights"
    assert ".safetensors" in file.headers["content-disposition"]


def test_styles_are_listed_as_data(client: TestClient) -> None:
    styles = client.get("/v1/styles").json()["items"]
    assert len(styles) >= 8
    assert all("{subject}" in style["prompt"] for style in styles)


def test_nothing_of_another_account_is_found(customer: Customer, adapter: str, storage: Storage) -> None:
    portrait = customer.client.post("/v1/portraits", json={"adapter_id": adapter, "style": "oil-painting"}).json()
    leo = sign_in(TestClient(customer.client.app, base_url=SITE, headers={"Origin": SITE}), storage, "leo@example.com").client
    for answer in (
        leo.get(f"/v1/adapters/{adapter}"),
        leo.get(f"/v1/adapters/{adapter}/download"),
        leo.delete(f"/v1/adapters/{adapter}"),
        leo.get(portrait["urls"]["get"]),
        leo.get(portrait["urls"]["events"]),
        leo.post(portrait["urls"]["cancel"]),
        leo.delete(portrait["urls"]["get"]),
        leo.post("/v1/portraits", json={"adapter_id": adapter, "style": "oil-painting"}),
        leo.get(f"/portraits/{portrait['id']}/card"),
    ):
        assert answer.status_code == 404, answer.url
    assert leo.get("/v1/adapters").json()["items"] == leo.get("/v1/portraits").json()["items"] == []


def test_erasing_an_adapter_takes_its_portraits_along(customer: Customer, adapter: str, storage: Storage) -> None:
    portrait = customer.client.post("/v1/portraits", json={"adapter_id": adapter, "style": "oil-painting"}).json()
    rendered(customer, storage, portrait)
    receipt = customer.client.delete(f"/v1/adapters/{adapter}").json()
    assert (receipt["scope"], receipt["rows"]["portraits"]) == ("adapter", 1)
    assert receipt["signature"]
    assert customer.client.get(portrait["urls"]["get"]).status_code == 404


def test_the_gallery_shows_pictures_and_takes_orders(customer: Customer, adapter: str, storage: Storage) -> None:
    subject = customer.client.get(f"/v1/adapters/{adapter}").json()["subject_id"]
    form = {"adapter_id": adapter, "style": "oil-painting", "count": "1", "seed": ""}
    ordered = customer.client.post(f"/subjects/{subject}/portraits", data=form)
    assert ordered.status_code == 303
    portrait = customer.client.get("/v1/portraits").json()["items"][0]
    rendered(customer, storage, portrait)
    page = customer.client.get(ordered.headers["location"]).text
    assert "Likeness 83 %" in page
    assert "AI-made" in page
    assert customer.client.get(f"/portraits/{portrait['id']}/card").status_code == 200


def test_pictures_that_the_adapter_was_chosen_by_are_shown_and_erased_with_it(customer: Customer, adapter: str, storage: Storage) -> None:
    answer = customer.client.get(f"/v1/adapters/{adapter}").json()
    (sample,) = answer["samples"]
    assert sample["prompt"] == "an oil painting of zokzex cat"
    assert customer.client.get(sample["urls"]["picture"]).headers["content-type"] == "image/png"
    page = customer.client.get(f"/subjects/{answer['subject_id']}").text
    assert 'class="samples"' in page and "AI-made: an oil painting of" in page
    customer.client.delete(f"/v1/adapters/{adapter}")
    assert not storage.objects.exists(keys.adapter_sample(account_of(customer), adapter, "sample-0.png"))
    assert customer.client.get(sample["urls"]["picture"]).status_code == 404


def test_a_bad_order_is_explained_on_the_page(customer: Customer, adapter: str) -> None:
    subject = customer.client.get(f"/v1/adapters/{adapter}").json()["subject_id"]
    for form in ({"style": "", "prompt": ""}, {"style": "oil-painting", "seed": "abc"}):
        page = customer.client.post(f"/subjects/{subject}/portraits", data={"adapter_id": adapter, **form})
        assert page.status_code == 422
        assert 'role="alert"' in page.text


def test_a_portrait_under_way_shows_what_it_looks_like_so_far(customer: Customer, storage: Storage, adapter: str) -> None:
    portrait = customer.client.post("/v1/portraits", json={"adapter_id": adapter, "prompt": "a cat"}).json()
    card = f"/portraits/{portrait['id']}/card"
    assert 'data-preview alt="What the picture looks like so far" width="128" height="128" hidden' in customer.client.get(card).text
    with storage.db.session() as session:
        _, job = portraits.get(session, account_of(customer), portrait["id"])
        job.state, job.progress = JobState.PROCESSING, {"step": 3, "total": 20, "preview": "data:image/jpeg;base64,AAAA"}
    assert 'src="data:image/jpeg;base64,AAAA"' in customer.client.get(card).text
    assert "img-src 'self' blob: data:" in customer.client.get(card).headers["Content-Security-Policy"]


@pytest.fixture
def posing(settings: Settings) -> None:
    """A service whose base model takes poses: the settings name a ControlNet."""
    settings.controlnet = "some/control"
    settings.__dict__.pop("controlnet_path", None)


def order(customer: Customer, adapter: str, **wishes: object) -> dict:
    return customer.client.post("/v1/portraits", json={"adapter_id": adapter, "style": "oil-painting", **wishes}).json()


def test_a_pose_replaces_the_styles_view_and_mode(customer: Customer, adapter: str, posing: None) -> None:
    poses = {pose["name"] for pose in customer.client.get("/v1/poses").json()["items"]}
    assert "close-up-left" in poses
    portrait = order(customer, adapter, pose="close-up-left")
    assert (portrait["params"]["mode"], portrait["params"]["pose"]) == ("pose", "close-up-left")
    assert "in close-up, turned to the left" in portrait["prompt"]
    assert "front" not in portrait["prompt"]
    assert order(customer, adapter, pose="handstand")["type"] == "urn:likeness:not-found"
    assert order(customer, adapter, pose="close-up-left", reference_photo="largest")["type"] == "urn:likeness:portrait/pose-and-photo"


def test_without_a_controlnet_there_are_no_poses(customer: Customer, adapter: str, settings: Settings) -> None:
    settings.controlnet = ""
    settings.__dict__.pop("controlnet_path", None)
    assert customer.client.get("/v1/poses").json()["items"] == []
    assert order(customer, adapter, pose="close-up-left")["type"] == "urn:likeness:portrait/mode"


def test_a_portrait_may_be_drawn_from_a_usable_photo_of_the_same_subject(customer: Customer, adapter: str) -> None:
    own = customer.photos(customer.client.get(f"/v1/adapters/{adapter}").json()["subject_id"])[0]["id"]
    params = order(customer, adapter, reference_photo=own)["params"]
    assert (params["mode"], params["reference_photo"]) == ("reference", own)
    other = customer.photos(customer.photographed(1))[0]["id"]
    assert order(customer, adapter, reference_photo=other)["type"] == "urn:likeness:portrait/no-reference"
    assert order(customer, adapter, reference_photo="pho_x")["type"] == "urn:likeness:not-found"


def test_the_best_of_several_has_bounds(customer: Customer, adapter: str) -> None:
    portrait = order(customer, adapter, best_of=4)
    assert (portrait["count"], portrait["params"]["best_of"]) == (4, 4)
    for wishes in ({"best_of": 1}, {"best_of": 9}, {"best_of": 4, "count": 2}):
        assert order(customer, adapter, **wishes)["type"] == "urn:likeness:portrait/best-of"
    bare = customer.client.post("/v1/portraits", json={"style": "oil-painting", "class_word": "cat", "best_of": 4}).json()
    assert bare["type"] == "urn:likeness:portrait/best-of"


@pytest.mark.parametrize(
    ("wishes", "least"),
    [({}, 0.5), ({"seed": 7}, 0.0), ({"best_of": 4}, 0.0), ({"redraw": False}, 0.0), ({"seed": 7, "redraw": True}, 0.5)],
)
def test_what_is_not_alike_is_drawn_again_unless_a_seed_or_the_best_of_several_is_asked_for(
    customer: Customer, adapter: str, wishes: dict[str, object], least: float
) -> None:
    assert order(customer, adapter, **wishes)["params"]["redraw_below"] == least


def test_a_style_may_say_from_what_likeness_on_it_is_good_enough(customer: Customer, adapter: str, settings: Settings) -> None:
    settings.redraw_below = 0.3
    assert order(customer, adapter)["params"]["redraw_below"] == 0.3
    assert order(customer, adapter, style="blueprint")["params"]["redraw_below"] == 0.0
    bare = customer.client.post("/v1/portraits", json={"style": "oil-painting", "class_word": "cat"}).json()
    assert bare["params"]["redraw_below"] == 0.0


def test_a_picture_is_enlarged_as_a_portrait_of_its_own(customer: Customer, adapter: str, storage: Storage) -> None:
    portrait = order(customer, adapter)
    rendered(customer, storage, portrait)
    (image,) = customer.client.get(portrait["urls"]["get"]).json()["images"]
    answer = customer.client.post(image["urls"]["upscale"])
    assert answer.status_code == 201
    enlarged = answer.json()
    assert enlarged["params"] == {"mode": "upscale", "source": {"portrait": portrait["id"], "n": 0}}
    assert (enlarged["adapter_id"], enlarged["style"], enlarged["count"]) == (adapter, "oil-painting", 1)
    assert customer.client.post(f"/v1/portraits/{portrait['id']}/images/7/upscale").status_code == 404
    with storage.db.session() as session:
        session.scalars(select(PortraitImage)).one().width = 4096
    assert customer.client.post(image["urls"]["upscale"]).json()["type"] == "urn:likeness:portrait/too-large"


def test_a_picture_comes_as_jpeg_with_its_marks(customer: Customer, adapter: str, storage: Storage) -> None:
    portrait = order(customer, adapter)
    rendered(customer, storage, portrait)
    (image,) = customer.client.get(portrait["urls"]["get"]).json()["images"]
    answer = customer.client.get(image["urls"]["jpeg"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert read_marks(answer.content)["digital_source_type"].endswith("/trainedAlgorithmicMedia")
    assert ".jpg" in answer.headers["content-disposition"]


def test_pictures_of_another_account_are_neither_given_out_nor_enlarged(customer: Customer, adapter: str, storage: Storage) -> None:
    portrait = order(customer, adapter)
    rendered(customer, storage, portrait)
    leo = sign_in(TestClient(customer.client.app, base_url=SITE, headers={"Origin": SITE}), storage, "leo@example.com").client
    image = f"/v1/portraits/{portrait['id']}/images/0"
    answers = [leo.get(f"{image}.jpg"), leo.post(f"{image}/upscale"), leo.post(f"/portraits/{portrait['id']}/images/0/upscale")]
    assert [answer.status_code for answer in answers] == [404] * 3


def test_the_page_offers_what_the_base_model_can_do(customer: Customer, adapter: str, storage: Storage, posing: None) -> None:
    subject = customer.client.get(f"/v1/adapters/{adapter}").json()["subject_id"]
    page = customer.client.get(f"/subjects/{subject}").text
    assert page.count('name="pose"') == 1 + len(pose_bank())
    assert page.count('name="reference_photo"') == 1 + 10
    form = {"adapter_id": adapter, "style": "oil-painting", "count": "3", "ranked": "yes", "pose": "portrait-up", "reference_photo": ""}
    assert customer.client.post(f"/subjects/{subject}/portraits", data=form).status_code == 303
    portrait = customer.client.get("/v1/portraits").json()["items"][0]
    assert (portrait["count"], portrait["params"]["best_of"], portrait["params"]["pose"]) == (3, 3, "portrait-up")
    rendered(customer, storage, portrait)
    with storage.db.session() as session:
        portraits.get(session, account_of(customer), portrait["id"])[1].metrics = {"redrawn": 1}
    page = customer.client.get(f"/subjects/{subject}").text
    assert "Enlarge ×2" in page
    assert "One picture was not like" in page
    enlarged = customer.client.post(f"/portraits/{portrait['id']}/images/0/upscale")
    assert enlarged.headers["location"].startswith(f"/subjects/{subject}#por_")


def test_a_page_without_those_modes_does_not_offer_them(customer: Customer, adapter: str, settings: Settings) -> None:
    settings.controlnet = ""
    settings.__dict__.pop("controlnet_path", None)
    subject = customer.client.get(f"/v1/adapters/{adapter}").json()["subject_id"]
    assert 'name="pose"' not in customer.client.get(f"/subjects/{subject}").text
