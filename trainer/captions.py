"""Captions: what is in the picture besides the subject. The trigger token and class word are put there by code, not by a captioner.

Scene words come from a closed vocabulary (``scene_words.toml``) by zero-shot tagging with the text–image encoder, and only where it is
sure: a wrong word teaches the adapter to ignore the right one, and a word on the subject's looks takes them away from the trigger token.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from metrics.encoders import TextImageEncoder
from trainer.photos import TrainingPhoto

VOCABULARY_FILE = Path(__file__).with_name("scene_words.toml")
TEMPERATURE = 100.0  # CLIP's logit scale (Radford et al. 2021, section 2.5)
SURE = 0.5  # probability of a tag within its group from which it is written
DEFAULT_STYLE = "a photo"
UNSAID = ""  # the tag that stands for saying nothing


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
    """``groups``: group → tag → phrases for the same thing. ``order``: groups as they follow one another in a caption."""

    groups: Mapping[str, Mapping[str, Sequence[str]]]
    order: Sequence[str]

    def phrases(self, group: str) -> list[tuple[str, str]]:
        """(tag, phrase) of a group, flattened."""
        return [(tag, phrase) for tag, phrases in self.groups[group].items() for phrase in phrases]


@cache
def load_vocabulary(path: Path = VOCABULARY_FILE) -> Vocabulary:
    data: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    order, colours = data.pop("order"), data.pop("colours")
    groups = {group: _coloured(tags, colours) for group, tags in data.items()}
    return Vocabulary(groups, order)


def _coloured(tags: Mapping[str, Sequence[str]], colours: Sequence[str]) -> dict[str, list[str]]:
    """A tag with ``{colour}`` becomes one tag for each colour."""
    result: dict[str, list[str]] = {}
    for tag, phrases in tags.items():
        if "{colour}" not in phrases[0]:
            result[tag] = list(phrases)
            continue
        for colour in colours:
            result[f"{colour} {tag}"] = [phrase.replace("{colour}", colour) for phrase in phrases]
    return result


def caption_photos(
    photos: Sequence[TrainingPhoto], words: SubjectWords, encoder: TextImageEncoder, vocabulary: Vocabulary | None = None
) -> list[str]:
    """One caption a photo, such as ``a photo of zokzex cat, head and shoulders, in a park with trees``.

    A customer's own description stands in place of the tags.
    """
    tags = _tag([photo for photo in photos if not photo.description], words.class_word, encoder, vocabulary or load_vocabulary())
    return [_caption(words, photo.description, tags.get(photo.key, {})) for photo in photos]


def _tag(photos: Sequence[TrainingPhoto], class_word: str, encoder: TextImageEncoder, vocabulary: Vocabulary) -> dict[str, dict[str, str]]:
    """Photo key → group → the phrase to write."""
    if not photos:
        return {}
    embeds = encoder.embed_images([photo.image for photo in photos])
    found: dict[str, dict[str, str]] = {photo.key: {} for photo in photos}
    for group in ("style", *vocabulary.order):
        for photo, phrase in zip(photos, zero_shot(embeds, vocabulary, group, class_word, encoder), strict=True):
            if phrase:
                found[photo.key][group] = phrase
    return found


def zero_shot(images: torch.Tensor, vocabulary: Vocabulary, group: str, class_word: str, encoder: TextImageEncoder) -> list[str]:
    """For each picture [N, D] the phrase of the group's tag that fits, or "" where none is sure.

    A tag scores as its best phrase; the softmax over tags, and over saying nothing, at CLIP's temperature must give it at least 0.5.
    """
    entries = [*vocabulary.phrases(group), (UNSAID, "")]
    similarity = images @ encoder.embed_texts([_sentence(group, phrase, class_word) for _, phrase in entries]).T
    tags = list(dict.fromkeys(tag for tag, _ in entries))
    columns = [[i for i, (tag, _) in enumerate(entries) if tag == name] for name in tags]
    scores = torch.stack([similarity[:, column].max(1).values for column in columns], 1)
    probability, best = (scores * TEMPERATURE).softmax(1).max(1)
    written = [vocabulary.groups[group][tag][0] if tag != UNSAID else "" for tag in tags]
    return [written[i] if p >= SURE else "" for p, i in zip(probability.tolist(), best.tolist(), strict=True)]


def _sentence(group: str, phrase: str, class_word: str) -> str:
    if not phrase:
        return f"{DEFAULT_STYLE} of a {class_word}"
    if group == "style":
        return f"{phrase} of a {class_word}"
    if phrase.startswith("with "):
        return f"a photo of a {class_word} {phrase}"
    return f"a photo of a {class_word}, {phrase}"


def _caption(words: SubjectWords, description: str, phrases: Mapping[str, str]) -> str:
    """The trigger token and class word are always there, exactly once, right after the style."""
    own = description.replace(words.trigger_token, "").strip(" ,.")
    scene = [own] if own else [phrases[group] for group in load_vocabulary().order if group in phrases]
    return ", ".join([f"{phrases.get('style', DEFAULT_STYLE)} of {words.in_training}", *scene])
