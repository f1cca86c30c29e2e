"""Predictions of a GPU's memory: known figures, CUDA's autocast, attention and masks, and the largest batch."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.memory.predictable import PREDICTABLE, make_predictable
from videomae_fast.memory import MemoryFigures, MemoryProfile, StepPredictor
from videomae_fast.memory import fake_cuda as emulation
from videomae_fast.memory.fake_cuda import fake_cuda, known_true
from videomae_fast.memory.predict import fake_step, measure_step
from videomae_fast.memory.predict import predict_step as predict
from videomae_fast.models import VideoMAEConfig

MIB = 2**20
TINY = VideoMAEConfig(24, 2, 2, 16, 2, decoder_depth=2, patch_size=8, num_frames=8, image_size=(32, 32))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class PlainViT(nn.Module):
    """12 blocks of ViT-B on ready-made tokens, and a linear head."""

    def __init__(self, checkpointing: bool, dim: int = 768, heads: int = 12, depth: int = 12) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x)
        return self.head(self.norm(x))


class Trainer:
    """A step for any model and loss."""

    def __init__(self, model: nn.Module, loss: Callable[[], Tensor], precision: str = "bf16") -> None:
        self.model, self.loss, self.precision = model, loss, precision
        self.optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            loss = self.loss()
        loss.backward()
        self.optimizer.step()


@pytest.mark.parametrize(
    ("checkpointing", "peak", "forward_end"), [(False, 5405.1, 5331.6), (True, 1947.3, 1632.4)], ids=["all", "ckpt"]
)
def test_a_plain_vit(checkpointing: bool, peak: float, forward_end: float) -> None:
    """Found by another program, on fake tensors of device "cuda", with PyTorch's MemTracker agreeing."""

    def make() -> Trainer:
        model = PlainViT(checkpointing)
        x, target = torch.randn(8, 1568, 768), torch.randn(8, 1568, 1536)
        return Trainer(model, lambda: F.mse_loss(model(x), target))

    found = predict(make)
    # The other program has a generator's state on the host.
    assert found.figures.peak_bytes / MIB == pytest.approx(peak, abs=0.15)
    assert found.figures.forward_end_bytes is not None
    assert found.figures.forward_end_bytes / MIB == pytest.approx(forward_end, abs=0.15)
    assert found.figures.breakdown["parameters"] / MIB == pytest.approx(329.0, abs=0.1)
    assert found.figures.breakdown["optimizer state"] / MIB == pytest.approx(657.9, abs=0.2)


# CUDA's autocast has these and the CPU's has not, and they are not imitated: each does nothing to the published code,
# Hugging Face's or ours.
NOT_IMITATED = {
    "promote": "addcdiv addcmul atan2 bilinear cross dot index_put scatter_add tensordot vdot",
    "lower precision": "_convolution convolution _scaled_dot_product_flash_attention _thnn_fused_gru_cell addmv addr "
    "_thnn_fused_lstm_cell chain_matmul cudnn_convolution cudnn_convolution_transpose einsum gru_cell linalg_multi_dot "
    "lstm_cell mv rnn_relu_cell rnn_tanh_cell _cudnn_rnn",
    "float32": "norm.Scalar norm.ScalarOpt_dim _upsample_bicubic2d_aa _upsample_bilinear2d_aa upsample_bicubic2d "
    "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_bilinear2d "
    "upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d",
    "float32, of named tensors": "cumprod.dimname cumsum.dimname log_softmax.Dimname norm.names_ScalarOpt_dim "
    "softmax.Dimname sum.dim_DimnameList",
}


def test_the_autocast_table_is_the_dispatchers() -> None:
    registered = torch._C._dispatch_has_kernel_for_dispatch_key
    aten = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")]
    different = {
        name.removeprefix("aten::")
        for name in aten
        if registered(name, "AutocastCUDA") and not registered(name, "AutocastCPU")
    }
    imitated = set(emulation.FLOAT32_INPUTS + emulation.FLOAT32_RESULT)
    known = imitated | {name for names in NOT_IMITATED.values() for name in names.split()}
    assert different <= known
    assert {"layer_norm", "softmax.int", "pow.Tensor_Scalar", "sum"} <= imitated & different


FLOAT32 = {
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "cross_entropy": lambda x: F.cross_entropy(x, torch.zeros(4, dtype=torch.int64)),
    "pow": lambda x: x**2,
    "exp": lambda x: x.exp(),
    "sum": lambda x: x.sum(),
    "sum of a dim": lambda x: x.sum(0),
    "mse_loss": lambda x: F.mse_loss(x, x),
    "group_norm": lambda x: F.group_norm(x[None].mT, 2),
}


@pytest.mark.parametrize("name", FLOAT32)
def test_float32_under_autocast(name: str) -> None:
    function = FLOAT32[name]
    with fake_cuda():
        x = torch.zeros(4, 8, dtype=torch.bfloat16)
        assert function(x).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert function(x).dtype == torch.float32
            assert function(x.double()).dtype == torch.float64
            x.requires_grad_()
            (gradient,) = torch.autograd.grad(function(x).sum(), x)
            assert gradient.dtype == torch.bfloat16


def test_bfloat16_under_autocast() -> None:
    with fake_cuda(), torch.autocast("cpu", torch.bfloat16):
        x = torch.zeros(4, 8)
        assert F.linear(x, torch.zeros(8, 8)).dtype == torch.bfloat16
        assert F.gelu(x.bfloat16()).dtype == torch.bfloat16
        assert x.bfloat16().mean().dtype == torch.bfloat16
        assert torch.arange(3).sum().dtype == torch.int64
        assert x.bfloat16().sum(dtype=torch.bfloat16).dtype == torch.bfloat16


def test_autocast_and_attention_are_as_before_afterwards() -> None:
    def dtype_and_values() -> tuple[torch.dtype, Tensor]:
        x = torch.linspace(-1, 1, 64).view(1, 2, 4, 8)
        with torch.autocast("cpu", torch.bfloat16):
            return F.layer_norm(x.bfloat16(), (8,)).dtype, F.scaled_dot_product_attention(x, x, x)

    before = dtype_and_values()
    with pytest.raises(ZeroDivisionError), fake_cuda():
        F.layer_norm(torch.zeros(8), (8,))
        raise ZeroDivisionError
    after = dtype_and_values()
    assert before[0] == after[0] == torch.bfloat16
    assert torch.equal(before[1], after[1])


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_attention_keeps_no_scores(checkpointing: bool, precision: str) -> None:
    tokens = 4096

    def make() -> Trainer:
        model = PlainViT(checkpointing, dim=64, heads=4, depth=2)
        x = torch.zeros(1, tokens, 64)
        return Trainer(model, lambda: model(x).float().mean(), precision)

    found = predict(make)
    assert max(a.size for a in found._allocations) < 4 * tokens * tokens * 2  # four heads' scores in bf16
    op = "_flash_attention" if precision == "bf16" else "_efficient_attention"
    ops = {a.op for a in found._allocations if "attention" in a.op}
    assert ops == {f"aten._scaled_dot_product{op}.default", f"aten._scaled_dot_product{op}_backward.default"}


@pytest.mark.parametrize("tokens, line", [(256, 256), (250, 256)])
def test_attention_with_a_mask_keeps_no_scores(tokens: int, line: int) -> None:
    """The memory-efficient operation runs, with the mask as a bias in the dtype of the queries, in lines of 8 n."""

    def make() -> Trainer:
        model, mask = nn.Linear(64, 64), torch.ones(2, 1, tokens, tokens, dtype=torch.bool)

        def loss() -> Tensor:
            x = model(torch.zeros(2, tokens, 64)).unflatten(2, (4, 16)).transpose(1, 2)
            return F.scaled_dot_product_attention(x, x, x, mask).float().mean()

        return Trainer(model, loss)

    found = predict(make)
    ops = {a.op for a in found._allocations if "attention" in a.op}
    op = "aten._scaled_dot_product_efficient_attention"
    assert ops == {f"{op}.default", f"{op}_backward.default"}
    biases = [a.size for a in found._allocations if a.size == 2 * tokens * line * 2]
    assert biases and max(a.size for a in found._allocations) < 2 * 4 * tokens * tokens * 2


def test_attention_that_cannot_be_predicted() -> None:
    with fake_cuda():
        x = torch.zeros(1, 2, 4, 8)
        with pytest.raises(NotImplementedError, match="enable_gqa"):
            F.scaled_dot_product_attention(x, x, x, enable_gqa=True)


class Select(nn.Module):
    """What published code does with masks, on `index` made by `choose`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        kept = self.linear(x)[~mask].reshape(x.shape[0], -1, 16)
        hidden = self.linear(x)[mask].reshape(x.shape[0], -1, 16)
        return kept.square().sum() + hidden.exp().sum() + mask[~mask].sum()


def test_boolean_masks_have_their_true_sizes() -> None:
    """The same step with real masks on real tensors: every allocation is the same."""

    def make(declare: Callable[[Tensor, int], Tensor]) -> Trainer:
        model, x = Select(), torch.zeros(4, 64, 16)
        mask = declare((torch.arange(64) < 48).repeat(4, 1), 4 * 48)
        return Trainer(model, lambda: model(x, mask), "fp32")

    real = make(lambda mask, count: mask)
    real()
    with MemoryProfile(real.model, real.optimizer) as measured:
        real()
    predicted = predict(lambda: make(known_true))
    assert predicted.figures.timeline == measured.figures.timeline
    assert predicted.figures.breakdown == measured.figures.breakdown
    assert {a.size for a in predicted._allocations if a.op == "aten.index.Tensor"} >= {4 * 16 * 16 * 4, 4 * 48 * 16 * 4}


def test_a_mask_of_unknown_count_is_an_error() -> None:
    with fake_cuda():
        mask = torch.ones(2, 3, dtype=torch.bool)
        with pytest.raises(ValueError, match=r"a bool mask \(2, 3\) indexes.*known_true"):
            torch.zeros(2, 3, 4)[mask]
        assert torch.zeros(2, 3, 4)[known_true(mask, 5)].shape == (5, 4)
        assert torch.zeros(2, 3, 4)[~mask].shape == (1, 4)
        for wrong in (-1, 7):
            with pytest.raises(ValueError, match="count must be"):
                known_true(mask, wrong)
        with pytest.raises(ValueError, match="count must be"):
            known_true(mask.float(), 1)


def test_plain_tensor_attributes_stay_on_the_host() -> None:
    """As `Module.to` leaves them: taking one along costs a copy, at every step."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(256))
            self.table = torch.zeros(1, 1024, 256)

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.table.expand(2, -1, -1).type_as(x).to(x.device)) * self.scale

    def make() -> Trainer:
        model, x = Positions(), torch.zeros(2, 1024, 256)
        return Trainer(model, lambda: model(x).sum(), "fp32")

    found = predict(make)
    assert found.figures.breakdown["inputs"] == 2 * MIB
    copies = [a.size for a in found._allocations if a.op == "aten._to_copy.default"]
    assert copies == [2 * MIB]


def test_a_model_may_be_moved_and_cast() -> None:
    """A tensor in two modules stays one; integers stay what they are."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False)
            self.second.weight = self.first.weight
            self.register_buffer("counts", torch.zeros(256, dtype=torch.int64))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    def make(**to: Any) -> Trainer:
        model = Tied().to(**to)
        x = torch.zeros(2, 256, dtype=model.first.weight.dtype)
        return Trainer(model, lambda: model(x).sum(), "fp32")

    for to, size in (({"device": "cpu"}, 4), ({"dtype": torch.bfloat16}, 2), ({"dtype": torch.float32}, 4)):
        found = predict(lambda to=to: make(**to)).figures.breakdown
        assert found["parameters"] == found["gradients"] == size * 256 * 256 and found["buffers"] == 8 * 256
    assert nn.Linear(2, 2).to(torch.bfloat16).weight.dtype == torch.bfloat16  # the real one is back


def prediction(name: str, batch_size: int = 4, precision: str = "bf16", config: VideoMAEConfig = TINY) -> MemoryProfile:
    decoder_mask_ratio = 0.0 if name == "Hugging Face" else 0.5
    return predict(make_predictable(name, config, batch_size, 0.75, decoder_mask_ratio, precision))


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "bf16") for name in PREDICTABLE), ("published", "fp32"), ("videomae_fast", "fp32")]
)
def test_every_implementation_and_always_the_same_bytes(name: str, precision: str) -> None:
    first, second = prediction(name, precision=precision), prediction(name, precision=precision)
    assert first.figures.breakdown == second.figures.breakdown
    assert first.figures.activations == second.figures.activations
    assert first.figures.forward_end_bytes == second.figures.forward_end_bytes
    assert sum(first.figures.breakdown.values()) == first.figures.peak_bytes
    assert first.figures.breakdown["optimizer state"] >= 2 * sum(4 * n for n in [24 * 72, 24 * 96]) > 0


def test_predictions_leave_real_code_as_it_was() -> None:
    """The published code keeps its position tables between models: none of them may be a fake one."""
    from benchmarks.inputs import Inputs
    from benchmarks.model.steps import make_step

    prediction("published")
    step = make_step("published", Inputs(TINY, 2, torch.device("cpu"), 0.75), "bf16")
    step()
    assert type(step.model.pos_embed) is Tensor
    assert math.isfinite(step.loss().item())


def test_the_published_step_on_real_tensors() -> None:
    """Profiled on a CPU in fp32 it is the prediction, but for what a CPU need not copy: the position tables."""
    from benchmarks.inputs import Inputs
    from benchmarks.model.steps import make_step

    config = VideoMAEConfig(48, 2, 2, 32, 2, decoder_depth=2, patch_size=8, num_frames=8, image_size=(64, 64))
    step = make_step("published", Inputs(config, 8, torch.device("cpu"), 0.75), "fp32")
    step()
    with MemoryProfile(step.model, step.optimizer) as real:
        step()
    predicted = prediction("published", 8, "fp32", config)
    for category in ("parameters", "gradients", "optimizer state", "buffers"):
        assert predicted.figures.breakdown[category] == real.figures.breakdown[category]
    tables = 2 * config.num_tokens * (48 + 8 * 32) * 4
    assert predicted.figures.peak_bytes == pytest.approx(real.figures.peak_bytes, abs=tables)
    assert real.figures.peak_bytes > 10 * tables


def test_ours_takes_less_in_every_way() -> None:
    published, ours = prediction("published"), prediction("videomae_fast")
    assert ours.figures.peak_bytes < published.figures.peak_bytes
    assert ours.figures.breakdown["inputs"] < published.figures.breakdown["inputs"]
    assert prediction("videomae_fast, checkpointed").figures.peak_bytes < ours.figures.peak_bytes
    assert prediction("published, checkpointed").figures.peak_bytes < published.figures.peak_bytes
    assert prediction("published + SDPA").figures.peak_bytes < published.figures.peak_bytes


def test_compiled_code_cannot_be_predicted() -> None:
    with pytest.raises(ValueError, match="compiled code cannot be predicted"):
        make_predictable("videomae_fast + compile", TINY, 4)


@pytest.mark.parametrize(
    "name",
    ["videomae_fast", *(pytest.param(name, marks=pytest.mark.slow) for name in ("published", "published, fused"))],
)
def test_one_step_at_several_batch_sizes(name: str) -> None:
    """Model and optimizer state are made once; figures are those of steps made for each batch size."""

    def without_order(figures: MemoryFigures) -> MemoryFigures:
        return replace(figures, timeline=[])  # autograd may free two tensors in either order

    batches = (4, 9, 2)
    alone = [prediction(name, batch).figures for batch in batches]
    with StepPredictor(make_predictable(name, TINY, 4, 0.75)) as found:
        together = [found(batch) for batch in (*batches, 4)]
    assert [without_order(f) for f in together] == [without_order(f) for f in (*alone, alone[0])]
    assert [len(f.timeline) for f in together[:3]] == [len(f.timeline) for f in alone]


def test_crops_have_one_batch_size() -> None:
    with (
        StepPredictor(make_predictable("videomae_fast, crops", TINY, 4, 0.75)) as found,
        pytest.raises(ValueError, match="one batch size only"),
    ):
        assert found(4).peak_bytes > 0
        found(8)


def test_the_step_can_be_looked_at() -> None:
    with fake_step(make_predictable("published", TINY, 2)) as step:
        assert step.optimizer.state
        assert {p.device.type for p in step.model.parameters()} == {"cpu"}
        assert step.model.pos_embed.device.type == "meta"  # on the host


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    yield torch.device("cuda", 0)
    torch.cuda.empty_cache()


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in PREDICTABLE if name != "Hugging Face"])
def test_predictions_are_measured(name: str, gpu: torch.device) -> None:
    config = VideoMAEConfig(384, 12, 6, 192, 3)
    predicted = predict(make_predictable(name, config, 64))
    measured = measure_step(make_predictable(name, config, 64, device=gpu)(), gpu)
    assert predicted.figures.peak_bytes == pytest.approx(measured, rel=0.05)


def test_measure_asks_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    cuda = SimpleNamespace(
        reset_peak_memory_stats=lambda device: log.append("reset"), max_memory_allocated=lambda device: 42
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    assert measure_step(lambda: log.append("step"), torch.device("cuda", 0)) == 42
    assert log == ["step", "reset", "step"]
