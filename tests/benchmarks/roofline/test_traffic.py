"""The bytes of an operation are what it has to read and write; our ops' are those of their benchmarks."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import videomae_kernels as vk
from benchmarks.harness.counts import launches_kernel
from benchmarks.ops.align import ALIGN_OPS
from benchmarks.ops.clip import crop_bytes
from benchmarks.ops.contrast import CONTRAST_OPS
from benchmarks.ops.layers import LAYER_OPS
from benchmarks.ops.masks import MASK_OPS
from benchmarks.ops.pixels import PIXEL_OPS
from benchmarks.ops.tokens import TOKEN_OPS
from benchmarks.ops.workload import OURS as VARIANT
from benchmarks.ops.workload import Op, OpCase, build
from benchmarks.roofline.traffic import OURS, UnknownOpError, nbytes, needed_bytes
from videomae_kernels._custom_op import NAMESPACE

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Traffic(TorchDispatchMode):
    """The bytes of every operation that launches a kernel, by name."""

    def __init__(self, crop_bytes: dict[int, int] | None = None, namespace: str = "") -> None:
        super().__init__()
        self.bytes: dict[str, int] = {}
        self.crop_bytes, self.namespace = crop_bytes or {}, namespace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if launches_kernel(func) and func.namespace.startswith(self.namespace):
            name = func._schema.name.split("::")[1]
            moved = needed_bytes(func, args, kwargs or {}, out, self.crop_bytes)
            self.bytes[name] = self.bytes.get(name, 0) + moved
        return out


X, Y = torch.ones(4, 8), torch.ones(8, 16)  # 128 and 512 bytes
INDEX = torch.tensor([2, 0])  # 16 bytes


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: X @ Y, {"mm": 128 + 512 + 4 * 16 * 4}),
        (lambda: X + X[:1].expand(4, 8), {"add": 128 + 32 + 128}),  # an expanded row is read once
        (lambda: X.clone().add_(X), {"clone": 256, "add_": 3 * 128}),
        (lambda: torch.empty(4, 8).copy_(X), {"copy_": 256}),  # what is overwritten is not read
        (lambda: torch.empty(4, 8).zero_(), {"zero_": 128}),
        (lambda: torch.zeros_like(X), {"zeros_like": 128}),
        (lambda: X.bfloat16(), {"_to_copy": 128 + 64}),
        (lambda: X.t()[1:].unsqueeze(0), {}),
        (lambda: X[INDEX], {"index": 16 + 64 + 64}),  # two rows of 32 bytes, read and written
        (lambda: X.index_select(0, INDEX), {"index_select": 16 + 64 + 64}),
        (lambda: torch._foreach_copy_([torch.empty(8).bfloat16()], [torch.ones(8)]), {"_to_copy": 48, "ones": 32,
                                                                                     "_foreach_copy_": 32 + 16}),
        (lambda: torch.nn.functional.layer_norm(X, (8,)), {"native_layer_norm": 256 + 2 * 16}),  # and mean, 1/std
    ],
)  # fmt: skip
def test_bytes_of_operations(call: Any, expected: dict[str, int]) -> None:
    with Traffic() as traffic:
        call()
    assert {name: moved for name, moved in traffic.bytes.items() if name in expected} == expected
    assert expected or not traffic.bytes


def test_adamw_moves_28_bytes_a_parameter() -> None:
    """Reads weight, gradient and both averages; writes all but the gradient; and the count of steps."""
    weight = torch.ones(1000, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], fused=True)
    for _ in range(2):
        weight.grad = torch.ones(1000)
        with Traffic() as traffic:
            optimizer.step()
    assert traffic.bytes["_fused_adamw_"] == pytest.approx(28_000, abs=16)


def test_host_memory_is_not_counted() -> None:
    assert nbytes(torch.empty(8, device="meta"), [torch.ones(2), None], 3) == 8


PARTLY_PYTORCHS = {  # a matrix product, or a sum for the mask token's gradient
    *(("embed_tokens", direction) for direction in ("forward", "backward")),
    *((op, "backward") for op in ("masked_token_scatter", "assemble_decoder_tokens")),
}
CASES = [
    (op, OpCase(op.name, direction, "base", clip, "fp32" if op.floating else "", 2, DEVICE))
    for op in (*ALIGN_OPS, *CONTRAST_OPS, *LAYER_OPS, *MASK_OPS, *PIXEL_OPS, *TOKEN_OPS)
    for direction in op.directions
    for clip in op.clips
    if (op.name, direction) not in PARTLY_PYTORCHS
]


@pytest.mark.parametrize(("op", "case"), CASES, ids=[f"{case.op}, {case}" for _, case in CASES])
def test_our_ops_move_what_their_benchmarks_say(op: Op, case: OpCase) -> None:
    """To 1 %: a benchmark leaves out what is a number for each token or clip."""
    workload = build(op, case)
    plan = case.inputs.plan()
    crops = {
        index.shape[1]: crop_bytes(case.inputs.config, case.inputs.boxes, index, case.clip != "crops bilinear")
        for index in (plan.visible, plan.predicted)
        if case.clip.startswith("crops")
    }
    call = workload.variants[VARIANT].prepare(case)
    with Traffic(crops, NAMESPACE) as traffic:
        call()
    assert sum(traffic.bytes.values()) == pytest.approx(workload.bytes, rel=0.01)


def test_every_op_of_ours_is_known() -> None:
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith(f"{NAMESPACE}::")}
    assert {name.split("::")[1].split(".")[0] for name in names} == OURS.keys()


def test_an_unknown_op_of_ours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OURS, "gather_tokens")
    x, index = torch.ones(1, 4, 8, device=DEVICE), torch.tensor([[0, 2]], device=DEVICE)
    with pytest.raises(UnknownOpError, match="gather_tokens"), Traffic():
        vk.gather_tokens(x, index)


def test_crops_need_their_bytes() -> None:
    op = next(op for op in PIXEL_OPS if op.name == "patch_targets" and op.clips[0].startswith("crops"))
    case = OpCase(op.name, "forward", "tiny", op.clips[0], "fp32", 1, DEVICE)
    call = build(op, case).variants[VARIANT].prepare(case)
    with pytest.raises(ValueError, match="crop_bytes"), Traffic({}, NAMESPACE):
        call()


def test_frames_of_crops_that_are_compared_are_not_counted() -> None:
    source = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    clips = vk.crop_clips([source], [0], [(0, 0, 8, 8)], [False], (4, 4)).to(DEVICE)
    with pytest.raises(NotImplementedError, match="changed_token_index on crops"), Traffic({}, NAMESPACE):
        vk.changed_token_index(clips, 2, (2, 4, 4))
