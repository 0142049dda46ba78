"""Captions: what is in the picture besides the subject. The trigger token and class word are put there by code, not by a captioner.

Scene words come from a closed vocabulary (``scene_words.toml``) by zero-shot tagging with the text–image encoder, and only where it is
sure: a wrong word teaches the adapter to ignore the right one, and a word on the subject's looks takes them away from the trigger token.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from metrics.encoders import TextImageEncoder
from trainer.photos import TrainingPhoto

VOCABULARY_FILE = Path(__file__).with_name("scene_words.toml")
SURE = 0.6  # probability of a tag within its group from which it is written
COLOUR = "{colour}"
UNSAID = ""  # the tag that stands for saying nothing
WITH = "with "  # phrases that belong to the subject and not to the scene
WRITTEN_ORDER = ("accessory", "framing", "background", "light")
CONTEXT = ("framing",)  # what later groups are sought with: more would mean a text for every photo


@dataclass(frozen=True)
class SubjectWords:
    """How a subject is called: in training captions and adapter prompts «trigger_token class_word», for the base model the class word."""

    trigger_token: str
    class_word: str

    @property
    def in_training(self) -> str:
        return f"{self.trigger_token} {self.class_word}"


@dataclass(frozen=True)
class Vocabulary:
    """``groups``: group → tag → phrases for the same thing, in the order in which groups are sought. ``wider``: group → levels, finer ones
    first, of phrase → the tags that it stands for: what may be said where no single tag is sure."""

    groups: Mapping[str, Mapping[str, Sequence[str]]]
    wider: Mapping[str, Sequence[Mapping[str, Sequence[str]]]]

    def phrases(self, group: str) -> list[tuple[str, str]]:
        """(tag, phrase) of a group, flattened."""
        return [(tag, phrase) for tag, phrases in self.groups[group].items() for phrase in phrases]


@cache
def load_vocabulary(path: Path = VOCABULARY_FILE) -> Vocabulary:
    data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    colours, kinds = data.pop("colours"), data.pop("kinds")
    groups = {group: _coloured(tags, colours) for group, tags in data.items()}
    return Vocabulary(
        groups, {group: [_colourless(tags, colours), _of_kinds(kinds.get(group, {}), groups[group])] for group, tags in data.items()}
    )


def _colourless(tags: Mapping[str, Sequence[str]], colours: Sequence[str]) -> dict[str, list[str]]:
    """What is worn, without its colour. A backdrop of no sure colour is mostly a scene out of focus."""
    coloured = {tag: phrases[0] for tag, phrases in tags.items() if COLOUR in phrases[0] and phrases[0].startswith(WITH)}
    return {phrase.replace(f"{COLOUR} ", ""): [f"{colour} {tag}" for colour in colours] for tag, phrase in coloured.items()}


def _of_kinds(kinds: Mapping[str, Sequence[str]], tags: Iterable[str]) -> dict[str, list[str]]:
    """Tags of several things, in all their colours."""
    return {phrase: [tag for tag in tags if tag.endswith(tuple(names))] for phrase, names in kinds.items()}


def _coloured(tags: Mapping[str, Sequence[str]], colours: Sequence[str]) -> dict[str, list[str]]:
    """A tag with ``{colour}`` becomes one tag for each colour."""
    result: dict[str, list[str]] = {}
    for tag, phrases in tags.items():
        if COLOUR not in phrases[0]:
            result[tag] = list(phrases)
            continue
        for colour in colours:
            result[f"{colour} {tag}"] = [phrase.replace(COLOUR, colour).replace("a orange", "an orange") for phrase in phrases]
    return result


def caption_photos(photos: Sequence[TrainingPhoto], words: SubjectWords, encoder: TextImageEncoder) -> list[str]:
    """One caption a photo, such as ``a photo of zokzex cat with a red scarf, head and shoulders, in a park with trees``.

    A customer's own description stands in place of the tags.
    """
    plain = [photo for photo in photos if not photo.description]
    tags = dict(zip((photo.key for photo in plain), _tag(plain, words.class_word, encoder), strict=True))
    return [_described(words, photo.description) or sentence(words.in_training, tags.get(photo.key, {})) for photo in photos]


def sentence(subject: str, phrases: Mapping[str, str]) -> str:
    """The trigger token and class word are always there, exactly once, at the beginning."""
    told = [phrases[group] for group in WRITTEN_ORDER if phrases.get(group)]
    worn = [phrase for phrase in told if phrase.startswith(WITH)]
    return ", ".join([" ".join(["a photo of", subject, *worn]), *(phrase for phrase in told if phrase not in worn)])


def _described(words: SubjectWords, description: str) -> str:
    own = " ".join(description.replace(words.trigger_token, "").split()).strip(" ,.")
    return f"a photo of {words.in_training}, {own}" if own else ""


def _tag(photos: Sequence[TrainingPhoto], class_word: str, encoder: TextImageEncoder) -> list[dict[str, str]]:
    """For each photo: group → the phrase to write."""
    if not photos:
        return []
    embeds = encoder.embed_images([photo.image for photo in photos])
    found: list[dict[str, str]] = [{} for _ in photos]
    for group in load_vocabulary().groups:
        contexts = [tuple((name, known[name]) for name in CONTEXT if name in known) for known in found]
        for context in set(contexts):
            rows = [i for i, own in enumerate(contexts) if own == context]
            for row, phrase in zip(rows, zero_shot(embeds[rows], group, class_word, encoder, dict(context)), strict=True):
                found[row] |= {group: phrase} if phrase else {}
    return found


def zero_shot(
    images: torch.Tensor, group: str, class_word: str, encoder: TextImageEncoder, context: Mapping[str, str] | None = None
) -> list[str]:
    """For each picture [N, D] the phrase of the group's tag that fits, or "" where none is sure.

    A tag scores as its best phrase within the sentence that is known so far; the softmax over tags, and over saying nothing, at the
    temperature that the encoder was taught with must give it at least 0.6. Where it does not, the same is asked of what is wider: a hat of
    any colour, then anything worn on the head.
    """
    vocabulary = load_vocabulary()
    entries = [*vocabulary.phrases(group), (UNSAID, "")]
    texts = [sentence(f"a {class_word}", {**(context or {}), group: phrase}) for _, phrase in entries]
    similarity = images @ encoder.embed_kept(texts).T
    tags = list(dict.fromkeys(tag for tag, _ in entries))
    columns = [[i for i, (tag, _) in enumerate(entries) if tag == name] for name in tags]
    scores = torch.stack([similarity[:, column].max(1).values for column in columns], 1)
    probability = (scores * encoder.temperature).softmax(1)
    single = {vocabulary.groups[group][tag][0] if tag != UNSAID else "": [tag] for tag in tags}
    return [_finest(dict(zip(tags, own, strict=True)), [single, *vocabulary.wider[group]]) for own in probability.tolist()]


def _finest(probability: Mapping[str, float], levels: Sequence[Mapping[str, Sequence[str]]]) -> str:
    """The likeliest phrase of the first level that has a sure one."""
    for level in levels:
        sums = {phrase: sum(probability[tag] for tag in tags) for phrase, tags in level.items()}
        best = max(sums, key=sums.__getitem__, default="")
        if sums.get(best, 0.0) >= SURE:
            return best
    return ""
