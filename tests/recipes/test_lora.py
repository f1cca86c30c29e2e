"""`--lora-rank`: adapters and the head are trained, and what is saved is evaluated.

Where peft is missing, a stand-in does what its documentation says of `inject_adapter_in_model` with a `LoraConfig`.
"""

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from tests.recipes import internvideo2, tiny
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.interop import load_published, read_classifier
from videomae_fast.models import (
    InternVideo2Config,
    InternVideo2ForClassification,
    VideoMAEForClassification,
    get_config,
)
from videomae_fast.models.classifier_parts import ClassifierParts
from videomae_fast.models.lora import add_lora
from videomae_fast.recipes.evaluate import evaluate
from videomae_fast.recipes.finetune import Finetuning, finetune


@dataclass
class _LoraConfig:
    r: int
    lora_alpha: int
    target_modules: str


class _Adapted(nn.Module):
    """W·x + alpha / r · B·A·x, with the names of peft."""

    def __init__(self, base: nn.Linear, config: _LoraConfig) -> None:
        super().__init__()
        self.base_layer, self.scale = base, config.lora_alpha / config.r
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, config.r, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(config.r, base.out_features, bias=False)})
        nn.init.kaiming_uniform_(self.lora_A["default"].weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scale * self.lora_B["default"](self.lora_A["default"](x))


def _inject(config: _LoraConfig, model: nn.Module) -> nn.Module:
    for name, module in list(model.named_modules()):
        if re.fullmatch(config.target_modules, name):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _Adapted(module, config))  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return model


@pytest.fixture(params=["stand-in", "peft"])
def peft(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "peft":
        pytest.importorskip("peft")
        return
    module = ModuleType("peft")
    module.LoraConfig, module.inject_adapter_in_model = _LoraConfig, _inject  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "peft", module)


def _videomae() -> VideoMAEForClassification:
    torch.manual_seed(0)
    return VideoMAEForClassification(get_config("tiny", num_frames=8, image_size=(32, 32)), 4, init_scale=1.0)


def _internvideo2() -> InternVideo2ForClassification:
    torch.manual_seed(0)
    config = InternVideo2Config(
        32, 2, 2, pool_heads=4, clip_embed_dim=20, layer_scale=0.5, patch_size=8, image_size=(32, 32)
    )
    return InternVideo2ForClassification(config, 4, init_scale=1.0)


@pytest.mark.usefixtures("peft")
@pytest.mark.parametrize("build", [_videomae, _internvideo2])
def test_adapters_of_every_matrix_of_the_blocks(build: Callable[[], ClassifierParts]) -> None:
    """The map is the same at first; then it is that of W + B·A, forward and backward. The head is trained whole."""
    model, plain = build(), build()
    add_lora(model, 2)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = [f"blocks.{b}.{layer}" for b in range(2) for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    adapters = {f"{layer}.lora_{side}.default.weight" for layer in layers for side in "AB"}
    head = {name for name, _ in plain.named_parameters() if name.startswith(("clip_projector", "fc_norm", "head"))}
    assert trained == adapters | head and {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"} <= head
    clip = torch.randn(2, 3, 8, 32, 32)
    torch.testing.assert_close(model(clip), plain(clip))
    with torch.no_grad():
        for layer in layers:
            a, b = (model.get_parameter(f"{layer}.lora_{side}.default.weight") for side in "AB")
            nn.init.normal_(b, std=0.1)
            plain.get_parameter(f"{layer}.weight").add_(b @ a)
    torch.testing.assert_close(model(clip), plain(clip), rtol=1e-4, atol=1e-5)
    model(clip).square().sum().backward()
    plain(clip).square().sum().backward()
    for layer in layers:
        a, b = (model.get_parameter(f"{layer}.lora_{side}.default.weight") for side in "AB")
        of_weight = plain.get_parameter(f"{layer}.weight").grad
        assert of_weight is not None
        torch.testing.assert_close(a.grad, b.T @ of_weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(b.grad, of_weight @ a.T, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("peft")
def test_a_run_trains_continues_and_is_evaluated(
    labelled: Path, held_out: Path, classifier_run: Path, tmp_path: Path
) -> None:
    options = {"image_size": 48, "positions": "sinusoid", "init": str(classifier_run), "lora_rank": 2, "lr": 0.3}
    config = tiny.finetuning(labelled, tmp_path / "whole", epochs=2, **options)
    whole = finetune(config)
    part = config.with_options(output=str(tmp_path / "part"))
    finetune(part.with_options(max_steps=5))
    finetune(part.with_options(resume=True))
    assert tiny.losses(tmp_path / "part") == tiny.losses(tmp_path / "whole")

    begin, end = (
        load_published(list_checkpoints(classifier_run)[-1] / "model.safetensors"),
        read_classifier(whole.checkpoint),
    )
    assert end.state.keys() == begin.keys() and end.class_names == tiny.CLASSES
    changed = {name for name in begin if not torch.equal(begin[name], end.state[name])}
    matrices = {"attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}
    assert changed == {name for name in begin if name.startswith(("fc_norm", "head")) or name[9:] in matrices}
    recipe = Finetuning(config.with_options(resume=True))
    model = recipe.build(torch.device("cpu"), print)[0]
    model.load_state_dict(load_published(whole.checkpoint / "model.safetensors"))
    clip = torch.randn(1, 3, 8, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(end.build().eval()(clip), model.eval()(clip), rtol=1e-4, atol=1e-5)
    assert evaluate(tiny.evaluation(held_out, tmp_path / "whole")).evaluation.read.all()
    finetune(config.with_options(init=str(tmp_path / "whole"), output=str(tmp_path / "next"), max_steps=1))


@pytest.mark.usefixtures("peft")
def test_rates_of_adapters_decay_with_depth(labelled: Path, tmp_path: Path) -> None:
    recipe = Finetuning(tiny.finetuning(labelled, tmp_path, lora_rank=2, layer_decay=0.5))
    model, optimizer = recipe.build(torch.device("cpu"), print)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert scale[id(model.get_parameter("blocks.0.attn.qkv.lora_A.default.weight"))] == 0.25
    assert scale[id(model.get_parameter("blocks.1.mlp.fc2.lora_B.default.weight"))] == 0.5
    assert len(scale) == 4 + 2 * 8


@pytest.mark.skipif(find_spec("peft") is not None, reason="peft is installed")
def test_without_peft(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"'peft' is needed here .* pip install 'videomae-fast\[lora\]'"):
        finetune(tiny.finetuning(labelled, tmp_path, lora_rank=2))


def test_a_rank_that_is_not_allowed() -> None:
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        add_lora(_videomae(), 0)


@pytest.mark.usefixtures("peft")
def test_adapters_of_an_aligned_student_are_trained_and_merged(labelled: Path, held_out: Path, tmp_path: Path) -> None:
    aligned = internvideo2.make_aligned(tmp_path / "aligned")
    config = internvideo2.finetuning(
        labelled, tmp_path / "run", init=str(aligned), lora_rank=2, lr=0.5, warmup_epochs=0
    )
    finetune(config.with_options(max_steps=1))
    result = finetune(config.with_options(resume=True))
    merged, start = read_classifier(result.checkpoint), load_published(aligned / "model.safetensors")
    matrices = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    changed = {name for name in merged.state if name in start and not torch.equal(merged.state[name], start[name])}
    pool = {name for name in start if name.startswith("clip_projector.")}
    assert changed == {name for name in start if name.startswith("blocks.") and name.endswith(matrices)} | pool
    model = Finetuning(config.with_options(resume=True)).build(torch.device("cpu"), print)[0]
    model.load_state_dict(load_published(result.checkpoint / "model.safetensors"))
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(merged.build().eval()(clip), model.eval()(clip), rtol=1e-4, atol=1e-5)
    assert evaluate(tiny.evaluation(held_out, tmp_path / "run")).evaluation.read.all()
