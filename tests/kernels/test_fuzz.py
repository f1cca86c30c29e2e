"""Arguments drawn around valid ones: every outcome is the right result, or an error that names an argument."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import videomae_kernels as vk
from tests.fuzz import examples
from tests.kernels import truth
from tests.kernels.test_errors import good
from videomae_kernels import CroppedClips

OPS = (
    *("tube_mask_index", "random_mask_index", "mask_to_index", "running_cell_select", "gather_tokens", "patch_targets"),
    *("masked_token_scatter", "assemble_decoder_tokens", "tube_mask_gather", "embed_tokens", "masked_patch_loss"),
    *("layer_norm", "add_layer_norm", "rms_norm", "add_rms_norm", "bias_gelu", "alignment_loss"),
    "add_drawn_norm",
    *("contrastive_loss", "warp_clips", "changed_token_index", "weighted_mask_index"),
)
HUGE = (2**31, 2**63 - 1, 2**63, 10**400, -1, -(2**63))
STATS = [((0.5,) * 3, (0.2,) * 3), ((0.5,) * 3, (0.0,) * 3), ((float("nan"),) * 3, (1.0,) * 3), (0.5, 0.5)]
VALUES = st.sampled_from(
    [
        *(None, True, False, 0, 1, 2, 3, 5, *HUGE, 0.0, 0.3, 0.5, 0.999, 1.0, 2.5, -0.5, float("nan"), float("inf")),
        *("", "BCTHW", "BTHWC", "CTBHW", "bcthw", "float32", b"x", [], (), [1], {}, object(), torch.ones(3), *STATS),
        *((2, 4, 4), [2, 4, 4], (4, 4, 6), (1, 1, 1), (2.0, 4, 4), ("2", 4, 4), (-2, 4, 4), (2**40, 4, 4)),
        *(np.int64(3), np.float32(0.5), np.bool_(True), np.ones(3), np.array([2, 4, 4])),
        *(torch.float32, torch.float16, torch.float64, torch.uint8, torch.complex64),
    ]
)
DTYPES = st.sampled_from(
    [
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64),
        *(torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool),
    ]
)
NUMBERS = st.sampled_from([0, 1, -1, 95, 96, 255, 2**31 - 1, -(2**31), 2**62])


def with_value(x: Tensor, place: int, value: int) -> Tensor:
    """A copy with one other element, where its dtype can hold the value."""
    bad = x.clone()
    if bad.numel() and (bad.is_floating_point() or bad.dtype in (torch.int32, torch.int64)):
        limit = None if bad.is_floating_point() else torch.iinfo(bad.dtype)
        bad.view(-1)[place % bad.numel()] = value if limit is None else min(max(value, limit.min), limit.max)
    return bad


def strided(x: Tensor, step: int) -> Tensor:
    """The same values with other strides."""
    wide = torch.zeros(*x.shape[:-1], x.shape[-1] * step, dtype=x.dtype)
    wide[..., ::step] = x
    return wide[..., ::step]


Spoil = Callable[[Tensor, Any, int], Any]
SPOILED_NUMBERS: list[Spoil] = [  # of any tensor, of no dimensions too
    lambda x, draw, place: x,
    lambda x, draw, place: x.to(draw(DTYPES)),
    lambda x, draw, place: with_value(x, place, draw(NUMBERS)),
    lambda x, draw, place: x * float("nan") if x.is_floating_point() else x,
    lambda x, draw, place: x * float("inf") if x.is_floating_point() else x,
    lambda x, draw, place: x[None],
    lambda x, draw, place: x.tolist(),
    lambda x, draw, place: x.numpy(),
    lambda x, draw, place: x.to_sparse(),
    lambda x, draw, place: x.to("meta"),
    lambda x, draw, place: draw(VALUES),
]
SPOILED: list[Spoil] = [
    *SPOILED_NUMBERS,
    lambda x, draw, place: strided(x, 2 + place % 2),
    lambda x, draw, place: x[:1].expand(x.shape),
    lambda x, draw, place: x.contiguous().mT.contiguous().mT if x.ndim > 1 else x,
    lambda x, draw, place: x[: place % 3],
    lambda x, draw, place: x[..., : place % (x.shape[-1] + 1)],
    lambda x, draw, place: x[0],
    lambda x, draw, place: x.flip(-1),
]


@st.composite
def calls(draw: Any) -> tuple[str, dict[str, Any]]:
    """An op and its arguments, of which up to two are drawn."""
    name = draw(st.sampled_from(OPS))
    _, arguments = good(name)
    for argument in draw(st.lists(st.sampled_from(sorted(arguments)), max_size=2, unique=True)):
        old = arguments[argument]
        spoiled = SPOILED if getattr(old, "ndim", 0) else SPOILED_NUMBERS
        spoil, place = draw(st.sampled_from(spoiled)), draw(st.integers(0, 200))
        arguments[argument] = spoil(old, draw, place) if isinstance(old, Tensor) else draw(VALUES)
    return name, arguments


def pixels(clip: Tensor, index: Tensor, patch: Any, layout: str = "BCTHW", **_: Any) -> Tensor:
    return truth.pixels(clip, index, [int(side) for side in patch], layout)


def targets(denormalize: Any = None, normalize_target: bool = True, **call: Any) -> Tensor:
    return truth.targets(truth.denormalized(pixels(**call), denormalize), normalize_target)


def loss(pred: Tensor, weight: Tensor | None, **call: Any) -> Tensor:
    rows = (pred.double() - targets(**call)).square().mean(2)
    weight = torch.ones_like(rows) if weight is None else weight.double()
    return (rows * weight).sum() / weight.sum()


def scattered(tokens: Tensor, index: Tensor, num_tokens: int, mask_token: Tensor | None) -> Tensor:
    out = torch.zeros(tokens.shape[0], int(num_tokens), tokens.shape[2], dtype=torch.float64)
    if mask_token is not None:
        out += mask_token.double()
    for b, row in enumerate(index.tolist()):
        out[b, row] = tokens[b].double()
    return out


def assembled(tokens: Tensor, mask_token: Tensor, position: Tensor, visible: Tensor, decoded: Tensor) -> Tensor:
    position = position.double()
    return torch.cat([tokens.double() + position[visible.long()], mask_token.double() + position[decoded.long()]], 1)


def embedded(weight: Tensor, bias: Tensor, position: Tensor, normalize: Any, **call: Any) -> Tensor:
    value = truth.normalized(pixels(patch=weight.shape[2:], **call), normalize).flatten(2)
    return value @ weight.double().flatten(1).T + bias.double() + position.double()[call["index"].long()]


def normalized_rows(x: Tensor, weight: Tensor, bias: Tensor, eps: Any, dtype: Any) -> Tensor:
    return truth.layer_norm(x, weight, bias, float(eps))


def added_and_normalized(x: Tensor, branch: Tensor, **norm: Any) -> Tensor:
    total = (x.double() + branch.double()).to(x.dtype)
    return torch.cat((total.double(), normalized_rows(total, **norm)), -1)


def rows_over_their_size(x: Tensor, weight: Tensor, eps: Any, dtype: Any) -> Tensor:
    return truth.rms_norm(x, weight, float(eps))


def scaled_added_and_normalized(x: Tensor, branch: Tensor, scale: Tensor | None, **norm: Any) -> Tensor:
    added = branch.double() if scale is None else branch.double() * scale.double()
    total = (x.double() + added).to(x.dtype)
    return torch.cat((total.double(), rows_over_their_size(total, **norm)), -1)


def drawn_and_normalized(
    x: Tensor,
    branch: Tensor,
    bias: Tensor | None,
    scale: Any,
    factor: Any,
    ran: Any,
    runs: Any,
    count: Any,
    **norm: Any,
) -> Tensor:
    total, added = x.double(), branch.double() * float(factor) * (1 if scale is None else scale.double())
    places = range(len(x)) if ran is None else ran.tolist()
    total = torch.stack([row + added[at] if at < len(added) else row for row, at in zip(total, places, strict=True)])
    total = total.to(x.dtype)
    order = range(len(x)) if runs is None else runs.argsort()[: int(count)].tolist()
    rows = total[list(order)]
    y = rows_over_their_size(rows, **norm) if bias is None else normalized_rows(rows, bias=bias, **norm)
    return torch.cat([part.double().flatten() for part in (total, rows, y)])


def warped(clips: CroppedClips, matrix: Tensor, fill: Any) -> Tensor:
    """Of sources of one size, as `good` has them. Its matrix has few bits, and so have NUMBERS: positions are exact."""
    sources = clips.frames.view(len(matrix), clips.num_frames, *clips.geometry[0, 1:3].tolist(), clips.channels)
    pairs = zip(sources, matrix, strict=True)
    return torch.stack([truth.warped(source, one, clips.size, int(fill))[0] for source, one in pairs])


def changed(clip: Tensor, count: Any, patch: Any, layout: str) -> Tensor:
    return truth.changed_tokens(clip, int(count), [int(side) for side in patch], layout).double()


def one_tensor(found: Any) -> Tensor:
    """Two tensors of numbers side by side; of an index and what comes with it, the index."""
    if not isinstance(found, tuple):
        return found
    if len(found) == 3 and found[0].is_floating_point():  # of different batches
        return torch.cat([x.double().flatten() for x in found])
    return torch.cat([x.double() for x in found], -1) if found[0].is_floating_point() else found[0]


EXPECTED: dict[str, Callable[..., Tensor]] = {
    "gather_tokens": lambda x, index: torch.stack([x[b].double()[row] for b, row in enumerate(index.long())]),
    "masked_token_scatter": scattered,
    "assemble_decoder_tokens": assembled,
    "tube_mask_gather": lambda dtype, normalize, **call: truth.normalized(pixels(**call), normalize).flatten(2),
    "embed_tokens": embedded,
    "layer_norm": normalized_rows,
    "add_layer_norm": added_and_normalized,
    "rms_norm": rows_over_their_size,
    "add_rms_norm": scaled_added_and_normalized,
    "add_drawn_norm": drawn_and_normalized,
    "bias_gelu": truth.bias_gelu,
    "alignment_loss": lambda eps, **rows: truth.alignment_loss(eps=float(eps), **rows),
    "contrastive_loss": lambda group, **pairs: truth.contrastive_loss(**pairs),
    "patch_targets": targets,
    "masked_patch_loss": loss,
    "warp_clips": warped,
    "changed_token_index": changed,
    "weighted_mask_index": lambda **call: truth.weighted_tokens(**call).double(),
    "mask_to_index": lambda mask, count: torch.stack([row.nonzero().flatten() for row in mask]).double(),
}


def check_index(name: str, found: Tensor, arguments: dict[str, Any]) -> None:
    """Masks are drawn: what can be said of any is its number of tokens, their range and their order."""
    tokens = arguments["num_tokens"] if name == "random_mask_index" else np.prod([int(n) for n in arguments["grid"]])
    assert found.dtype == torch.int64 and found.ndim == 2
    assert not found.numel() or (int(found.min()) >= 0 and int(found.max()) < tokens)
    if name == "running_cell_select":
        assert all(len(set(row)) == len(row) for row in found.tolist())
    else:
        frames = 1 if name == "random_mask_index" else int(arguments["grid"][0])
        positions = int(tokens) // frames
        assert found.shape[1] == frames * (positions - int(float(arguments["ratio"]) * positions))
        assert bool((found[:, 1:] > found[:, :-1]).all())


@examples(default=300, slow=5000)
@given(calls())
def test_an_op_is_right_or_names_an_argument(call: tuple[str, dict[str, Any]]) -> None:
    name, arguments = call
    op = getattr(vk, name)
    try:
        found = op(**arguments)
    except (TypeError, ValueError) as error:
        words = str(error).replace("(", " ").replace(":", " ").replace(",", " ").replace(".", " ").split()
        assert set(words) & set(inspect.signature(op).parameters), f"{name}: {type(error).__name__}: {error}"
        return
    outputs, found = found, one_tensor(found)
    if any(isinstance(x, Tensor) and x.is_meta for x in arguments.values()):
        assert found.is_meta
    elif name not in EXPECTED:
        check_index(name, found, arguments)
    elif found.numel():
        expected = EXPECTED[name](**arguments)
        result = outputs[0] if isinstance(outputs, tuple) else outputs
        if result.is_floating_point():  # what float16 cannot hold is infinite in it
            expected = expected.to(result.dtype).double()
        tensors = (*(outputs if isinstance(outputs, tuple) else (outputs,)), *arguments.values())
        coarse = any(isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16) for x in tensors)
        tolerance = dict(rtol=5e-2, atol=5e-2) if coarse else dict(rtol=1e-4, atol=1e-4)
        found = found.double().reshape(expected.shape)
        if name == "bias_gelu":  # of infinite numbers PyTorch's GELU on a CPU makes NaN wherever it uses vectors
            assert not found[~expected.isfinite()].isfinite().any()
            found = found.where(expected.isfinite(), expected)
        torch.testing.assert_close(found, expected, equal_nan=True, **tolerance)


def test_what_is_expected_of_valid_arguments() -> None:
    for name, expected in EXPECTED.items():
        op, arguments = good(name)
        wanted = expected(**arguments)
        found = one_tensor(op(**arguments)).double().reshape(wanted.shape)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
