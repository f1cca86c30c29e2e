"""The split BERT: text layers and words' head against transformers, fusion layers against its decoder layers."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForPreTraining
from transformers.models.bert.modeling_bert import BertLayer

from tests.models.test_layers import randomise
from tests.models.test_text_tower import IDS, MASK, SIZES
from videomae_fast.models import BERT_LARGE, SplitBert, SplitBertConfig

TINY = SplitBertConfig(
    16, 3, 2, text_layers=2, hidden=24, vocab_size=40, max_length=8, pad_id=0, cls_id=2, mask_id=4, dropout=0.0
)
VIDEO_DIM = 10


def split_bert(config: SplitBertConfig = TINY) -> SplitBert:
    model = randomise(SplitBert(config, VIDEO_DIM))
    assert isinstance(model, SplitBert)
    return model.eval()


def theirs(**changes: Any) -> BertConfig:
    return BertConfig(**(SIZES | changes), max_position_embeddings=8, attn_implementation="eager")


def video(rows: int = 5) -> Tensor:
    torch.manual_seed(3)
    return torch.randn(2, rows, VIDEO_DIM, dtype=torch.float64)


def test_text_layers_and_words_are_those_of_bert() -> None:
    model = split_bert(replace(TINY, depth=2))
    their = BertForPreTraining(theirs()).double().eval()
    missing, unexpected = their.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected and all("pooler" in n or "seq_relationship" in n or "decoder" in n for n in missing)
    their.tie_weights()
    rows = model(IDS, MASK)
    found = their(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    kept = MASK.bool()
    torch.testing.assert_close(rows.tokens[kept], found.hidden_states[-1][kept], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(model.words(rows.tokens)[kept], found.prediction_logits[kept], rtol=1e-10, atol=1e-12)
    assert torch.equal(rows.pooled, rows.tokens[:, 0])
    means = replace(TINY, depth=2, pool="mean")
    pooled = SplitBert(means, VIDEO_DIM).double().eval()
    pooled.load_state_dict(model.state_dict())
    torch.testing.assert_close(pooled(IDS, MASK).pooled[1], rows.tokens[1, :3].mean(0))


def test_a_fusion_layer_is_a_decoder_layer_that_attends_both_ways() -> None:
    """transformers' decoder layer gets the mask of an encoder, and keys and values of the video's width."""
    model = split_bert()
    config = theirs(is_decoder=True, add_cross_attention=True)
    their = BertLayer(config, layer_idx=0).double().eval()
    for name in ("key", "value"):
        setattr(their.crossattention.self, name, torch.nn.Linear(VIDEO_DIM, 16).double())
    ours = model.bert.encoder["layer"][2]  # type: ignore[index]
    their.load_state_dict(ours.state_dict())
    x, bias = torch.randn(2, 5, 16, dtype=torch.float64), (1.0 - MASK.double())[:, None, None] * -1e300
    expected = their(x, bias, video())
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(model.fuse(x, MASK, video()), expected, rtol=1e-10, atol=1e-12)


def test_fusion_attends_both_ways_and_not_to_padding() -> None:
    model, x = split_bert(), torch.randn(2, 5, 16, dtype=torch.float64)
    before = model.fuse(x, MASK, video())
    changed = x.clone()
    changed[0, 3] += torch.linspace(-1, 1, 16)  # no constant, which a LayerNorm removes
    after = model.fuse(changed, MASK, video())
    assert all(not torch.allclose(before[0, row], after[0, row]) for row in range(4))
    assert torch.equal(before[1], after[1])
    padded = x.clone()
    padded[0, 4] += torch.linspace(-1, 1, 16)
    assert torch.equal(model.fuse(padded, MASK, video())[0, :4], before[0, :4])
    other = video()
    other[0, 4] += torch.linspace(-1, 1, VIDEO_DIM)
    moved = model.fuse(x, MASK, other)
    assert not torch.allclose(moved[0, 0], before[0, 0]) and torch.equal(moved[1], before[1])


def test_every_parameter_gets_a_gradient() -> None:
    model = split_bert()
    rows = model(IDS, MASK)
    logits = model.words(model.fuse(rows.tokens, MASK, video()))
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_names_and_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = SplitBert(BERT_LARGE, 1408)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["bert.embeddings.word_embeddings.weight"] == (30522, 1024)
    assert shapes["bert.encoder.layer.19.crossattention.self.key.weight"] == (1024, 1408)
    assert shapes["bert.encoder.layer.23.crossattention.output.LayerNorm.bias"] == (1024,)
    assert shapes["cls.predictions.transform.dense.weight"] == (1024, 1024)
    assert sum("crossattention" in name for name in shapes) == 5 * 10
    with torch.device("meta"):
        large = BertForPreTraining(
            BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
        )
    known = {name: tuple(t.shape) for name, t in large.state_dict().items()}
    ours = {name for name in shapes if "crossattention" not in name}
    assert {name: shapes[name] for name in ours} == {name: known[name] for name in ours}
    rest = ("bert.pooler.", "cls.seq_relationship.", "cls.predictions.decoder.")
    assert all(name.startswith(rest) for name in known.keys() - ours)


def test_dropout_is_of_training_only() -> None:
    model = split_bert(replace(TINY, dropout=0.5))
    assert torch.equal(model(IDS, MASK).tokens, model(IDS, MASK).tokens)
    model.train()
    torch.manual_seed(0)
    first = model.fuse(model(IDS, MASK).tokens, MASK, video())
    assert not torch.equal(first, model.fuse(model(IDS, MASK).tokens, MASK, video()))


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: replace(TINY, text_layers=4), "text_layers must be from 1 to depth 3, got 4"),
    (lambda: replace(TINY, text_layers=0), "text_layers must be a positive integer, got 0"),
    (lambda: replace(TINY, heads=3), "dim 16 is not divisible by heads 3"),
    (lambda: replace(TINY, dropout=1.0), "dropout must be in [0, 1), got 1.0"),
    (lambda: replace(TINY, mask_id=40), "mask_id must be from 0 to 39, got 40"),
    (lambda: replace(TINY, pool="max"), "pool must be one of ('mean', 'first'), got 'max'"),
    (lambda: split_bert()(IDS.repeat(1, 2), MASK.repeat(1, 2)), "ids must have 8 tokens at most"),
    (lambda: split_bert()(IDS + 38, MASK), "is the tokenizer that of the model?"),
    (lambda: split_bert(replace(TINY, depth=2)).fuse(video(), MASK, video()), "leaves no layer to fuse with a video"),
    (lambda: split_bert().fuse(torch.zeros(2, 5, 16), MASK, video()[:1]), "(2, 5, 16), mask (2, 5) and source (1, 5,"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
