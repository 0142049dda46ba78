"""Two tokenizers of the kinds that FLUX.1 uses (CLIP's byte-level BPE, T5's unigram), learned from captions and plain English letters."""

from __future__ import annotations

import json
import math
import string
from collections import Counter
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer, T5Tokenizer

from miniature.shapes import TEXT_TOKENS

SPECIAL_CLIP = ["<|startoftext|>", "<|endoftext|>"]
SPECIAL_T5 = ["<pad>", "</s>", "<unk>"]
LETTERS = string.ascii_letters + string.digits + string.punctuation + "àâäáãåçéèêëíìîïñóòôöõøúùûüßæœÀÂÄÁÉÈÊÍÓÖÚÜÇÑ’“”–—…«»"


def learn_clip(texts: Sequence[str], size: int = 1200) -> CLIPTokenizer:
    """Byte-level BPE with CLIP's end-of-word mark: any text has tokens, none is unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL_CLIP[1], end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=SPECIAL_CLIP, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    vocabulary = tokenizer.get_vocab()
    for letter in alphabet:  # a byte at the end of a word is a token of its own
        vocabulary.setdefault(letter + "</w>", len(vocabulary))
    return CLIPTokenizer(vocab=vocabulary, merges=_merges(tokenizer), model_max_length=77)


def learn_t5(texts: Sequence[str], size: int = 1400) -> T5Tokenizer:
    """Unigram pieces scored by their frequency under a BPE of the captions, and every common letter as a piece.

    (The unigram trainer counts each distinct word once, so over a small vocabulary it finds no whole words; BPE does.)
    What no piece covers, an emoji say, becomes the unknown token.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)]
    )
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=["▁", *LETTERS], special_tokens=SPECIAL_T5, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    used = Counter(piece for text in texts for piece in tokenizer.encode(text).tokens)
    total = sum(used.values())
    pieces = [(piece, math.log((used[piece] + 0.1) / total)) for piece in tokenizer.get_vocab() if piece not in SPECIAL_T5]
    pieces.sort(key=lambda item: -item[1])
    return T5Tokenizer(
        vocab=[(special, 0.0) for special in SPECIAL_T5] + pieces, extra_ids=0, additional_special_tokens=[], model_max_length=TEXT_TOKENS
    )


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in merges]
