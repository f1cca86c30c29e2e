"""`--accumulate`: exactly one larger batch, also where the number of loss rows differs by sample."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.recipes import tiny
from videomae_fast.engine.log import read_log
from videomae_fast.interop import load_published
from videomae_fast.recipes.pretrain import Part, PretrainConfig, Pretraining, pretrain

RAGGED = {"mask": "random", "decoder_mask": "random"}


def _recipe(config: PretrainConfig) -> tuple[Pretraining, Any]:
    recipe = Pretraining(config)
    torch.manual_seed(0)
    model, _ = recipe.build(torch.device("cpu"), print)
    return recipe, model


def _loss_and_gradients(recipe: Pretraining, model: Any, parts: list[Part]) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    losses = []
    for part in parts:
        loss, _ = recipe.step(model, part, 5)
        loss.backward()
        losses.append(loss.item())
    return sum(losses), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    "options", [{}, RAGGED, {"decoder_mask": "none"}, {"drop_path": 0.4}, RAGGED | {"drop_path": 0.4}], ids=str
)
@pytest.mark.parametrize("count", [2, 4])
def test_gradients_are_those_of_one_batch(count: int, options: dict[str, Any], videos: Path, tmp_path: Path) -> None:
    """In float64, on clips of noise, with the masks of a batch of the run, split by the recipe."""
    recipe, model = _recipe(tiny.settings(videos, tmp_path, batch_size=4 // count, accumulate=count, **options))
    model.double().train()
    batch = next(recipe.batches(0, 1, 0, 1))
    assert batch.num_videos == 4
    noise = torch.randn(8, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (whole,) = recipe.parts(batch, 1, torch.device("cpu"))
    parts = recipe.parts(batch, count, torch.device("cpu"))
    assert torch.equal(torch.cat([part.plan.decoded for part in parts]), whole.plan.decoded)
    assert torch.equal(torch.cat([part.numbers for part in parts]), whole.numbers)
    expected = _loss_and_gradients(recipe, model, [whole._replace(clips=noise)])
    clips = noise.chunk(count)
    found = _loss_and_gradients(recipe, model, [p._replace(clips=c) for p, c in zip(parts, clips, strict=True)])
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert (mine - theirs).norm() <= 1e-10 * max(1e-3, float(theirs.norm()))


@pytest.mark.parametrize("options", [{}, RAGGED], ids=str)
def test_a_run_is_that_with_larger_batches(options: dict[str, Any], videos: Path, tmp_path: Path) -> None:
    """In float32: the order of videos, learning rates, losses, and after a few steps the weights."""
    whole = pretrain(tiny.settings(videos, tmp_path / "whole", batch_size=4, **options))
    parts = pretrain(tiny.settings(videos, tmp_path / "parts", batch_size=1, accumulate=4, **options))
    assert whole.step == parts.step == 6
    rates = [[row["lr"] for row in read_log(tmp_path / name)] for name in ("whole", "parts")]
    assert rates[0] == rates[1]
    assert tiny.losses(tmp_path / "parts") == pytest.approx(tiny.losses(tmp_path / "whole"), rel=1e-5)
    weights = [load_published(result.checkpoint / "model.safetensors") for result in (whole, parts)]
    one, other = (torch.cat([state[name].flatten() for name in sorted(state)]) for state in weights)
    assert (one - other).norm() < 1e-3 * one.norm()


def test_a_run_with_parts_resumes_exactly(videos: Path, tmp_path: Path) -> None:
    options = {"batch_size": 2, "accumulate": 2, "drop_path": 0.3}
    pretrain(tiny.settings(videos, tmp_path / "whole", **options))
    pretrain(tiny.settings(videos, tmp_path / "part", max_steps=3, **options))
    pretrain(tiny.settings(videos, tmp_path / "part", resume=True, **options))
    assert tiny.losses(tmp_path / "part") == tiny.losses(tmp_path / "whole")


def test_more_than_the_data(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="8 videos does not fill one step of batch_size 10"):
        pretrain(tiny.settings(videos, tmp_path, batch_size=5, accumulate=2))
