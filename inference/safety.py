"""A hook before and after rendering: local classifiers that may refuse a prompt or a picture. Which ones, and what counts, are settings.

No classifier ships with the project, and none fits a drawn world; where none is set, that is logged once and nothing is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image

from core.errors import UserError
from core.logs import get_logger
from core.settings import Settings

log = get_logger("inference.safety")

BATCH = 16


class Classifier(Protocol):
    def __call__(self, items: Sequence[Any]) -> list[dict[str, float]]:
        """The probability of each label, for each item."""


@dataclass(frozen=True)
class Safety:
    """``labels`` in lower case; an item is refused when one of them has at least ``threshold``."""

    labels: frozenset[str]
    threshold: float
    pictures: Classifier | None = None
    prompts: Classifier | None = None

    def check_prompt(self, prompt: str) -> None:
        """:class:`core.errors.UserError` with what to do, if the prompt is refused."""
        label = self._refusals(self.prompts, [prompt])[0] if self.prompts else None
        if label:
            log.info("prompt refused", label=label)
            detail = f"The service's safety check finds it «{label}». Describe the picture in other words."
            raise UserError("portrait/refused-prompt", "This prompt is refused", detail)

    def allowed(self, images: Sequence[Image.Image]) -> list[bool]:
        """Which pictures may be kept."""
        labels = self._refusals(self.pictures, images) if self.pictures else [None] * len(images)
        for label in filter(None, labels):
            log.info("picture refused", label=label)
        return [label is None for label in labels]

    def _refusals(self, classifier: Classifier, items: Sequence[Any]) -> list[str | None]:
        """The worst label of each item that is refused."""
        return [self._worst(scores) for scores in classifier(items)]

    def _worst(self, scores: dict[str, float]) -> str | None:
        bad = {label: score for label, score in scores.items() if label.lower() in self.labels and score >= self.threshold}
        return max(bad, key=lambda label: bad[label]) if bad else None


ALL_REFUSED = "The service's safety check refused every picture of this portrait, and none was kept. Try another style or other words."


def open_safety(settings: Settings, device: torch.device) -> Safety:
    """Loads the classifiers that the settings name; :class:`core.errors.UserError` if one cannot be read or knows none of the labels."""
    labels = frozenset(label.strip().lower() for label in settings.safety_labels.split(",") if label.strip())
    pictures = PictureClassifier(settings.safety_classifier, device) if settings.safety_classifier else None
    prompts = PromptClassifier(settings.safety_prompt_classifier, device) if settings.safety_prompt_classifier else None
    for classifier in filter(None, (pictures, prompts)):
        _require_known(classifier, labels)
    if not (pictures or prompts):
        log.info("safety check off: no classifier is set (LIKENESS_SAFETY_CLASSIFIER, LIKENESS_SAFETY_PROMPT_CLASSIFIER)")
    return Safety(labels, settings.safety_threshold, pictures, prompts)


class _Classifier:
    """A transformers classifier; subclasses say how items become its inputs. Labels that exclude one another get probabilities by softmax,
    those that do not (``problem_type``) by sigmoid."""

    auto: Any
    preparing: Any

    def __init__(self, path: str, device: torch.device) -> None:
        try:
            self.model: Any = self.auto.from_pretrained(path, dtype=torch.float32)
            self.prepare: Any = self.preparing.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise UserError("safety/classifier", f"The safety classifier {path} cannot be read", str(error)) from error
        self.path = path
        self.model.to(device).eval().requires_grad_(False)

    @property
    def known(self) -> list[str]:
        return [str(label) for label in self.model.config.id2label.values()]

    @torch.inference_mode()
    def __call__(self, items: Sequence[Any]) -> list[dict[str, float]]:
        found: list[dict[str, float]] = []
        for start in range(0, len(items), BATCH):
            logits = self.model(**self.inputs(items[start : start + BATCH]).to(self.model.device)).logits.float()
            several = self.model.config.problem_type == "multi_label_classification"
            found += [dict(zip(self.known, row, strict=True)) for row in (logits.sigmoid() if several else logits.softmax(-1)).tolist()]
        return found

    def inputs(self, items: Sequence[Any]) -> Any:
        raise NotImplementedError


class PictureClassifier(_Classifier):
    def __init__(self, path: str, device: torch.device) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self.auto, self.preparing = AutoModelForImageClassification, AutoImageProcessor
        super().__init__(path, device)

    def inputs(self, items: Sequence[Any]) -> Any:
        return self.prepare([image.convert("RGB") for image in items], return_tensors="pt")


class PromptClassifier(_Classifier):
    def __init__(self, path: str, device: torch.device) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.auto, self.preparing = AutoModelForSequenceClassification, AutoTokenizer
        super().__init__(path, device)

    def inputs(self, items: Sequence[Any]) -> Any:
        return self.prepare(list(items), return_tensors="pt", truncation=True, padding=True)


def _require_known(classifier: _Classifier, labels: frozenset[str]) -> None:
    if not labels & {label.lower() for label in classifier.known}:
        detail = f"{classifier.path} knows {', '.join(classifier.known)}; name those that refuse in LIKENESS_SAFETY_LABELS."
        raise UserError("safety/labels", "The safety classifier would never refuse anything", detail)
