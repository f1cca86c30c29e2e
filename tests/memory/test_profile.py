"""`MemoryProfile` counts to the byte: by hand, against PyTorch's own tracker, and against the profiler's events."""

import doctest
import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from videomae_fast.memory import profile as memory
from videomae_fast.memory.figures import CATEGORIES, MemoryFigures, Moment
from videomae_fast.memory.profile import MemoryProfile

MIB = 2**20
BLOCK = 512


class Scaled(nn.Module):
    """exp(x * weight): one tensor dies in forward (the product), one is saved for backward (the result)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1024))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).exp()


class Perceptron(nn.Module):
    def __init__(self, checkpointing: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)) for _ in "abc")
        self.register_buffer("shift", torch.ones(256))
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x))
        return x + self.shift


def train(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer | None = None, autocast: bool = False) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(x).float().square().mean()
    loss.backward()
    if optimizer is not None:
        optimizer.step()


def nonzero(breakdown: dict[str, int]) -> dict[str, int]:
    return {category: size for category, size in breakdown.items() if size}


def test_forward_and_backward_by_hand() -> None:
    model, x = Scaled(), torch.zeros(256, 1024)
    with MemoryProfile(model) as found:
        model(x).sum().backward()
    # Backward of the product, its last operation: weight, x, the gradients of exp, of the product and of the weight;
    # and two scalars, the loss and its gradient, which exists before backward begins.
    assert found.figures.peak_bytes == 4096 + 3 * MIB + 4096 + 2 * BLOCK
    assert nonzero(found.figures.breakdown) == {
        "parameters": 4096,
        "gradients": 4096,
        "inputs": MIB,
        "activations": 2 * BLOCK,
        "temporaries": 2 * MIB,
    }
    assert found.figures.activations == {"(outside the model)": 2 * BLOCK}
    assert found.figures.peak == Moment("backward", "Scaled", "aten.sum.dim_IntList")
    assert found.figures.forward_end_bytes == 4096 + 2 * MIB + 2 * BLOCK  # the product is gone
    assert max(found.figures.timeline) == found.figures.peak_bytes
    assert found.figures.timeline[0] == 4096 + MIB
    assert found.figures.timeline[-1] == 4096 + MIB + 4096  # weight, x, gradient


def test_forward_alone_by_hand() -> None:
    model, x = Scaled(), torch.zeros(256, 1024)
    with torch.no_grad(), MemoryProfile(model) as found:
        model(x)
    assert nonzero(found.figures.breakdown) == {"parameters": 4096, "inputs": MIB, "temporaries": 2 * MIB}
    assert found.figures.forward_end_bytes is None


def test_views_and_in_place_operations_take_nothing() -> None:
    model, x = Scaled(), torch.zeros(256, 1024)
    with torch.no_grad(), MemoryProfile(model) as found:
        x.view(-1)[::2].add_(1).mul_(2)
        x.t().expand(2, -1, -1).unbind(0)
        x[:3].zero_()
    assert found.figures.peak_bytes == 4096 + MIB
    assert found.figures.peak.phase == "before"


def test_every_storage_is_whole_blocks() -> None:
    with MemoryProfile(Scaled()) as found:
        kept = [torch.zeros(1), torch.zeros(128), torch.zeros(129), torch.zeros(0)]
    assert found.figures.peak_bytes == 4096 + BLOCK + BLOCK + 2 * BLOCK
    del kept


def test_a_resized_storage_is_counted_anew() -> None:
    with MemoryProfile(Scaled()) as found:
        out = torch.zeros(128)
        torch.add(torch.zeros(256), 1, out=out.resize_(0))
    assert found.figures.peak_bytes == 4096 + 2 * 1024


def test_a_parameter_that_is_emptied_and_filled_stays_one() -> None:
    """As sharded training does with the storage of parameters."""
    model = Scaled()
    with torch.no_grad(), MemoryProfile(model) as found:
        model.weight.untyped_storage().resize_(0)
        model.weight.detach()  # is seen
        model.weight.untyped_storage().resize_(4096)
        model.weight.zero_()
    assert found.figures.timeline[-1] == found.figures.breakdown["parameters"] == 4096
    assert min(found.figures.timeline) == 0


def test_gradients_and_optimizer_state_are_told_apart() -> None:
    model, x = Scaled(), torch.zeros(256, 1024)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with MemoryProfile(model, optimizer) as first:
        train(model, x, optimizer)
    assert first.figures.timeline[-1] == MIB + 4096 + 4096 + 2 * 4096 + BLOCK  # x, weight, gradient, moments, step
    with MemoryProfile(model, optimizer) as second:
        train(model, x, optimizer)  # accumulates into the gradient that is there
    assert second.figures.breakdown["gradients"] == 4096
    assert second.figures.breakdown["optimizer state"] == 2 * 4096 + BLOCK
    assert second.figures.timeline[0] == second.figures.timeline[-1] == first.figures.timeline[-1]


def test_the_optimizers_phase() -> None:
    model = Scaled()
    model.weight.grad = torch.ones(1024)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    with MemoryProfile(model, optimizer) as found:
        optimizer.step()
    assert found.figures.peak.phase == "optimizer"
    assert found.figures.breakdown["parameters"] == found.figures.breakdown["gradients"] == 4096
    assert found.figures.breakdown["optimizer state"] >= 2 * 4096
    assert found.figures.breakdown["activations"] == 0


def test_checkpointing_keeps_less_and_repeated_work_counts_for_its_module() -> None:
    x = torch.randn(512, 256)
    found = {}
    for checkpointing in (False, True):
        model = Perceptron(checkpointing)
        with MemoryProfile(model) as found[checkpointing]:
            train(model, x)
    block = 512 * (1024 + 1024) * 4  # what GELU and the second Linear save, that is their inputs
    assert found[False].figures.forward_end_bytes - found[True].figures.forward_end_bytes == 3 * block
    assert found[True].figures.peak.phase == "backward"
    repeated = {path: size for path, size in found[True].figures.activations.items() if path.startswith("blocks")}
    assert repeated == {"blocks.0.0": block // 2, "blocks.0.1": block // 2}  # where all gradients are there
    kept = found[False].figures.activations
    assert kept["blocks.0.0"] == kept["blocks.0.1"] == block // 2


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_fake_tensors_give_the_same(checkpointing: bool, autocast: bool) -> None:
    def run() -> MemoryProfile:
        model, x = Perceptron(checkpointing), torch.zeros(64, 256)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        train(model, x, optimizer, autocast)
        optimizer.zero_grad()
        with MemoryProfile(model, optimizer) as found:
            train(model, x, optimizer, autocast)
        return found

    real = run()
    with FakeTensorMode():
        fake = run()
    assert fake.figures.breakdown == real.figures.breakdown
    assert fake.figures.forward_end_bytes == real.figures.forward_end_bytes
    assert fake.figures.activations == real.figures.activations


@pytest.mark.parametrize("checkpointing", [False, True])
def test_against_pytorchs_tracker(checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker_module = pytest.importorskip("torch.distributed._tools.mem_tracker")

    def prepare() -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], None], Tensor]:
        model, x = Perceptron(checkpointing), torch.zeros(64, 256)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        train(model, x, optimizer)
        optimizer.zero_grad()
        return model, optimizer, lambda: train(model, x, optimizer), x

    monkeypatch.setattr(memory, "BLOCK", 1)  # on a CPU the tracker does not round
    model, optimizer, step, _ = prepare()
    with MemoryProfile(model, optimizer) as ours:
        step()
    model, optimizer, step, x = prepare()
    tracker = tracker_module.MemTracker()
    tracker.track_external(model, optimizer, x)
    with tracker:
        step()
    theirs = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    assert ours.figures.peak_bytes == theirs["Total"]


def test_against_the_profilers_events() -> None:
    """The profiler sees every request, in bytes, those within operations too: of these a Linear layer's have none."""
    model, x = Perceptron(), torch.zeros(512, 256)
    train(model, x)
    with MemoryProfile(model) as ours:
        train(model, x)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        train(model, x)
    live = peak = 0
    for event in run.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    # Ours are whole blocks; the two moments are those of one step, so only rounding differs.
    assert ours.figures.peak_bytes - ours.figures.timeline[0] == pytest.approx(peak, abs=16 * BLOCK)


def test_custom_operations() -> None:
    from videomae_kernels import gather_tokens

    model, index = Scaled(), torch.arange(16).repeat(4, 1)
    x = torch.zeros(4, 64, 1024)
    with MemoryProfile(model) as found:
        gather_tokens(model(x), index).sum().backward()
    assert found.figures.activations["Scaled"] == MIB
    made_by = {allocation.op for allocation in found._allocations}
    assert {"videomae_kernels.gather_tokens.default", "videomae_kernels.masked_token_scatter.default"} <= made_by


def count_hooks(model: nn.Module) -> int:
    modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return modules + sum(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters())


def test_an_error_leaves_nothing_behind() -> None:
    model = Perceptron()
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(RuntimeError), MemoryProfile(model, optimizer) as found:
        assert count_hooks(model) > 0
        model(torch.zeros(2, 3))  # the wrong width, within a module
    assert count_hooks(model) == 0
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    before = found.figures.peak_bytes
    torch.zeros(MIB)  # is nobody's business any more
    assert found.figures.peak_bytes == before
    with MemoryProfile(model) as again:
        train(model, torch.zeros(4096, 256))
    assert again.figures.activations["blocks.0.0"] > 0


def test_what_cannot_be_profiled_is_an_error() -> None:
    with pytest.raises(ValueError, match="model must have parameters, GELU has none"):
        MemoryProfile(nn.GELU())
    with pytest.raises(ValueError, match="compiled parts"):
        MemoryProfile(torch.compile(Scaled()))
    compiled_in_place = Perceptron()
    compiled_in_place.blocks[0].compile()
    with pytest.raises(ValueError, match="compiled parts"):
        MemoryProfile(compiled_in_place)


def test_the_table_adds_up() -> None:
    model = Perceptron()
    with MemoryProfile(model) as found:
        train(model, torch.zeros(4096, 256))
    head, *rows = found.figures.table(depth=1).splitlines()
    figures: dict[str, float] = {}
    for row in rows[3:]:
        label, figure = (cell.strip() for cell in row.strip("|").split("|"))
        figures[label] = float(figure.replace(",", ""))
    assert tuple(figures)[: len(CATEGORIES)] == CATEGORIES
    total = sum(figures[category] for category in CATEGORIES)
    assert total == pytest.approx(found.figures.peak_bytes / MIB, abs=0.5)
    peak = found.figures.peak
    assert f"Peak {found.figures.peak_bytes / MIB:,.1f} MiB ({peak.phase}, {peak.module}" in head
    split = sum(figure for label, figure in figures.items() if label.startswith("activations of"))
    assert split == pytest.approx(figures["activations"], abs=0.5)
    assert "activations of blocks" in figures and "activations of blocks.0" not in figures
    assert "| activations of blocks.0 |" in found.figures.table(depth=2)


def test_attention_memory_is_seen() -> None:
    """Eager attention keeps scores; what it keeps is attributed to the module that made it."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(64, 192)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            return F.softmax(q @ k.mT, dim=-1) @ v

    model = nn.Sequential(Attention())
    with MemoryProfile(model) as found:
        train(model, torch.zeros(2, 512, 64))
    assert found.figures.activations["0"] >= 2 * 512 * 512 * 4


def test_figures_as_json() -> None:
    model = Perceptron()
    with MemoryProfile(model) as found:
        train(model, torch.zeros(64, 256))
    assert MemoryFigures.from_json(json.loads(json.dumps(found.figures.to_json()))) == found.figures
    with pytest.raises(TypeError):
        MemoryFigures.from_json({"peak": {}})


def test_step_bytes_leave_out_what_is_there_before() -> None:
    model, x = Scaled(), torch.zeros(256, 1024)
    with MemoryProfile(model) as found:
        model(x).sum().backward()
    assert found.figures.step_bytes == found.figures.peak_bytes - 4096 - MIB


def test_the_example_of_the_docstring_runs() -> None:
    results = doctest.DocTestFinder().find(MemoryProfile, globs={})
    examples = [case for case in results if case.examples]
    assert examples and all(doctest.DocTestRunner().run(case).failed == 0 for case in examples)
