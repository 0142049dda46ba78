"""Rules of subjects, photos, trainings, adapters and portraits, and that nothing of one account shows to another."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy.orm import Session

from core.errors import UserError
from core.settings import Settings
from core.words import JobState, PhotoVerdict, SubjectKind
from storage import adapters, consents, photos, portraits, subjects, trainings
from storage.tables import Account, Adapter, Job, Photo, Subject, now
from storage.trigger import new_trigger_token
from storage.wiring import Storage
from tests.unit.storage.conftest import World


@pytest.fixture
def account(world: World) -> Account:
    return world.account()


@pytest.fixture
def subject(world: World, account: Account) -> Subject:
    return world.subject(account)


def refusal(storage: Storage, act: Callable[[Session], object]) -> UserError:
    with pytest.raises(UserError) as caught, storage.db.session() as session:
        act(session)
    return caught.value


def train(storage: Storage, settings: Settings, subject: Subject) -> trainings.Training:
    with storage.db.session() as session:
        return trainings.create(session, settings, subject.account_id, subject.id)[0]


def test_a_subject_comes_with_its_consent(storage: Storage, subject: Subject) -> None:
    with storage.db.reader() as session:
        consent = subjects.consent_of(session, subject.id)
    assert consent is not None and consent.text == "I agree."
    assert subject.class_word == "cat"


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ({"consent_text": "  "}, "consent/missing"),
        ({"kind": "horse"}, "subject/kind"),
        ({"name": "  "}, "subject/name"),
        ({"name": "x" * 81}, "subject/name"),
        ({"class_word": "cat, ohwx"}, "subject/class-word"),
    ],
)
def test_a_subject_that_cannot_be(storage: Storage, account: Account, values: dict[str, str], type_: str) -> None:
    good = {"name": "Miso", "kind": "cat", "consent_text": consents.TEXT}
    assert refusal(storage, lambda session: subjects.create(session, account.id, **(good | values))).type == type_


def test_a_breed_is_a_class_word(storage: Storage, account: Account) -> None:
    with storage.db.session() as session:
        assert subjects.create(session, account.id, "Rex", "dog", "Yes.", class_word="Border  Collie").class_word == "border collie"


def test_too_few_photos_says_how_many_and_why(storage: Storage, settings: Settings, world: World, subject: Subject) -> None:
    for verdict in ("good", "warn", "rejected"):
        world.photo(subject, verdict)
    error = refusal(storage, lambda session: trainings.create(session, settings, subject.account_id, subject.id))
    assert error.type == "photos/too-few"
    assert (error.extra["usable"], error.extra["missing"]) == (2, 1)
    assert "add 1 more" in error.detail
    assert len(error.extra["photos"]) == 1


def test_too_many_photos(storage: Storage, settings: Settings, world: World, subject: Subject) -> None:
    for _ in range(settings.max_photos + 1):
        world.photo(subject)
    error = refusal(storage, lambda session: trainings.create(session, settings, subject.account_id, subject.id))
    assert error.type == "photos/too-many"
    assert "erase 1" in error.detail


def test_a_full_subject_takes_no_photo_but_still_lists_rejected_ones(
    storage: Storage, settings: Settings, world: World, subject: Subject
) -> None:
    for _ in range(settings.max_photos):
        world.photo(subject)
    one_more = world.photo(world.subject(world.account("b@example.com")))

    def copy(verdict: PhotoVerdict) -> Photo:
        values = {column.name: getattr(one_more, column.name) for column in Photo.__table__.columns}
        return Photo(**(values | {"id": f"pho_{verdict}", "account_id": subject.account_id, "subject_id": subject.id, "verdict": verdict}))

    assert refusal(storage, lambda session: photos.add(session, settings, copy(PhotoVerdict.GOOD))).type == "photos/too-many"
    assert refusal(storage, lambda session: photos.new_upload(session, settings, subject.account_id, subject.id, "x")).status == 409
    with storage.db.session() as session:
        photos.add(session, settings, copy(PhotoVerdict.REJECTED))
        assert len(photos.usable(session, subject.id)) == settings.max_photos
    with storage.db.reader() as session:
        assert subjects.photo_counts(session, [subject.id, "other"]) == {subject.id: {"good": 5, "rejected": 1}, "other": {}}


@pytest.mark.parametrize(
    ("name", "plain"), [("../../etc/passwd", "passwd"), ("C:\\x\\me.jpg", "me.jpg"), ("a\x00b.png", "ab.png"), ("", "photo")]
)
def test_filenames_are_only_shown(name: str, plain: str) -> None:
    assert photos.plain_filename(name) == plain


def test_an_upload_has_a_place_of_its_own(storage: Storage, settings: Settings, subject: Subject) -> None:
    with storage.db.session() as session:
        upload = photos.new_upload(session, settings, subject.account_id, subject.id, "me.jpg")
        assert photos.get_upload(session, subject.account_id, upload.id) is upload
    assert upload.object_key.startswith(f"accounts/{subject.account_id}/subjects/{subject.id}/incoming/")
    assert upload.expires_at > now()


def test_one_training_of_a_subject_at_a_time_and_one_trigger_for_ever(
    storage: Storage, settings: Settings, world: World, subject: Subject
) -> None:
    for _ in range(settings.min_photos):
        world.photo(subject)
    first = train(storage, settings, subject)
    error = refusal(storage, lambda session: trainings.create(session, settings, subject.account_id, subject.id))
    assert (error.type, error.status, error.extra) == ("training/already-running", 409, {"training_id": first.id})
    with storage.db.session() as session:
        _, job = trainings.cancel(session, subject.account_id, first.id)
        assert job.state == JobState.CANCELED
    second = train(storage, settings, subject)
    assert second.trigger_token == first.trigger_token
    other = world.subject(Account(id=subject.account_id), name="Tofu")
    for _ in range(settings.min_photos):
        world.photo(other)
    assert train(storage, settings, other).trigger_token != first.trigger_token


def test_trigger_tokens_are_rare_pronounceable_and_many() -> None:
    tokens = {new_trigger_token() for _ in range(500)}
    assert len(tokens) > 300
    assert all(token.isalpha() and token.islower() and 5 <= len(token) <= 9 for token in tokens)
    assert all(
        set(token) & set("aeiou") and any(joint in token for joint in ("rvx", "kz", "vz", "zk", "xk", "qv", "zv", "xv", "jz", "vk"))
        for token in tokens
    )


@pytest.fixture
def adapter(world: World, subject: Subject) -> Adapter:
    return world.adapter(world.training(subject)[0])


def make(
    storage: Storage, settings: Settings, adapter: Adapter | None, account_id: str, **values: object
) -> tuple[portraits.Portrait, Job]:
    with storage.db.session() as session:
        return portraits.create(session, settings, account_id, adapter_id=adapter.id if adapter else None, **values)  # type: ignore[arg-type]


def test_a_free_prompt_always_gets_trigger_and_class_word(storage: Storage, settings: Settings, adapter: Adapter) -> None:
    for prompt, rendered in (
        ("in a  spacesuit", "zokzex cat, in a spacesuit"),
        ("a drawing of {subject}, ink", "a drawing of zokzex cat, ink"),
        ("zokzex cat asleep", "zokzex cat asleep"),
    ):
        assert make(storage, settings, adapter, adapter.account_id, prompt=prompt, count=2)[0].prompt == rendered


def test_without_an_adapter_the_class_word_stands_alone(storage: Storage, settings: Settings, account: Account) -> None:
    portrait, job = make(storage, settings, None, account.id, prompt="a photo of {subject}", class_word="dog", seed=7)
    assert (portrait.prompt, portrait.seed, job.kind, job.target_id) == ("a photo of dog", 7, "portrait", portrait.id)


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ({}, "portrait/style-or-prompt"),
        ({"style": "photo", "prompt": "x"}, "portrait/style-or-prompt"),
        ({"prompt": " "}, "portrait/prompt"),
        ({"prompt": "x" * 1001}, "portrait/prompt"),
        ({"prompt": "x", "count": 0}, "portrait/count"),
        ({"prompt": "x", "count": 9}, "portrait/count"),
        ({"style": "no-such-style"}, "not-found"),
    ],
)
def test_a_portrait_that_cannot_be(storage: Storage, settings: Settings, adapter: Adapter, values: dict[str, object], type_: str) -> None:
    with pytest.raises(UserError) as caught:
        make(storage, settings, adapter, adapter.account_id, **values)
    assert caught.value.type == type_


def test_an_adapter_of_another_base_model_is_refused(storage: Storage, settings: Settings, adapter: Adapter) -> None:
    flux = settings.model_copy(update={"base_model": "black-forest-labs/FLUX.1-dev"})
    with pytest.raises(UserError, match="another base model"):
        make(storage, flux, adapter, adapter.account_id, prompt="x")


def test_adapters_are_linked_to_their_training(storage: Storage, world: World, subject: Subject) -> None:
    training, _ = world.training(subject)
    template = world.adapter(world.training(subject)[0])
    values = {column.name: getattr(template, column.name) for column in Adapter.__table__.columns}
    with storage.db.session() as session:
        added = adapters.add(session, Adapter(**(values | {"id": adapters.new_adapter_id(), "training_id": training.id})))
    with storage.db.reader() as session:
        assert trainings.get(session, subject.account_id, training.id)[0].adapter_id == added.id


def test_a_foreign_id_does_not_exist(storage: Storage, settings: Settings, world: World, subject: Subject, adapter: Adapter) -> None:
    stranger = world.account("eve@example.com").id
    photo, portrait = world.photo(subject), world.portrait(adapter)
    with storage.db.session() as session:
        upload = photos.new_upload(session, settings, subject.account_id, subject.id, "x.jpg")
    asks: list[Callable[[Session], object]] = [
        lambda s: subjects.get(s, stranger, subject.id),
        lambda s: subjects.lock(s, stranger, subject.id),
        lambda s: photos.get(s, stranger, photo.id),
        lambda s: photos.get_upload(s, stranger, upload.id),
        lambda s: photos.new_upload(s, settings, stranger, subject.id, "x"),
        lambda s: trainings.create(s, settings, stranger, subject.id),
        lambda s: trainings.get(s, stranger, adapter.training_id),
        lambda s: trainings.cancel(s, stranger, adapter.training_id),
        lambda s: adapters.get(s, stranger, adapter.id),
        lambda s: portraits.create(s, settings, stranger, adapter_id=adapter.id, prompt="x"),
        lambda s: portraits.get(s, stranger, portrait.id),
        lambda s: portraits.cancel(s, stranger, portrait.id),
        lambda s: portraits.get_image(s, stranger, portrait.id, 0),
    ]
    assert {refusal(storage, ask).status for ask in asks} == {404}
    with storage.db.reader() as session:
        assert portraits.get_image(session, subject.account_id, portrait.id, 0).n == 0
        assert [image.n for image in portraits.images(session, [portrait.id])[portrait.id]] == [0]


def test_no_way_leads_past_the_statement_that_a_person_is_an_adult(storage: Storage, account: Account) -> None:
    with storage.db.session() as session, pytest.raises(UserError, match="minors"):
        subjects.create(session, account.id, "Mara", "person", consents.TEXT)
    with storage.db.session() as session:
        text = consents.text_for(SubjectKind.PERSON, adult=True)
        assert subjects.create(session, account.id, "Mara", "person", text).kind == "person"
