"""The loop trains any recipe: here a line through points, without mask or video."""

import csv
import json
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from videomae_fast.engine import NonFiniteLossError, Recipe, run
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.engine.log import COLUMNS, EVALUATIONS, read_log
from videomae_fast.engine.optim import make_optimizer
from videomae_fast.recipes.config import Config
from videomae_fast.recipes.options import RunOptions
from videomae_fast.recipes.schedule import OptimizerOptions

POINTS = 24


@dataclass(frozen=True)
class LineConfig(Config):
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    run: RunOptions = field(default_factory=RunOptions)


class Line(Recipe):
    """y = 3 x1 − x2 + 1 from noisy points; point number `k` of an epoch is a function of `k`."""

    name = "line"
    numbers = ("distance",)
    samples_per_epoch = POINTS

    def __init__(self, config: LineConfig, dtype: torch.dtype = torch.float64) -> None:
        self.config, self.dtype = config, dtype
        self.seen: list[list[int]] = []

    def build(self, device: torch.device, say: Callable[[str], None]) -> tuple[nn.Module, Optimizer]:
        say("a line")
        model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).to(self.dtype)
        return model, make_optimizer(model, self.config.optimizer)

    def order(self, samples_per_step: int) -> dict[str, Any]:
        return {"samples_per_step": samples_per_step}

    def batches(self, rank: int, world_size: int, start_step: int, num_steps: int) -> Generator[Any, None, None]:
        size = self.config.optimizer.samples
        for step in range(start_step, start_step + num_steps):
            numbers = [(step * world_size + rank) * size + place for place in range(size)]
            self.seen.append(numbers)
            yield SimpleNamespace(points=self.points(numbers), seconds=0.0)

    def points(self, numbers: list[int]) -> tuple[Tensor, Tensor]:
        made = [torch.randn(3, generator=torch.Generator().manual_seed(number % POINTS)) for number in numbers]
        x, noise = torch.stack(made).to(self.dtype).split([2, 1], dim=1)
        return x, x @ torch.tensor([[3.0], [-1.0]], dtype=self.dtype) + 1 + 0.1 * noise

    def parts(self, batch: Any, count: int, device: torch.device) -> Iterable[Any]:
        x, y = batch.points
        return [(*part, len(x)) for part in zip(x.chunk(count), y.chunk(count), strict=True)]

    def step(self, model: nn.Module, part: Any, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        x, y, total = part
        error = model(x) - y
        return error.square().sum() / total, {"distance": error.abs().sum() / total}

    def evaluate(self, model: nn.Module, rank: int, world_size: int) -> dict[str, Tensor]:
        assert not model.training and not torch.is_grad_enabled()
        x, y = self.points(list(range(100, 110)))
        return {"error": torch.stack([(model(x) - y).square().sum(), x.new_tensor(len(x))]).double()}


def _config(output: Path, **options: Any) -> LineConfig:
    given = {"batch_size": 4, "epochs": 3, "warmup_epochs": 1, "lr": 2.0, "precision": "fp32", "track": "none"}
    return LineConfig.from_options(output=str(output), **(given | options))


def _losses(output: Path, column: str = "loss") -> list[float]:
    return [float(row[column]) for row in read_log(output)]


def _weights(output: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(list_checkpoints(output)[-1] / "model.safetensors")


def test_a_recipe_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(Line(_config(tmp_path, epochs=40)))
    assert result.step == 240
    losses = _losses(tmp_path)
    assert losses[-1] < losses[0] / 3
    assert capsys.readouterr().out.startswith("a line\n")


def test_numbers_of_a_step_are_columns(tmp_path: Path) -> None:
    run(Line(_config(tmp_path)))
    rows = read_log(tmp_path)
    assert tuple(rows[0]) == (*COLUMNS, "distance")
    assert all(0 < float(row["distance"]) ** 2 <= float(row["loss"]) for row in rows)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_accumulation_is_one_large_batch(accumulate: int, dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    """The same samples in the same order, learning rates, losses and weights."""
    whole = Line(_config(tmp_path / "whole", batch_size=12), dtype)
    parts = Line(_config(tmp_path / "parts", batch_size=12 // accumulate, accumulate=accumulate), dtype)
    run(whole)
    run(parts)
    assert parts.seen == whole.seen
    rates = [[row["lr"] for row in read_log(tmp_path / name)] for name in ("whole", "parts")]
    assert rates[0] == rates[1] and len(rates[0]) == 6
    for column in ("loss", "distance"):
        found, expected = (_losses(tmp_path / name, column) for name in ("parts", "whole"))
        assert found == pytest.approx(expected, rel=tolerance)
    for name, weight in _weights(tmp_path / "whole").items():
        torch.testing.assert_close(_weights(tmp_path / "parts")[name], weight, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_is_exact(accumulate: int, tmp_path: Path) -> None:
    options = {"accumulate": accumulate, "batch_size": 2, "eval_every": 2}
    run(Line(_config(tmp_path / "whole", **options)))
    run(Line(_config(tmp_path / "part", max_steps=5, **options)))
    run(Line(_config(tmp_path / "part", resume=True, **options)))
    assert _losses(tmp_path / "part") == _losses(tmp_path / "whole")
    assert all(torch.equal(w, _weights(tmp_path / "part")[name]) for name, w in _weights(tmp_path / "whole").items())
    assert (tmp_path / "part" / EVALUATIONS).read_text() == (tmp_path / "whole" / EVALUATIONS).read_text()


def test_evaluations_are_a_file_of_their_own(tmp_path: Path) -> None:
    """The run evaluates after every second step, and the evaluation does not change the training."""
    run(Line(_config(tmp_path / "with", eval_every=2, keep_checkpoints=0)))
    run(Line(_config(tmp_path / "without")))
    rows = read_log(tmp_path / "with", EVALUATIONS)
    assert [int(row["step"]) for row in rows] == list(range(2, 19, 2))
    assert len({row["error"] for row in rows}) == 9
    assert _losses(tmp_path / "with") == _losses(tmp_path / "without")
    assert not (tmp_path / "without" / EVALUATIONS).exists()
    recipe = Line(_config(tmp_path / "with"))
    model, _ = recipe.build(torch.device("cpu"), print)
    model.load_state_dict(_weights(tmp_path / "with"))
    total, weight = _evaluated(recipe, model)
    assert float(rows[-1]["error"]) == pytest.approx(total / weight, rel=1e-12)


def _evaluated(recipe: Line, model: nn.Module) -> list[float]:
    with torch.no_grad():
        return recipe.evaluate(model.eval(), 0, 1)["error"].tolist()


def test_evaluations_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    """As after a crash: eval.csv has an evaluation after the last checkpoint."""
    run(Line(_config(tmp_path, eval_every=2, max_steps=4)))
    with (tmp_path / EVALUATIONS).open("a", newline="") as file:
        csv.writer(file).writerow([6, 99.0])
    run(Line(_config(tmp_path, eval_every=5, resume=True)))
    assert [int(row["step"]) for row in read_log(tmp_path, EVALUATIONS)] == [2, 4, 5, 10, 15]


def test_a_recipe_without_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Line, "evaluate")
    with pytest.raises(NotImplementedError, match="recipe line has no evaluation"):
        run(Line(_config(tmp_path, eval_every=1)))


def test_a_bad_loss_stops_any_recipe(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match="its last checkpoint is none"):
        run(Line(_config(tmp_path, lr=1e300)))


def test_a_recipe_may_know_the_cause_of_a_bad_loss(tmp_path: Path) -> None:
    """It is asked once, for the first bad step, and its answer replaces the advice about learning rates."""

    class Explaining(Line):
        def explain(self, step: int) -> str:
            asked.append(step)
            return "The teacher is drunk."

    asked: list[int] = []
    with pytest.raises(NonFiniteLossError, match=r"last checkpoint is none\. The teacher is drunk\.$") as error:
        run(Explaining(_config(tmp_path, lr=1e300)))
    assert f"the loss of step {asked[0]} is" in str(error.value) and len(asked) == 1


def test_all_ranks_say_what_any_of_them_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: [*own, "Rank 1 saw it.", "Rank 1 saw it.", ""])
    with pytest.raises(NonFiniteLossError, match=r"last checkpoint is none\. Rank 1 saw it\.$"):
        run(Line(_config(tmp_path, lr=1e300)))


def test_what_cannot_be_computed_ends_the_run_with_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Line, *arguments: Any) -> Any:
        raise FloatingPointError("the moon is full")

    monkeypatch.setattr(Line, "evaluate", fail)
    message = r"the evaluation after step 2 cannot be computed.*is none\. The cause: the moon is full\.$"
    with pytest.raises(NonFiniteLossError, match=message):
        run(Line(_config(tmp_path, eval_every=2)))
    monkeypatch.setattr(Line, "parts", fail)
    with pytest.raises(NonFiniteLossError, match=r"^step 1 cannot be computed"):
        run(Line(_config(tmp_path)))


def test_settings_that_may_not_differ(tmp_path: Path) -> None:
    """Whether an option may differ is a property of its field."""
    run(Line(_config(tmp_path, max_steps=1)))
    saved = json.loads((list_checkpoints(tmp_path)[-1] / "config.json").read_text())
    assert saved["optimizer"]["batch_size"] == 4
    with pytest.raises(ValueError, match=r"lr: was 2\.0, now 3\.0; clip_grad: was 0\.0, now 1\.0$"):
        run(Line(_config(tmp_path, resume=True, lr=3.0, clip_grad=1.0, log_every=1)))
    config = _config(tmp_path)
    free = {each.name for _, each in config.options() if each.metadata["free"]}
    kept = {each.name for _, each in config.options()} - free
    assert {"output", "resume", "track", "eval_every", "init", "max_steps"} <= free
    assert kept == {*vars(config.optimizer), "precision", "seed"} - {"batch_size", "accumulate"}
