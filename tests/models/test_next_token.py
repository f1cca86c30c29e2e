"""The loss of next tokens: against cross_entropy of whole logits, gradients, memory, libraries by name, errors."""

import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from videomae_fast.memory import MemoryProfile
from videomae_fast.models import next_token as module
from videomae_fast.models.next_token import (
    IMPLEMENTATIONS,
    check_implementation,
    language_model_loss,
    next_token_log_probs,
)

ROWS, DIM, WORDS, RANK = 7, 5, 11, 2


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", (3, 4))  # neither divides the sizes


def inputs(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> dict[str, Tensor]:
    torch.manual_seed(0)
    sizes = {
        "hidden": (ROWS, DIM),
        "weight": (WORDS, DIM),
        "bias": (WORDS,),
        "low": (ROWS, RANK),
        "high": (WORDS, RANK),
    }
    return {name: (scale * torch.randn(size)).to(dtype).requires_grad_() for name, size in sizes.items()}


TARGETS = torch.tensor([3, -100, 0, 10, 4, -100, 3])


def whole(x: dict[str, Tensor], targets: Tensor = TARGETS) -> Tensor:
    """The truth: all logits at once."""
    logits = x["hidden"] @ x["weight"].T + x["bias"] + x["low"] @ x["high"].T
    return F.cross_entropy(logits, targets)


def ours(x: dict[str, Tensor], targets: Tensor = TARGETS) -> Tensor:
    return language_model_loss(x["hidden"], x["weight"], targets, x["bias"], adapter=(x["low"], x["high"]))


def test_log_probabilities_are_those_of_all_logits() -> None:
    x, targets = inputs(), TARGETS.clamp(min=0)
    given = (x["hidden"], x["weight"], targets, x["bias"])
    found = next_token_log_probs(*given, adapter=(x["low"], x["high"]))
    logits = x["hidden"] @ x["weight"].T + x["bias"] + x["low"] @ x["high"].T
    torch.testing.assert_close(found, logits.log_softmax(1).gather(1, targets[:, None])[:, 0])
    assert found.requires_grad
    with pytest.raises(ValueError, match="targets must be from 0 to 10, got -100 to 10"):
        next_token_log_probs(x["hidden"], x["weight"], TARGETS)
    with pytest.raises(ValueError, match="targets have no token to predict: there are no rows"):
        next_token_log_probs(x["hidden"][:0], x["weight"], TARGETS[:0])


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["usual", "large"])
def test_loss_and_gradients_are_those_of_all_logits(scale: float) -> None:
    x, y = inputs(scale=scale), inputs(scale=scale)
    found, expected = ours(x), whole(y)
    torch.testing.assert_close(found, expected)
    (3 * found).backward()
    (3 * expected).backward()
    for name in x:
        torch.testing.assert_close(x[name].grad, y[name].grad, msg=name)


def test_gradients_are_those_of_differences() -> None:
    x = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w, b, low, high: language_model_loss(h, w, TARGETS, b, adapter=(low, high)), tuple(x.values())
    )


def test_rows_of_a_batch_and_a_plain_head() -> None:
    x = inputs()
    hidden = torch.stack([x["hidden"], x["hidden"].flip(0)])
    targets = torch.stack([TARGETS, TARGETS.flip(0)])
    expected = F.cross_entropy(x["hidden"] @ x["weight"].T, TARGETS)
    torch.testing.assert_close(language_model_loss(hidden, x["weight"], targets), expected)


def test_ignored_rows_are_never_touched() -> None:
    x = inputs()
    with torch.no_grad():
        x["hidden"][TARGETS < 0] = torch.nan
        x["low"][TARGETS < 0] = torch.nan
    ours(x).backward()
    kept = TARGETS >= 0
    for name in ("hidden", "low"):
        grad = x[name].grad
        assert grad is not None and grad[kept].isfinite().all() and not grad[~kept].any()
    y = inputs()
    whole(y).backward()
    torch.testing.assert_close(x["weight"].grad, y["weight"].grad)


def test_ignore_index_is_any_or_none() -> None:
    x, kept = inputs(), TARGETS >= 0
    other = TARGETS.masked_fill(~kept, 7)
    assert torch.equal(language_model_loss(x["hidden"], x["weight"], other, ignore_index=7), ours_plain(x, TARGETS))
    every = language_model_loss(x["hidden"][kept], x["weight"], TARGETS[kept], ignore_index=None)
    assert torch.equal(every, ours_plain(x, TARGETS))


def ours_plain(x: dict[str, Tensor], targets: Tensor) -> Tensor:
    return language_model_loss(x["hidden"], x["weight"], targets)


def test_only_needed_gradients_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = inputs()
    for name in ("weight", "bias", "high"):
        x[name].requires_grad_(False)
    made: list[Any] = []
    real = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **k: made.append(tuple(tensor.shape)) or real(tensor, **k))
    ours(x).backward()
    assert made == [] and x["weight"].grad is None and x["hidden"].grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    x, y = inputs(dtype), {n: t.detach().double().requires_grad_() for n, t in inputs(dtype).items()}
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x)
    expected = whole(y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    found.backward()
    expected.backward()
    for name in x:
        grad, truth = x[name].grad, y[name].grad
        assert grad is not None and truth is not None and grad.dtype == dtype
        torch.testing.assert_close(grad.double(), truth, rtol=torch.finfo(dtype).eps, atol=1e-6, msg=name)


@pytest.mark.parametrize("wide", ["hidden", "weight", "bias", "low", "high"])
def test_one_wide_input_makes_all_of_it_float64(wide: str) -> None:
    x = inputs(torch.float32)
    x[wide] = x[wide].detach().double().requires_grad_()
    y = {name: tensor.detach().double().requires_grad_() for name, tensor in x.items()}
    found, expected = ours(x), whole(y)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    for name in x:
        torch.testing.assert_close(x[name].grad, y[name].grad, check_dtype=False, rtol=1e-6, atol=1e-7, msg=name)
    torch.testing.assert_close(x[wide].grad, y[wide].grad)


def test_memory_of_the_loss_can_be_predicted() -> None:
    """Fake tensors have no values to check, and as many bytes."""
    sizes = {"rows": 40, "words": 60, "frozen": False}

    def every(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return language_model_loss(hidden, weight, targets, ignore_index=None)

    real = peak(every, **sizes)
    with FakeTensorMode():
        assert peak(every, **sizes) == real > 0


def peak(loss: Callable[[Tensor, Tensor, Tensor], Tensor], rows: int, words: int, frozen: bool) -> int:
    """Bytes of a step above the head, counted."""
    torch.manual_seed(0)
    head = nn.Linear(8, words, bias=False).requires_grad_(not frozen)
    hidden = torch.randn(rows, 8, requires_grad=True)
    targets = torch.randint(words, (rows,))
    with MemoryProfile(head) as profile:
        loss(hidden, head.weight, targets).backward()
    return profile.figures.step_bytes


@pytest.mark.parametrize("frozen", [True, False])
def test_memory_is_never_that_of_all_logits(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", (32, 256))
    rows, words = 256, 2048
    logits = 4 * rows * words
    bound = 4 * (3 * 32 * 256 + 4 * rows * 8 + words * 8 * 2)  # three tiles, rows, and weights with their gradient
    assert bound < logits / 7

    def naive(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(hidden @ weight.T, targets)

    assert peak(language_model_loss, rows, words, frozen) < bound
    assert peak(naive, rows, words, frozen) > 2 * logits
    # Twice the vocabulary adds rows of the weight's gradient at most, and no logits.
    growth = peak(language_model_loss, rows, 2 * words, frozen) - peak(language_model_loss, rows, words, frozen)
    assert growth <= (0 if frozen else 4 * 8 * words) + 4096


@pytest.mark.parametrize(("name", "package"), [("liger", "liger_kernel"), ("cut-cross-entropy", "cut_cross_entropy")])
def test_another_library_is_named_and_never_replaced(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, kept = inputs(torch.float32), TARGETS >= 0
    hidden, weight, targets = x["hidden"][kept], x["weight"], TARGETS[kept]
    for hidden_module in (package, f"{package}.transformers", f"{package}.transformers.functional"):
        monkeypatch.setitem(sys.modules, hidden_module, None)
    with pytest.raises(ImportError, match=re.escape(f"videomae-fast[{name}]")):
        language_model_loss(hidden, weight, targets, implementation=name)
    library, calls = ModuleType(package), list[Any]()

    def loss(*args: Any, **options: Any) -> Tensor:
        calls.append((args, options))
        return torch.tensor(4.0)

    library.linear_cross_entropy = library.liger_fused_linear_cross_entropy = loss  # type: ignore[attr-defined]
    for found in (package, f"{package}.transformers", f"{package}.transformers.functional"):
        monkeypatch.setitem(sys.modules, found, library)
    with pytest.raises(ValueError, match=f"implementation='{name}' .* CUDA devices only, got tensors on cpu"):
        language_model_loss(hidden, weight, targets, implementation=name)
    with pytest.raises(ValueError, match="no adapter on the head"):
        language_model_loss(hidden, weight, targets, adapter=(x["low"][kept], x["high"]), implementation=name)
    # What a CUDA tensor would be handed over with.
    assert module._FOREIGN[name][2](hidden, weight, targets, None) == 4
    (args, options), *others = calls
    assert not others and [id(a) for a in args[:3]] == [id(hidden), id(weight), id(targets)]
    assert options["reduction"] == "mean" and options.get("filter_eps", None) is None


def test_a_bias_is_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cut_cross_entropy", ModuleType("cut_cross_entropy"))
    x = inputs()
    with pytest.raises(ValueError, match="has no bias, and the head has one"):
        language_model_loss(x["hidden"], x["weight"], TARGETS, x["bias"], implementation="cut-cross-entropy")


def test_names_of_implementations() -> None:
    assert check_implementation("torch") == "torch"
    with pytest.raises(ValueError, match=re.escape(f"implementation must be one of {IMPLEMENTATIONS}, got 'fast'")):
        check_implementation("fast")
    x = inputs()
    with pytest.raises(ValueError, match="got 'fast'"):
        language_model_loss(x["hidden"], x["weight"], TARGETS, implementation="fast")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"targets": torch.full((ROWS,), -100)},
            ValueError,
            "no token to predict: all 7 are ignore_index",
        ),
        ({"targets": torch.full((ROWS,), WORDS)}, ValueError, "targets must be from 0 to 10, got 11 to 11"),
        ({"targets": torch.full((ROWS,), -1)}, ValueError, "targets must be from 0 to 10, got -1 to -1"),
        ({"targets": TARGETS.int()}, TypeError, "targets must be int64, got torch.int32"),
        ({"targets": TARGETS[1:]}, ValueError, r"targets must be \(7,\), as hidden has rows, got \(6,\)"),
        ({"weight": torch.ones(WORDS, 4)}, ValueError, r"\(…, D\) and \(V, D\), got \(7, 5\) and \(11, 4\)"),
        ({"hidden": torch.ones(DIM)}, ValueError, r"\(…, D\) and \(V, D\), got \(5,\)"),
        ({"hidden": torch.ones(ROWS, DIM, dtype=torch.int64)}, TypeError, "hidden must be floating, got torch.int64"),
        ({"bias": torch.ones(3)}, ValueError, r"bias must be \(11,\), as weight has rows, got \(3,\)"),
        (
            {"adapter": (torch.ones(ROWS, 2), torch.ones(WORDS, 3))},
            ValueError,
            r"must be \(7, R\) and \(11, R\)",
        ),
    ],
)
def test_errors_name_the_argument(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    x = inputs()
    given = {"hidden": x["hidden"], "weight": x["weight"], "targets": TARGETS} | changes
    with pytest.raises(error, match=message):
        language_model_loss(**given)
