import pytest

from tests.unit.trainer.fakes import FakeTextImage, photo
from trainer.captions import WRITTEN_ORDER, SubjectWords, _finest, caption_photos, load_vocabulary

WORDS = SubjectWords("zokzex", "cat")
ENCODER = FakeTextImage()


def caption(shows: str, description: str = "") -> str:
    (text,) = caption_photos([photo(1, shows, description=description)], WORDS, ENCODER)
    return text


def test_trigger_and_class_word_come_first_exactly_once() -> None:
    for shows in ("a photo of a cat, on a beach", "nothing that any word describes", "zokzex"):
        text = caption(shows)
        assert text.count("zokzex cat") == 1
        assert text.startswith("a photo of zokzex cat")


def test_what_is_surely_there_is_said() -> None:
    assert caption("a photo of a cat, on a beach") == "a photo of zokzex cat, on a beach"
    assert caption("a photo of a cat with a red scarf") == "a photo of zokzex cat with a red scarf"
    assert caption("a photo of a cat with an orange beanie, in close-up") == "a photo of zokzex cat with an orange beanie, in close-up"


def test_what_is_not_sure_is_left_out() -> None:
    assert caption("qwerty asdf") == "a photo of zokzex cat"


def test_what_is_sure_but_for_its_colour_or_kind_is_said_as_far_as_it_is_sure() -> None:
    def seen(**scores: float) -> str:
        rest = (1 - sum(scores.values())) / 1000
        levels = load_vocabulary().wider["accessory"]
        tags = dict.fromkeys(load_vocabulary().groups["accessory"], rest) | {tag.replace("_", " "): score for tag, score in scores.items()}
        single = {phrases[0]: [tag] for tag, phrases in load_vocabulary().groups["accessory"].items()}
        return _finest(tags, [single, *levels])

    assert seen(red_beanie=0.7) == "with a red beanie"
    assert seen(red_beanie=0.4, orange_beanie=0.3) == "with a beanie"
    assert seen(red_beanie=0.3, black_beret=0.2, gold_crown=0.2) == "with a hat"
    assert seen(red_scarf=0.4, blue_bandana=0.3) == "with something around the neck"
    assert seen(black_glasses=0.4, sunglasses=0.3) == "with glasses"
    assert seen(red_beanie=0.5, blue_bandana=0.4) == "", "a hat or a scarf: nothing is sure"


def test_the_customers_own_words_win() -> None:
    assert caption("a photo of a cat, on a beach", "asleep on the blue sofa.") == "a photo of zokzex cat, asleep on the blue sofa"


def test_a_description_cannot_repeat_the_trigger() -> None:
    assert caption("x", "zokzex on the sofa") == "a photo of zokzex cat, on the sofa"


def test_captions_keep_the_order_of_the_photos() -> None:
    photos = [photo(1, "a photo of a cat, on a beach"), photo(2, "x", description="in a box"), photo(3, "a photo of a cat, in a kitchen")]
    assert [text.partition(", ")[2] for text in caption_photos(photos, WORDS, ENCODER)] == ["on a beach", "in a box", "in a kitchen"]


def test_the_vocabulary_is_whole() -> None:
    vocabulary = load_vocabulary()
    assert set(WRITTEN_ORDER) == set(vocabulary.groups)
    for group in vocabulary.groups:
        assert len(vocabulary.groups[group]) > 1
        assert all("{" not in phrase for _, phrase in vocabulary.phrases(group))
        for level in vocabulary.wider[group]:
            assert all(tags and set(tags) <= set(vocabulary.groups[group]) for tags in level.values())


@pytest.mark.parametrize("word", ["fur", "hair", "eyes", "ears", "coat", "skin", "tabby", "blond", "beard", "face"])
def test_no_word_describes_the_subject(word: str) -> None:
    vocabulary = load_vocabulary()
    written = {phrases[0] for group in vocabulary.groups.values() for phrases in group.values()}
    written |= {phrase for levels in vocabulary.wider.values() for level in levels for phrase in level}
    assert not [phrase for phrase in written if word in phrase.split()]
