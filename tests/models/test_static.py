"""Nothing depends on data: no synchronising op, any device, one graph for torch.compile and for all samples."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.harness.counts import count
from videomae_fast import CONFIGS, MaskPlan, VideoMAEConfig, VideoMAEForPretraining, get_config, make_masks

TINY = VideoMAEConfig(48, 2, 3, 24, 2, decoder_depth=2, num_frames=8, image_size=(32, 32), patch_size=8)
CONFIGURATIONS = {
    "published": TINY,
    "disjoint": replace(TINY, decoder_context="disjoint"),
    "overlap varies": replace(TINY, num_frames=12),
    "hidden sizes padded, drop path": replace(TINY, mlp_ratio=3.21, drop_path=0.2),
}


def setup(config: VideoMAEConfig, first: int = 0) -> tuple[VideoMAEForPretraining, Tensor, MaskPlan]:
    torch.manual_seed(0)
    model = VideoMAEForPretraining(config)
    clip = torch.randint(0, 256, (2, config.num_frames, *config.image_size, 3), dtype=torch.uint8)
    return model, clip, make_masks(torch.arange(first, first + 2), config.grid, mask_ratio=0.7)


def loss_and_gradients(call: Callable[..., Tensor], model: nn.Module, clip: Tensor, plan: MaskPlan) -> list[Tensor]:
    torch.manual_seed(3)  # of drop path
    loss = call(clip, plan, "BTHWC")
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_step_does_not_synchronise(config: VideoMAEConfig) -> None:
    """Masks of the default kind, forward, backward."""
    model, clip, _ = setup(config)

    def step() -> None:
        plan = make_masks(torch.arange(2), config.grid, mask_ratio=0.7)
        model(clip, plan, "BTHWC").backward()

    assert count(step, clip.device).syncs == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.fixture
def no_values(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors made in the test have a shape and no values; an op whose work depends on values fails."""
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, **_: tensor)  # looks at what it has drawn
    with FakeTensorMode():
        yield


@pytest.mark.parametrize("size", CONFIGS)
def test_shapes_of_every_size(size: str, no_values: None) -> None:
    config = get_config(size)
    model, plan = VideoMAEForPretraining(config), make_masks(torch.arange(2), config.grid)
    predictions = model.predict(torch.empty(2, 16, 224, 224, 3, dtype=torch.uint8), plan, "BTHWC")
    assert predictions.shape == (2, 920 if size == "giant" else 704, 3 * 2 * config.patch_size**2)


@pytest.mark.parametrize("encoder", ["tube", "random"])
@pytest.mark.parametrize("decoder", ["running_cell", "random", "none"])
@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_no_step_depends_on_values(config: VideoMAEConfig, encoder: str, decoder: str, no_values: None) -> None:
    model, clip, _ = setup(config)
    plan = make_masks(torch.arange(2), config.grid, mask=encoder, decoder_mask=decoder, mask_ratio=0.7)
    if config.decoder_context == "disjoint" and isinstance(plan.num_overlap, Tensor):
        with pytest.raises(ValueError, match="disjoint"):
            model(clip, plan, "BTHWC")
        return
    loss = model(clip, plan, "BTHWC")
    loss.backward()
    assert loss.shape == () and loss.dtype == torch.float32
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.shape == parameter.shape


@pytest.mark.parametrize("config", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_compiles_to_one_graph(config: VideoMAEConfig) -> None:
    """Loss and gradients of eager mode; other samples, whose masks differ, do not recompile."""
    torch.compiler.reset()
    model, clip, plan = setup(config)
    if config.drop_path:
        model.eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for first in (0, 5, 9):
        model, clip, plan = model, *setup(config, first)[1:]
        with torch.compiler.set_stance("fail_on_recompile" if first else "default"):
            ours = loss_and_gradients(compiled, model, clip, plan)
        for actual, expected in zip(ours, loss_and_gradients(model, model, clip, plan), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


def test_compiles_in_training_with_drop_path() -> None:
    torch.compiler.reset()
    model, clip, plan = setup(replace(TINY, drop_path=0.5))
    loss, *gradients = loss_and_gradients(torch.compile(model, fullgraph=True, backend="aot_eager"), model, clip, plan)
    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
