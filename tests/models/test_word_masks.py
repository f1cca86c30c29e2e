"""Hidden words: which and by what, by (seed, sample) alone; the loss of predicting them; hard negatives."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from videomae_fast.models import hard_negatives, mask_words, mlm_loss, vtm_loss
from videomae_fast.models.negatives import TEXT_STREAM, VIDEO_STREAM

VOCABULARY = 1000


def hide(ids: Tensor, sample: Tensor, seed: int = 3, ratio: float = 0.5) -> tuple[Tensor, Tensor]:
    return mask_words(ids, sample, seed=seed, vocab_size=VOCABULARY, mask_id=4, kept_ids=(0, 2), ratio=ratio)


def captions(batch: int = 400, length: int = 32) -> Tensor:
    """[CLS] = 2, words, [SEP] = 3, padding 0."""
    torch.manual_seed(0)
    ids = torch.randint(5, VOCABULARY, (batch, length))
    ids[:, 0], ids[:, -3], ids[:, -2:] = 2, 3, 0
    return ids


def test_shares_are_those_of_bert() -> None:
    ids = captions()
    out, labels = hide(ids, torch.arange(400))
    chosen = labels >= 0
    assert torch.equal(labels[chosen], ids[chosen]) and torch.equal(out[~chosen], ids[~chosen])
    assert not chosen[:, 0].any() and not chosen[:, -2:].any()
    words = 400 * 29
    assert chosen.sum().item() / words == pytest.approx(0.5, abs=4 * 0.5 / words**0.5)
    assert 0.4 < chosen[:, -3].float().mean().item() < 0.6  # [SEP] is a word
    found = out[chosen]
    count = len(found)
    for share, here in ((0.8, found == 4), (0.1, found == labels[chosen])):
        assert here.sum().item() / count == pytest.approx(share, abs=5 * (share * (1 - share) / count) ** 0.5)
    replaced = found[(found != 4) & (found != labels[chosen])]
    assert replaced.min() >= 0 and replaced.max() < VOCABULARY
    assert replaced.float().mean().item() == pytest.approx(
        VOCABULARY / 2, abs=5 * VOCABULARY / (12 * len(replaced)) ** 0.5
    )


def test_a_pure_function_of_seed_and_sample() -> None:
    ids, sample = captions(6), torch.tensor([3, 1, 2**40, 5, 8, 9])
    whole = hide(ids, sample)
    parts = [hide(ids[part], sample[part]) for part in (slice(4, 6), slice(0, 1))]
    for tensor, last, first in zip(whole, *parts, strict=True):
        assert torch.equal(tensor[4:], last) and torch.equal(tensor[:1], first)
    assert not torch.equal(hide(ids, sample, seed=4)[1], whole[1])
    assert not torch.equal(hide(ids[:1].expand(2, -1), sample[:2])[1][0], hide(ids[:1].expand(2, -1), sample[:2])[1][1])


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_no_word_and_every_word(ratio: float) -> None:
    ids = captions(3)
    _, labels = hide(ids, torch.arange(3), ratio=ratio)
    assert ((labels >= 0) == ((ids > 2) & (ratio == 1.0))).all()


def test_the_loss_of_words_is_the_formula() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 7, dtype=torch.float64), torch.tensor([[-100, 4, -100], [0, -100, 6]])
    log = logits.log_softmax(-1)
    expected = -(log[0, 1, 4] + log[1, 0, 0] + log[1, 2, 6]) / 3
    torch.testing.assert_close(mlm_loss(logits, labels), expected)
    assert mlm_loss(logits.bfloat16(), labels).dtype == torch.float32
    logits.requires_grad_()
    nothing = mlm_loss(logits, torch.full_like(labels, -100))
    nothing.backward()
    assert nothing.item() == 0 and logits.grad is not None and logits.grad.abs().max() == 0


def test_the_loss_of_matching_is_the_formula() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 2, dtype=torch.float64)
    log = logits.log_softmax(1)
    torch.testing.assert_close(vtm_loss(logits), -(log[:2, 1].sum() + log[2:, 0].sum()) / 6)
    assert vtm_loss(logits.bfloat16()).dtype == torch.float32


def draw(similarity: Tensor, own: Tensor, others: Tensor, sample: Tensor | None = None, seed: int = 1) -> Tensor:
    sample = torch.arange(len(own)) if sample is None else sample
    return hard_negatives(similarity, own, others, sample, seed=seed, stream=TEXT_STREAM)


def test_negatives_follow_the_law() -> None:
    """4,000 rows of one law: softmax over what is no positive."""
    rows = 4000
    similarity = torch.tensor([3.0, 1.0, 0.0, 2.0, 9.0]).expand(rows, -1)
    drawn = draw(similarity, torch.zeros(rows, dtype=torch.int64), torch.tensor([5, 6, 7, 0, 0]))
    expected = F.softmax(torch.tensor([3.0, 1.0, 0.0]), 0)
    counts = drawn.bincount(minlength=5)
    assert counts[3:].sum() == 0
    assert ((counts[:3] - rows * expected).abs() < 5 * (rows * expected).sqrt()).all()


def test_positives_that_take_all_of_softmax_leave_the_law() -> None:
    similarity = 1000 * torch.eye(8) + torch.arange(8.0)
    ids = torch.arange(8)
    drawn = draw(similarity, ids, ids)
    assert (drawn != ids).all() and (drawn >= 4).float().mean() > 0.5


def test_negatives_are_a_pure_function_of_seed_and_sample() -> None:
    torch.manual_seed(0)
    similarity, ids, sample = torch.randn(6, 9), torch.arange(6), torch.arange(10, 16)
    whole = draw(similarity, ids, torch.arange(9), sample)
    assert torch.equal(draw(similarity[2:4], ids[2:4], torch.arange(9), sample[2:4]), whole[2:4])
    other = hard_negatives(similarity, ids, torch.arange(9), sample, seed=1, stream=VIDEO_STREAM)
    assert not torch.equal(other, whole)


IDS, SAME = torch.arange(3), torch.full((3,), 2)
ERRORS: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: draw(torch.zeros(3, 3), torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)),
        "pair 0 has",
    ),
    (
        lambda: draw(torch.zeros(3, 3), torch.tensor([1, 2, 2]), torch.tensor([2, 2, 2])),
        "pair 1 has no negative among 3",
    ),
    (lambda: draw(torch.zeros(1, 1), IDS[:1], IDS[:1]), "pair 0 has no negative among 1"),
    (lambda: draw(torch.zeros(3, 2), IDS, IDS), "must be (b, n), (b,) and (n,), got (3, 2), (3,) and (3,)"),
    (lambda: hide(captions(3), torch.arange(2)), "ids and sample must be (B, L) and (B,), got (3, 32) and (2,)"),
    (lambda: hide(captions(3), torch.arange(3), ratio=1.5), "ratio must be in [0, 1], got 1.5"),
    (lambda: mlm_loss(torch.zeros(2, 3, 4), torch.zeros(2, 4)), "got (2, 3, 4) and (2, 4)"),
    (lambda: vtm_loss(torch.zeros(4, 2)), "logits must be (3B, 2): B pairs, then 2B that are none, got (4, 2)"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
