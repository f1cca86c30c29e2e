"""Words as tokens, and a small language model of some captions."""

import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from videomae_fast.data.sources.operation_captions import CAPTIONS
from videomae_fast.interop.huggingface.language_model import read_chat_tokenizer, read_language_model
from videomae_fast.recipes import word_models
from videomae_fast.recipes.word_models import word_tokenizer, write_language_model

TEXTS = [caption for both in CAPTIONS.values() for caption in both]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    folder = tmp_path_factory.mktemp("language")
    return folder, write_language_model(folder, TEXTS, seed=0)


def test_special_tokens_are_first_and_words_come_back() -> None:
    tokenizer = word_tokenizer(["zooming in", "zooming out"], pad_token="[PAD]", unk_token="[UNK]")
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, len(tokenizer)) == (0, 1, 5)
    ids = tokenizer("zooming out slowly")["input_ids"]
    assert tokenizer.decode(ids) == "zooming out [UNK]"


def test_the_language_model_knows_the_captions_and_which_is_which_by_no_more(written: tuple[Path, float]) -> None:
    """The loss of all captions cannot be less than ln 16 nats for each; it is for each word, and the end."""
    folder, loss = written
    least = len(TEXTS) * math.log(len(TEXTS)) / sum(len(text.split()) + 1 for text in TEXTS)
    assert least - 1e-4 < loss < least + 0.1
    model = read_language_model(folder)
    tokenizer = read_chat_tokenizer(folder, model)
    for text in TEXTS:
        *start, last, end = tokenizer(f"[BOS] {text} [EOS]", return_tensors="pt")["input_ids"][0].tolist()
        with torch.no_grad():
            said = model(torch.tensor([[*start, last]])).logits[0, -1].argmax()
        assert said == end, text


def test_the_seed_tells_the_weights_and_nothing_else_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_models, "STEPS", 2)
    state = torch.get_rng_state()
    first, same, other = (write_language_model(tmp_path, TEXTS, seed) for seed in (0, 0, 1))
    assert first == same != other
    assert torch.equal(torch.get_rng_state(), state)
