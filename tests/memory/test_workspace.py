"""Memory that a kernel's launch takes for itself: what the op tells of it, and that predictions have it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videomae_fast.memory import MemoryProfile
from videomae_fast.memory.predict import predict_step
from videomae_kernels import contrastive_loss
from videomae_kernels._custom_op import workspace_bytes

pytest.importorskip("triton")
MIB = 2**20
OPS = torch.ops.videomae_kernels


class NoKernel:
    """Stands for a compiled kernel, and does nothing."""

    def __getitem__(self, grid: object) -> "NoKernel":
        return self

    def __call__(self, *args: object, **constants: object) -> None: ...


def launched_bytes(launch: object, *arguments: object) -> int:
    """The most that a launch holds at a time, besides its arguments, from the storages that it makes."""
    scale = nn.Linear(1, 1)
    with MemoryProfile(scale) as profile:
        launch(*arguments)  # type: ignore[operator]
    return max(profile.figures.timeline) - profile.figures.timeline[0]


def arguments_of(n: int, width: int, dtype: torch.dtype) -> list:
    x, y = (torch.zeros(n, width, dtype=dtype) for _ in range(2))
    return [x, y, torch.tensor(10.0), None, None, None, 0, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "width"), [(700, 16), (700, 600), (3000, 64)])
def test_the_loss_tells_what_its_launches_take(
    n: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of partial sums and of what one tile replaces it tells nothing: a tenth at most."""
    from videomae_kernels.tokens.triton import contrast as kernels

    for name in ("_contrastive_loss_kernel", "_contrastive_loss_backward_kernel"):
        monkeypatch.setattr(kernels, name, NoKernel())
    forward = arguments_of(n, width, dtype)
    terms, columns, rows = torch.empty(n), torch.empty(n), torch.empty(n)
    told = workspace_bytes(OPS.contrastive_loss.default, forward)
    taken = launched_bytes(kernels.contrastive_loss, *forward, terms, columns, rows)
    assert 0 <= taken - told < 0.1 * told + n * width * forward[0].element_size()
    x, y, scale, *others = forward
    backward = [torch.ones(n), torch.ones(n), x, y, scale, *others[:3], columns, rows, *others[3:]]
    told = workspace_bytes(OPS.contrastive_loss_backward.default, [*backward, True, True])
    outputs = torch.empty_like(x), torch.empty_like(y), torch.empty(2)
    taken = launched_bytes(kernels.contrastive_loss_backward, *backward, *outputs)
    assert 0.95 * told <= taken < 1.2 * told


def test_what_is_no_op_of_ours_tells_nothing() -> None:
    assert workspace_bytes(torch.ops.aten.add.Tensor, [torch.zeros(4), torch.zeros(4)]) == 0


class Projections(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x, self.y = nn.Linear(32, 64), nn.Linear(32, 64)

    def forward(self, rows: Tensor) -> Tensor:
        x, y = (F.normalize(part(rows), dim=1) for part in (self.x, self.y))
        return contrastive_loss(x, y, torch.tensor(10.0))


class Step:
    def __init__(self, pairs: int) -> None:
        self.model = Projections()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        self.rows = torch.zeros(pairs, 32)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.model(self.rows).backward()
        self.optimizer.step()


def test_a_prediction_has_the_products_of_the_loss() -> None:
    """256 rows of products with all 8192, 8 MiB; backward also the gradient of one side in float32, 2 MiB."""
    profile = predict_step(lambda: Step(8192))
    found = {a.op: a for a in profile._allocations if a.op.startswith("videomae_kernels.") and a.size >= 8 * MIB}
    forward, backward = (found[f"videomae_kernels.contrastive_loss{end}.default"] for end in ("", "_backward"))
    assert forward.size == 8 * MIB and backward.size == 10 * MIB + 256 * 64 * 4
    assert forward.category == backward.category == "temporaries"
    assert profile.figures.peak.op == "videomae_kernels.contrastive_loss_backward.default"
    assert profile.figures.peak_bytes > 10 * MIB + 4 * 8192 * 64 * 4


def test_a_real_step_on_a_cpu_has_none() -> None:
    """There the reference runs, in tiles of its own."""
    step = Step(2048)
    with MemoryProfile(step.model, step.optimizer) as profile:
        step()
    assert max(a.size for a in profile._allocations if "contrastive" in a.op) == 2048 * 64 * 4
