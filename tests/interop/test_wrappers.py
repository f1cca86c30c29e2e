"""What a model goes through in real training, before it is fused or after."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from tests.interop.models import as_bool, assert_close, clip, gradients, hugging_face, plan
from videomae_fast.interop import fuse, unfuse
from videomae_fast.interop.seam import is_attached

pytest.importorskip("transformers")
HIDDEN = as_bool(plan(decoder_mask="none").visible)
PLAN = plan(decoder_mask="none")


def step(model: nn.Module, mask: Any = HIDDEN, pixels: Any = None) -> dict[str, torch.Tensor]:
    """Loss, logits and gradients."""
    torch.manual_seed(5)
    output = model(clip() if pixels is None else pixels, bool_masked_pos=mask)
    output.loss.backward()
    names = {n.replace("_orig_mod.", "").removeprefix("module."): g for n, g in gradients(model).items()}
    return {"loss": output.loss.detach(), "logits": output.logits.detach(), **names}


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return step(hugging_face())


@pytest.mark.slow
@pytest.mark.parametrize("order", ["compile, fuse", "fuse, compile", "compile, run, fuse"])
@pytest.mark.parametrize("mask", [HIDDEN, PLAN], ids=["bool", "plan"])
def test_compile(expected: dict[str, torch.Tensor], order: str, mask: Any) -> None:
    model = hugging_face()
    for act in order.split(", "):
        if act == "compile":
            model = torch.compile(model, backend="aot_eager")
        elif act == "fuse":
            fuse(model)
        else:
            step(model)
    assert_close(step(model, mask), expected, 1e-5)


@pytest.mark.slow
def test_compile_in_one_graph(expected: dict[str, torch.Tensor]) -> None:
    """With a plan there is no host sync; compiled in place, with fuse on either side."""
    for model in (hugging_face(), fuse(hugging_face())):
        model.compile(fullgraph=True, backend="aot_eager")
        fuse(model)
        assert_close(step(model, PLAN), expected, 1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("first", ["fuse", "checkpoint"])
def test_gradient_checkpointing(expected: dict[str, torch.Tensor], first: str, reentrant: bool) -> None:
    """With frozen embeddings, as with LoRA: the input embeddings' hook then is what gradients start from."""
    model = hugging_face()
    for act in ("fuse", "checkpoint") if first == "fuse" else ("checkpoint", "fuse"):
        if act == "fuse":
            fuse(model)
        else:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model.enable_input_require_grads()
    model.videomae.embeddings.requires_grad_(False)
    counts: list[int] = []
    model.videomae.encoder.layer[0].layernorm_before.register_forward_hook(lambda *_: counts.append(0))
    wanted = {name: g for name, g in expected.items() if "embeddings" not in name}
    assert_close(step(model.train()), wanted, 1e-5)
    assert len(counts) == 2


class LowRank(nn.Module):
    """A layer as PEFT's LoRA leaves it: the frozen layer, its weight visible from outside, and two small ones."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        if isinstance(base, nn.Linear):
            self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)
        else:
            kernel = base.kernel_size
            self.down, self.up = nn.Conv3d(base.in_channels, 2, kernel, kernel), nn.Conv3d(2, base.out_channels, 1)

    weight = property(lambda self: self.base_layer.weight)
    bias = property(lambda self: self.base_layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + self.up(self.down(x))


def add_low_rank(model: nn.Module, name: str) -> None:
    torch.manual_seed(2)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, LowRank(model.get_submodule(name)))


LAYER = "videomae.encoder.layer.0.attention.attention.query"
PROJECTION = "videomae.embeddings.patch_embeddings.projection"


@pytest.mark.parametrize("name", ["encoder_to_decoder", LAYER])
def test_low_rank_layers(name: str) -> None:
    if name == LAYER and not hasattr(hugging_face().videomae.encoder.layer[0].attention, "attention"):
        pytest.fail("the attention has moved")
    model = hugging_face()
    add_low_rank(model, name)
    expected = step(model)
    assert_close(step(fuse(model)), expected, 1e-5)
    late = fuse(hugging_face())
    add_low_rank(late, name)
    assert_close(step(late), expected, 1e-5)


def test_low_rank_projection_is_an_error_or_left_alone() -> None:
    model = hugging_face()
    add_low_rank(model, PROJECTION)
    with pytest.raises(TypeError, match=r"for 'embed_tokens': projection is a LowRank"):
        fuse(model)
    expected = step(model)
    assert_close(step(fuse(model, ops=["decode"])), expected, 1e-5)
    late = fuse(hugging_face())
    add_low_rank(late, PROJECTION)
    with pytest.raises(TypeError, match=r"projection has become a LowRank.*ops=\('decode',\)"):
        step(late)


@pytest.mark.parametrize("name", ["videomae.embeddings.patch_embeddings", "videomae.embeddings", ""])
def test_hooks_run(name: str) -> None:
    model, calls = fuse(hugging_face()), []
    model.get_submodule(name).register_forward_hook(lambda module, args, output: calls.append(type(module).__name__))
    step(model)
    assert len(calls) == 1


@pytest.mark.parametrize("moves", [["half", "float"], ["bfloat16", "float"], ["double"]], ids=" ".join)
def test_tables_keep_every_digit(moves: list[str]) -> None:
    """A plain tensor does not follow .half(); as a buffer it would lose digits for good."""
    plain, model = hugging_face(), fuse(hugging_face())
    for move in moves:
        getattr(plain, move)()
        getattr(model, move)()
    assert torch.equal(model.position_embeddings, plain.position_embeddings)
    pixels = clip().to(plain.mask_token.dtype)
    assert_close(step(model, pixels=pixels), step(plain, pixels=pixels), 1e-5)


@pytest.mark.parametrize("fuse_first", [True, False])
def test_meta_device(expected: dict[str, torch.Tensor], fuse_first: bool) -> None:
    with torch.device("meta"):
        model = hugging_face()
    if fuse_first:
        fuse(model)
    model.to_empty(device="cpu")
    model.load_state_dict(hugging_face().state_dict())
    assert_close(step(fuse(model)), expected, 1e-5)


def test_tables_follow_the_device() -> None:
    model = fuse(hugging_face())
    model.to("meta")
    assert {b.device.type for b in model.buffers()} == {"meta"}
    assert model.position_embeddings is model.get_buffer("position_embeddings")


def test_data_parallel_copies() -> None:
    """nn.DataParallel copies __dict__ for each GPU, methods and all: they must not be those of the first one."""
    model = fuse(hugging_face())
    for module in (model, model.videomae.embeddings, model.videomae.embeddings.patch_embeddings):
        replica = module._replicate_for_data_parallel()
        assert replica.forward.__self__ is replica and module.forward.__self__ is module


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("order", ["fuse, prepare", "prepare, fuse"])
def test_accelerate(expected: dict[str, torch.Tensor], precision: str, order: str) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
    try:
        model = hugging_face()
        if order == "prepare, fuse":
            prepared = accelerator.prepare(model)
            if precision == "bf16":
                with pytest.raises(TypeError, match="fuse the model first"):
                    fuse(prepared)
                return
            prepared = fuse(prepared)
        else:
            prepared = accelerator.prepare(fuse(model))
            fuse(prepared)
        assert_close(step(prepared), expected, 1e-5 if precision == "no" else 0.1)
        assert torch.is_autocast_enabled("cpu") is False
        plain = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
        assert_close(step(plain), expected, 1e-5)
        assert not any(is_attached(m) for m in unfuse(plain).modules())
        assert_close(step(plain), expected, 1e-5)
    finally:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_parametrized_projection() -> None:
    model = hugging_face()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.parametrizations.weight_norm(model.get_submodule(PROJECTION))
    expected = step(model)
    assert_close(step(fuse(model)), expected, 1e-5)
