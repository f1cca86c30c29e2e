"""The classifier as a whole: sizes, initialisation, what it computes for which tokens, freezing, errors."""

import gc
import math
import re
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baselines.published import PublishedClassifier
from benchmarks.harness.counts import count
from tests.models.test_layers import randomise
from videomae_fast import CONFIGS, VideoMAEConfig, get_config
from videomae_fast.models import VideoMAEForClassification, stochastic_depth
from videomae_fast.models.positions import interpolated_sinusoid, sinusoid_table

TINY = VideoMAEConfig(48, 3, 3, 24, 2, num_frames=8, image_size=(32, 48), patch_size=8, mlp_ratio=3.21)
# tensors, parameters with 400 and with 710 classes
SIZES = {
    "small": (162, 22_033_936, 22_153_286),
    "base": (162, 86_534_800, 86_773_190),
    "large": (318, 304_270_736, 304_588_486),
    "huge": (422, 632_119_440, 632_516_550),
    "giant": (526, 1_012_174_352, 1_012_611_142),
}


def build(config: VideoMAEConfig = TINY, classes: int = 7, **options: Any) -> VideoMAEForClassification:
    """In float64, nothing at its initial 0 or 1."""
    model = randomise(VideoMAEForClassification(config, classes, **options))
    assert isinstance(model, VideoMAEForClassification)
    return model


def clip_for(config: VideoMAEConfig = TINY, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, config.num_frames, *config.image_size, dtype=torch.float64)


@pytest.mark.parametrize("size", CONFIGS)
def test_parameters_and_names(size: str) -> None:
    tensors, *parameters = SIZES[size]
    for classes, expected in zip((400, 710), parameters, strict=True):
        with torch.device("meta"):
            model = VideoMAEForClassification(get_config(size), classes)
            published = PublishedClassifier.from_config(get_config(size), classes)
        state = model.state_dict()
        assert {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in published.state_dict().items()}
        assert len(state) == tensors and sum(p.numel() for p in model.parameters()) == expected
    assert {name.partition(".")[0] for name in state} == {"patch_embed", "blocks", "fc_norm", "head"}


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = VideoMAEForClassification(TINY, 50, init_scale=0.5).requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = 0.02 * (0.5 if name == "head" else 1)
            assert module.weight.std() == pytest.approx(std, rel=4 / math.sqrt(module.weight.numel())), name
            assert module.weight.abs().max() > 2.5 * std, name  # not cut at two deviations
            assert module.bias is None or not module.bias.any(), name
    bound = 1 / math.sqrt(3 * 2 * 8 * 8)  # of PyTorch
    assert 0.9 * bound < model.patch_embed.proj.weight.abs().max() <= bound
    for name, parameter in model.named_parameters():
        if name.endswith(("q_bias", "v_bias")) or "norm" in name:
            assert (parameter == float("norm" in name and name.endswith("weight"))).all(), name
    assert all(module.eps == 1e-6 for module in model.modules() if isinstance(module, nn.LayerNorm))


@pytest.mark.parametrize("classes, loss", [(400, 5.99), (710, 6.57), (174, 5.16)])
def test_the_first_loss_is_that_of_guessing(classes: int, loss: float) -> None:
    logits = VideoMAEForClassification(TINY, classes)(clip_for().float())
    assert nn.functional.cross_entropy(logits, torch.arange(2)).item() == pytest.approx(loss, abs=0.01)


def test_logits_are_the_head_of_the_features_and_these_of_the_tokens() -> None:
    model, clip = build(), clip_for()
    tokens, features, logits = model.tokens(clip), model.features(clip), model(clip)
    assert tokens.shape == (2, TINY.num_tokens, 48) and features.shape == (2, 48) and logits.shape == (2, 7)
    torch.testing.assert_close(model.fc_norm(tokens.mean(1)), features, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.head(features), logits, rtol=1e-13, atol=1e-13)


def test_only_listed_tokens_are_computed() -> None:
    """The mean is that of the kept tokens, which see one another only; pixels of others change nothing."""
    model, clip = build(), clip_for()
    index = torch.stack([torch.randperm(TINY.num_tokens)[:5] for _ in range(2)])
    tokens = model.tokens(clip, index)
    assert tokens.shape == (2, 5, 48)
    torch.testing.assert_close(model.features(clip, index), model.fc_norm(tokens.mean(1)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(clip, index.flip(1).int()), model(clip, index), rtol=1e-12, atol=1e-12)
    pixels = torch.full_like(clip, math.nan).unflatten(2, (4, 2)).unflatten(4, (4, 8)).unflatten(6, (6, 8))
    source = clip.unflatten(2, (4, 2)).unflatten(4, (4, 8)).unflatten(6, (6, 8))
    for sample, kept in enumerate(index.tolist()):
        for token in kept:
            place = (sample, slice(None), token // 24, slice(None), token // 6 % 4, slice(None), token % 6)
            pixels[place] = source[place]
    assert torch.equal(model(pixels.reshape_as(clip), index), model(clip, index))
    everything = torch.randperm(TINY.num_tokens).expand(2, -1)
    torch.testing.assert_close(model(clip, everything), model(clip), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "config",
    [replace(TINY, num_frames=16, image_size=(16, 40)), replace(TINY, num_frames=2), replace(TINY, tubelet_size=1)],
    ids=["16 frames, wide", "one token frame", "tubelets of one frame"],
)
def test_any_clip(config: VideoMAEConfig) -> None:
    model = VideoMAEForClassification(config, 3)
    assert model(clip_for(config).float()).shape == (2, 3)
    trained = (16 // config.tubelet_size, 28, 28)
    assert torch.equal(model.position, interpolated_sinusoid(trained, config.grid, 48))


def test_positions() -> None:
    tokens = TINY.num_tokens
    published = VideoMAEForClassification(get_config("small", encoder_depth=1), 3)
    assert torch.equal(published.position, sinusoid_table(1568, 384))  # bit for bit
    assert torch.equal(VideoMAEForClassification(TINY, 3, positions="sinusoid").position, sinusoid_table(tokens, 48))
    same = VideoMAEForClassification(TINY, 3, trained_clip=(8, 32, 48))
    assert torch.equal(same.position, sinusoid_table(tokens, 48))
    with torch.device("meta"):
        model = VideoMAEForClassification(TINY, 3)
    model.to_empty(device="cpu")
    assert torch.equal(model.position, VideoMAEForClassification(TINY, 3).position)
    assert not torch.equal(model.position, sinusoid_table(tokens, 48))


def test_dropout_before_the_head() -> None:
    torch.manual_seed(0)
    model, clip = build(head_dropout=0.5), clip_for()
    expected = model.eval()(clip)
    with torch.no_grad():
        drawn = model.train()(clip.repeat_interleave(400, 0)).view(2, 400, 7).transpose(0, 1)
    assert drawn.std(0).min() > 0
    deviations = (drawn.mean(0) - expected) / (drawn.std(0) / 20)
    assert deviations.abs().max() < 5
    assert torch.equal(model.features(clip), model.eval().features(clip))


def test_bfloat16_autocast() -> None:
    """No further from the truth than twice the published model is, whose mean comes after the last product."""
    config = replace(TINY, image_size=(32, 32), num_frames=16)
    exact, clip = build(config, positions="sinusoid"), clip_for(config, 4)
    expected = exact(clip)
    ours = VideoMAEForClassification(config, 7, positions="sinusoid")
    theirs = PublishedClassifier.from_config(config, 7)
    errors = []
    for model in (ours, theirs):
        model.load_state_dict(exact.state_dict())
        with torch.autocast("cpu", torch.bfloat16):
            errors.append(((model(clip.float()) - expected).norm() / expected.norm()).item())
    assert errors[0] < 2 * errors[1] and errors[1] < 0.05


def test_flops_of_the_last_product() -> None:
    """fc2 of the last block costs one row: forward, and both gradients."""
    config = replace(TINY, mlp_ratio=4.0)
    clip, totals = clip_for(config).float(), []
    for model in (VideoMAEForClassification(config, 7), PublishedClassifier.from_config(config, 7, attention="sdpa")):
        with FlopCounterMode(display=False) as counter:
            model(clip).sum().backward()
        totals.append(counter.get_total_flops())
    saved = 3 * 2 * 2 * (config.num_tokens - 1) * 48 * 192
    assert totals[1] - totals[0] == saved


class Saved:
    """A tensor that autograd keeps for backward, for as long as autograd keeps it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_bytes(model: VideoMAEForClassification, clip: Tensor) -> int:
    """Bytes that backward keeps after the forward pass, besides parameters and the clip."""
    alive: WeakSet[Saved] = WeakSet()

    def keep(tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        alive.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved.tensor):
        logits = model(clip)
    gc.collect()
    storages = (saved.tensor.untyped_storage() for saved in alive)
    kept = {storage.data_ptr(): storage.nbytes() for storage in storages}
    assert logits.requires_grad
    for tensor in (clip, *model.parameters()):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_frozen_prefix_keeps_no_activations(checkpointing: bool) -> None:
    config = replace(TINY, drop_path=0.3, activation_checkpointing=checkpointing)
    clip, kept = clip_for(config).float(), {}
    for train in ("all", "last:2", "last:1", "head"):
        model = VideoMAEForClassification(config, 7)
        model.freeze(train)
        kept[train] = kept_bytes(model, clip)
        model(clip).sum().backward()
        trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.grad is not None}
        blocks = [p.grad is not None for b in model.blocks for p in b.parameters()]
        assert trained - {"blocks"} == {"fc_norm", "head"} | ({"patch_embed"} if train == "all" else set())
        first = {"all": 0, "last:2": 1, "last:1": 2, "head": 3}[train]
        assert blocks == [block >= first for block in range(3) for _ in range(13)]
        assert [block.drop_path is None for block in model.blocks] == [i == 0 or i < first for i in range(3)]
    row = 4 * 2 * 48  # of two clips
    assert kept["head"] <= 10 * row
    assert kept["head"] < kept["last:1"] < kept["last:2"] < kept["all"]
    whole = config.num_tokens * row
    if checkpointing:  # the input of a block each
        assert kept["last:2"] - kept["last:1"] == whole
    else:
        assert kept["last:1"] > 5 * whole


def test_frozen_is_the_same_function() -> None:
    model, clip = build(), clip_for()
    expected = model(clip)
    gradient = torch.autograd.grad(expected.square().sum(), model.head.weight)[0]
    for train in ("head", "last:1", "last:3", "all"):
        model.freeze(train)
        logits = model(clip)
        torch.testing.assert_close(logits, expected, rtol=1e-13, atol=1e-13)
        ours = torch.autograd.grad(logits.square().sum(), model.head.weight)[0]
        torch.testing.assert_close(ours, gradient, rtol=1e-12, atol=1e-12)


def test_layers_of_parameters() -> None:
    """The scales of ViT-B at a decay of 0.75: twelve blocks, fourteen layers."""
    with torch.device("meta"):
        model = VideoMAEForClassification(get_config("base"), 400)
    layers = {name: model.layer_id(name) for name, _ in model.named_parameters()}
    assert set(layers.values()) == set(range(14))
    assert layers["patch_embed.proj.bias"] == 0 and pytest.approx(0.02376, abs=1e-5) == 0.75 ** (13 - 0)
    assert layers["blocks.0.attn.q_bias"] == 1 and layers["blocks.11.mlp.fc2.weight"] == 12
    assert layers["fc_norm.weight"] == layers["head.bias"] == 13
    assert model.layer_id("blocks.3.attn.qkv.lora_A.default.weight") == 4
    for name in ("encoder.blocks.0.norm1.weight", "blocks.12.norm1.weight", "_orig_mod.head.bias", "norm.weight", ""):
        with pytest.raises(ValueError, match=f"name is '{re.escape(name)}', which is of no layer"):
            model.layer_id(name)


def test_no_host_sync() -> None:
    config = replace(TINY, drop_path=0.4)
    model, clip = VideoMAEForClassification(config, 7), clip_for(config).float()

    def step() -> None:
        with stochastic_depth(seed=1, step=0, sample=torch.arange(2)):
            model(clip).sum().backward()

    assert count(step, torch.device("cpu")).syncs == 0


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [None, 5])
def test_one_graph(tokens: int | None) -> None:
    torch.compiler.reset()
    config = replace(TINY, drop_path=0.4)
    model, clip = build(config), clip_for(config)
    index = None if tokens is None else torch.stack([torch.randperm(config.num_tokens)[:tokens] for _ in range(2)])

    def run(step: int) -> list[Tensor]:
        with stochastic_depth(seed=1, step=step, sample=torch.arange(2), skip=False):
            logits = model(clip, index)
        return [logits.detach(), *torch.autograd.grad(logits.square().sum(), list(model.parameters()))]

    expected = [run(step) for step in range(2)]
    model.compile(fullgraph=True, backend="aot_eager")
    for step in range(2):
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            for ours, wanted in zip(run(step), expected[step], strict=True):
                torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(num_classes=0), "num_classes must be positive, got 0"),
        (dict(head_dropout=1.0), "head_dropout must be in [0, 1), got 1.0"),
        (dict(positions="learned"), "positions must be one of ('interpolate', 'sinusoid'), got 'learned'"),
        (dict(trained_clip=(16, 224, 220)), "multiples of (2, 8, 8) as the model's tokens, got (16, 224, 220)"),
        (dict(trained_clip=(16, 224)), "trained_clip must be (frames, height, width)"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        VideoMAEForClassification(TINY, **({"num_classes": 7} | options))


@pytest.mark.parametrize("train", ["last", "last:", "last:0", "last:4", "head:1", "last:-1", "last:1.5", "", "All"])
def test_bad_freezing(train: str) -> None:
    model = VideoMAEForClassification(TINY, 7)
    with pytest.raises(ValueError, match=f"'last:K' with K from 1 to 3, got '{re.escape(train)}'"):
        model.freeze(train)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "clip, index, layout, error, message",
    [
        (torch.zeros(2, 3, 8, 32, 32), None, "BCTHW", ValueError, "clip must have W=48 as the model was built for"),
        (torch.zeros(2, 3, 4, 32, 48), None, "BCTHW", ValueError, "clip must have T=8"),
        (torch.zeros(3, 8, 32, 48), None, "BCTHW", ValueError, "clip must have 5 dimensions"),
        (torch.zeros(2, 3, 8, 32, 48), None, "BCTHH", ValueError, "layout must be a permutation"),
        (torch.zeros(2, 4, 8, 32, 48), None, "BCTHW", ValueError, "channels"),
        (torch.zeros(2, 3, 8, 32, 48).int(), None, "BCTHW", TypeError, "clip"),
        (torch.zeros(2, 3, 8, 32, 48), torch.zeros(3, 4).long(), "BCTHW", ValueError, "index"),
        (torch.zeros(2, 3, 8, 32, 48), torch.zeros(2, 0).long(), "BCTHW", ValueError, "index must list one token or"),
        (torch.zeros(2, 3, 8, 32, 48), torch.zeros(2, 4), "BCTHW", TypeError, "index"),
    ],
)
def test_bad_input(clip: Tensor, index: Tensor | None, layout: str, error: type[Exception], message: str) -> None:
    model = VideoMAEForClassification(TINY, 7)
    for call in (model, model.features, model.tokens):
        with pytest.raises(error, match=message):
            call(clip, index, layout)
