"""Text towers: any encoder of transformers, masked pooling, and captions and tokenizers that do not fit."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from benchmarks.harness.counts import count
from tests.models.test_layers import randomise
from videomae_fast.models import TextTower
from videomae_fast.models.text_tower import check_tokenizer

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}
IDS = torch.tensor([[2, 7, 9, 3, 0], [2, 11, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]])


def bert(**changes: Any) -> nn.Module:
    return randomise(BertModel(BertConfig(**SIZES, max_position_embeddings=8, **changes))).eval()


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_a_caption_is_one_row(pool: str) -> None:
    model = bert()
    expected = model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    tower = TextTower(model, pool).eval()
    for mask in (MASK, MASK.bool()):
        rows = tower(IDS, mask)
        assert torch.equal(rows.tokens, expected)
        lengths = [4, 3]
        means = torch.stack([row[:n].mean(0) for row, n in zip(expected, lengths, strict=True)])
        torch.testing.assert_close(rows.pooled, expected[:, 0] if pool == "first" else means)
    assert tower.dim == 16 and not any("pooler" in name for name, _ in tower.named_parameters())


def test_every_parameter_gets_a_gradient() -> None:
    tower = TextTower(bert())
    rows = tower(IDS, MASK)
    (rows.pooled * torch.randn_like(rows.pooled)).sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


def test_padding_changes_nothing() -> None:
    tower = TextTower(bert()).eval()
    other = IDS.masked_fill(MASK == 0, 17)
    torch.testing.assert_close(tower(other, MASK).pooled, tower(IDS, MASK).pooled)
    torch.testing.assert_close(tower(IDS[:1, :4], MASK[:1, :4]).pooled, tower(IDS, MASK).pooled[:1])


@pytest.mark.parametrize(("kind", "settings"), [(RobertaModel, RobertaConfig), (MPNetModel, MPNetConfig)])
def test_positions_that_are_numbered_from_padding(kind: Any, settings: Any) -> None:
    tower = TextTower(randomise(kind(settings(**SIZES, max_position_embeddings=10, pad_token_id=1))).eval())
    assert tower.max_length == 8
    ids = torch.full((1, 9), 5)
    assert tower(ids[:, :8], torch.ones(1, 8, dtype=torch.int64)).tokens.isfinite().all()
    with pytest.raises(ValueError, match="8 tokens at most"):
        tower(ids, torch.ones_like(ids))


KINDS: dict[str, tuple[Any, Any]] = {
    "BERT": (BertModel, BertConfig),
    "RoBERTa": (RobertaModel, RobertaConfig),
    "CLIP": (CLIPTextModel, CLIPTextConfig),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_device_is_not_asked_for_padding(name: str) -> None:
    """What the model computes is as before, to the bit with padding, and to rounding without."""
    pytest.importorskip("transformers", minversion="5")
    kind, settings = KINDS[name]
    model = randomise(kind(settings(**SIZES, max_position_embeddings=12, pad_token_id=1))).eval()
    whole = torch.ones_like(MASK)

    def call(mask: Tensor) -> Tensor:
        found: Tensor = model(input_ids=IDS, attention_mask=mask).last_hidden_state
        return found

    expected, asked = (call(MASK), call(whole)), count(lambda: call(MASK), IDS.device).syncs
    tower = TextTower(model)
    assert asked > count(lambda: call(MASK), IDS.device).syncs == 0
    assert torch.equal(tower(IDS, MASK).tokens, expected[0])
    torch.testing.assert_close(tower(IDS, whole).tokens, expected[1])


class Words:
    """A tokenizer of so many tokens."""

    def __init__(self, size: int, pad: int | None = 0) -> None:
        self.size, self.pad_token_id = size, pad

    def __len__(self) -> int:
        return self.size


def call(ids: Any = IDS, mask: Any = MASK) -> Tensor:
    return TextTower(bert()).eval()(ids, mask).pooled


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: call(IDS.repeat(1, 2), MASK.repeat(1, 2)), ValueError, "ids must have 8 tokens at most"),
    (lambda: call(IDS + 38), ValueError, "ids must be from 0 to 39, the vocabulary of the text model, got 38 to 49"),
    (lambda: call(IDS - 1), ValueError, "got -1 to 10"),
    (lambda: call(mask=MASK * torch.tensor([[1], [0]])), ValueError, "caption 1 has no token"),
    (lambda: call(mask=MASK[:, :4]), ValueError, "must both be (B, L), got (2, 5) and (2, 4)"),
    (lambda: call(IDS[0], MASK[0]), ValueError, "must both be (B, L)"),
    (lambda: call(IDS.int()), TypeError, "ids must be an int64 tensor, got torch.int32"),
    (lambda: call(["a caption"]), TypeError, "ids must be an int64 tensor, got list"),
    (lambda: call(mask=MASK.float()), TypeError, "mask must be a tensor of bool or integers, got torch.float32"),
    (lambda: TextTower(bert(), "last"), ValueError, "pool must be one of ('mean', 'first'), got 'last'"),
    (lambda: TextTower(nn.Linear(2, 2)), ValueError, "got Linear with None and None"),
    (
        lambda: TextTower(T5Model(T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2))),
        ValueError,
        "model must be an encoder, got T5Model, which has a decoder, too",
    ),
    (lambda: check_tokenizer(Words(41), 40), ValueError, "tokenizer has 41 tokens, and the text model 40"),
    (lambda: check_tokenizer(Words(40, None), 40), ValueError, "tokenizer has no token for padding"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message[:40] for _, _, message in ERRORS])
def test_errors(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_a_tokenizer_may_have_fewer_tokens() -> None:
    check_tokenizer(Words(39), 40)
