"""The two encoders behind every score: pictures to identity vectors, pictures and prompts to one shared space.

Each has an ``id`` that names its weights; it is printed with every figure, for a similarity means nothing without it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn.functional import normalize
from transformers import AutoModel, AutoModelForImageClassification, AutoTokenizer, CLIPModel, PreTrainedModel

from metrics.preprocessing import Preprocessing, read_json, read_preprocessing

BATCH = 16
POOLS = ("cls", "mean", "head")
KEPT = 256  # lists of texts; of a vocabulary's hundred sentences a list is 0.2 MB
DINO_DEFAULT = Preprocessing(short_side=256, crop=224)
CLIP_DEFAULT = Preprocessing(short_side=224, crop=224, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))


class IdentityEncoder:
    """Tells subjects apart: a DINOv2 vision transformer (Oquab et al. 2023), cosine similarity between its pooled tokens; or any network
    whose last, linear layer was taught to give such a vector (``pool`` "head")."""

    def __init__(self, model: PreTrainedModel, preprocessing: Preprocessing, encoder_id: str, pool: str = "cls") -> None:
        if pool not in POOLS:
            raise ValueError(f"{encoder_id}: pool must be {' or '.join(map(repr, POOLS))}, not {pool!r}")
        self.model, self.preprocessing, self.id, self.pool = model, preprocessing, encoder_id, pool

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """N pictures → float32 unit vectors [N, D] on the CPU."""
        batches = [self._embed_batch(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return torch.cat(batches) if batches else torch.empty(0, self._width)

    @property
    def _width(self) -> int:
        return int(self.model.config.num_labels if self.pool == "head" else self.model.config.hidden_size)

    def _embed_batch(self, images: Sequence[Image.Image]) -> torch.Tensor:
        pixels = self.preprocessing(images).to(self.model.device, self.model.dtype)
        return normalize(self._pooled(self.model(pixel_values=pixels)).float(), dim=-1).cpu()

    def _pooled(self, output: Any) -> torch.Tensor:
        if self.pool == "head":
            return output.logits
        tokens = output.last_hidden_state  # [N, 1 + patches, D], after the last layer norm
        return tokens[:, 0] if self.pool == "cls" else tokens[:, 1:].mean(1)


class TextImageEncoder:
    """Tells whether a picture shows what a prompt says: CLIP (Radford et al. 2021), cosine similarity of picture and text."""

    def __init__(self, model: CLIPModel, tokenizer, preprocessing: Preprocessing, encoder_id: str) -> None:
        self.model, self.tokenizer, self.preprocessing, self.id = model, tokenizer, preprocessing, encoder_id
        self.config: Any = model.config
        self._kept: OrderedDict[tuple[str, ...], torch.Tensor] = OrderedDict()

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """N pictures → float32 unit vectors [N, D] on the CPU."""
        return self._in_batches(images, self._image_batch)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """N texts → float32 unit vectors [N, D] on the CPU; longer texts are cut to what the encoder takes (77 tokens for CLIP)."""
        return self._in_batches(texts, self._text_batch)

    def embed_kept(self, texts: Sequence[str]) -> torch.Tensor:
        """:meth:`embed_texts` for texts that come again as this very list, as a vocabulary's do: the lists used last are kept."""
        key = tuple(texts)
        if key not in self._kept:
            self._kept[key] = self.embed_texts(texts)
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    @property
    def temperature(self) -> float:
        """The scale that this encoder was taught with: a softmax of similarities times it is a probability over texts."""
        return float(self.model.logit_scale.exp())

    def similarity(self, images: Sequence[Image.Image], texts: Sequence[str]) -> torch.Tensor:
        """Cosine of picture i and text i: [N] in [-1, 1]."""
        return (self.embed_images(images) * self.embed_texts(texts)).sum(-1)

    def _in_batches(self, items: Sequence, embed) -> torch.Tensor:
        batches = [normalize(embed(items[i : i + BATCH]).float(), dim=-1).cpu() for i in range(0, len(items), BATCH)]
        return torch.cat(batches) if batches else torch.empty(0, int(self.config.projection_dim))

    def _image_batch(self, images: Sequence[Image.Image]) -> torch.Tensor:
        pixels = self.preprocessing(images).to(self.model.device, self.model.dtype)
        return self.model.get_image_features(pixel_values=pixels).pooler_output

    def _text_batch(self, texts: Sequence[str]) -> torch.Tensor:
        limit = self.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding="max_length", truncation=True, max_length=limit, return_tensors="pt")
        return self.model.get_text_features(**{k: tokens[k].to(self.model.device) for k in ("input_ids", "attention_mask")}).pooler_output


def load_identity_encoder(path: str | Path, device: str | torch.device = "cpu") -> IdentityEncoder:
    """A folder or hub id of a ``Dinov2Model``, or of an image classifier whose outputs are the vector; ``likeness.json`` beside the weights
    may say ``{"pool": "cls"|"mean"|"head", "size": pixels}``."""
    own = read_json(path, "likeness.json") or {}
    preprocessing = read_preprocessing(path, DINO_DEFAULT)
    if "size" in own:
        preprocessing = replace(preprocessing, short_side=own["size"], crop=own["size"])
    pool = own.get("pool", "cls")
    kind: Any = AutoModelForImageClassification if pool == "head" else AutoModel
    model: Any = kind.from_pretrained(str(path), dtype=torch.float32)
    model.to(device).eval().requires_grad_(False)
    return IdentityEncoder(model, preprocessing, weights_id(path, model), pool)


def load_text_image_encoder(path: str | Path, device: str | torch.device = "cpu") -> TextImageEncoder:
    """A folder or hub id of a ``CLIPModel`` with its tokenizer."""
    model: Any = CLIPModel.from_pretrained(str(path), dtype=torch.float32)
    model.to(device).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(str(path))
    size = model.config.vision_config.image_size
    default = Preprocessing(size, size, CLIP_DEFAULT.mean, CLIP_DEFAULT.std)
    return TextImageEncoder(model, tokenizer, read_preprocessing(path, default), weights_id(path, model))


def weights_id(path: str | Path, model: PreTrainedModel) -> str:
    """``name@revision``: the hub's commit, or for a folder the digest of its weights; both cut to 8 characters."""
    folder = Path(path)
    if not folder.is_dir():
        return f"{path}@{(getattr(model.config, '_commit_hash', None) or 'unknown')[:8]}"
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return f"{folder.resolve().parent.name}/{folder.name}@{digest.hexdigest()[:8]}"
