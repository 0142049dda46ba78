import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer, ViTConfig, ViTForImageClassification, ViTImageProcessor

from core.errors import UserError
from core.settings import Settings
from inference.safety import open_safety

LABELS = {0: "normal", 1: "NSFW"}
CPU = torch.device("cpu")


def pictures(count):
    return [Image.fromarray(np.full((32, 32, 3), 255 * n // max(1, count - 1), np.uint8)) for n in range(count)]


@pytest.fixture
def picture_classifier(tmp_path):
    """A real ViT that finds bright pictures unsafe: its head reads one number that a bright patch makes large."""
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16)
    config.id2label, config.label2id = LABELS, {name: n for n, name in LABELS.items()}
    torch.manual_seed(0)
    model = ViTForImageClassification(config)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    model.save_pretrained(tmp_path / "pictures")
    processor.save_pretrained(tmp_path / "pictures")
    return tmp_path / "pictures"


@pytest.fixture
def prompt_classifier(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "gore"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(words), **shape)
    config.id2label, config.label2id = LABELS, {name: n for n, name in LABELS.items()}
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "prompts")
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "prompts")
    return tmp_path / "prompts"


def settings(**values):
    return Settings(_env_file=None, **{name: str(value) if name.endswith("classifier") else value for name, value in values.items()})


def test_nothing_is_refused_without_a_classifier_and_the_log_says_so(capsys):
    safety = open_safety(settings(), CPU)
    safety.check_prompt("gore")
    assert safety.allowed(pictures(2)) == [True, True]
    assert "safety check off" in capsys.readouterr().err


def test_a_picture_is_refused_from_the_threshold_on(picture_classifier):
    some = pictures(3)
    scores = [row["NSFW"] for row in open_safety(settings(safety_classifier=picture_classifier), CPU).pictures(some)]
    assert len(set(scores)) == 3
    between = sorted(scores)[1]
    safety = open_safety(settings(safety_classifier=picture_classifier, safety_threshold=between), CPU)
    assert safety.allowed(some) == [score < between for score in scores]
    assert safety.allowed(some).count(True) == 1


def test_a_prompt_is_refused_with_what_to_do(prompt_classifier):
    always, never = (open_safety(settings(safety_prompt_classifier=prompt_classifier, safety_threshold=at), CPU) for at in (0.0, 1.0))
    never.check_prompt("a cat")
    with pytest.raises(UserError, match="other words") as refused:
        always.check_prompt("a cat")
    assert refused.value.type == "portrait/refused-prompt"


def test_labels_decide_what_counts(prompt_classifier):
    relaxed = settings(safety_prompt_classifier=prompt_classifier, safety_threshold=0.0, safety_labels="normal")
    with pytest.raises(UserError, match="normal"):
        open_safety(relaxed, CPU).check_prompt("a cat")


def test_a_classifier_that_could_never_refuse_is_no_safety(prompt_classifier):
    with pytest.raises(UserError, match=r"normal, NSFW.*LIKENESS_SAFETY_LABELS"):
        open_safety(settings(safety_prompt_classifier=prompt_classifier, safety_labels="weapons"), CPU)


def test_a_classifier_that_is_not_there_is_an_error_and_not_no_check(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        open_safety(settings(safety_classifier=tmp_path / "nowhere"), CPU)
