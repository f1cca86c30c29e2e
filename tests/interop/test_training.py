"""Twenty steps of training, fused and not: the same losses to rounding, and the same weights in the end."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.baselines.published.loss import published_loss
from tests.interop.models import PATCH, as_bool, clip, disturb, hugging_face, plan, small
from videomae_fast.interop import fuse, pretrain_loss

STEPS = 20
Loss = Callable[[nn.Module, int], Tensor]


def train(model: nn.Module, loss_of: Loss, autocast: bool = False) -> list[float]:
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    torch.manual_seed(11)
    losses = []
    for step in range(STEPS):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(model, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def hugging_face_loss(model: Any, step: int) -> Tensor:
    return model(clip(seed=step % 4), bool_masked_pos=as_bool(plan(first=2 * step).visible)).loss


def published_masks(step: int) -> tuple[Tensor, Tensor, Tensor]:
    masks = plan(first=2 * step)
    return clip(seed=step % 4).transpose(1, 2), as_bool(masks.visible), as_bool(masks.decoded)


def inline_loss(model: nn.Module, step: int) -> Tensor:
    images, hidden, not_decoded = published_masks(step)
    return published_loss(model(images, hidden, not_decoded), images, hidden, not_decoded, PATCH)


def our_loss(model: nn.Module, step: int) -> Tensor:
    images, hidden, not_decoded = published_masks(step)
    return pretrain_loss(images, model(images, hidden, not_decoded), hidden, not_decoded, patch=PATCH)


def assert_same_training(ours: list[float], theirs: list[float], autocast: bool) -> None:
    assert theirs[-1] < theirs[0] - 0.02, "the comparison means little if nothing is learnt"
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=5e-3 if autocast else 2e-5, atol=0)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_hugging_face(autocast: bool) -> None:
    pytest.importorskip("transformers")
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    theirs = train(hugging_face(**dropout), hugging_face_loss, autocast)
    ours = train(fuse(hugging_face(**dropout)), hugging_face_loss, autocast)
    assert_same_training(ours, theirs, autocast)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_published(published_class: Any, autocast: bool) -> None:
    theirs = train(disturb(small(published_class)), inline_loss, autocast)
    ours = train(fuse(disturb(small(published_class))), our_loss, autocast)
    assert_same_training(ours, theirs, autocast)


class Clips(Dataset):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        masks = plan(batch=1, first=number)
        return {"pixel_values": clip(batch=1, seed=number)[0], "bool_masked_pos": as_bool(masks.visible)[0]}


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Accelerate remembers the precision of a process's first run and refuses another."""
    state = pytest.importorskip("accelerate.state").AcceleratorState
    state._reset_state(reset_partial_state=True)
    yield
    state._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("accumulation", [1, 2])
def test_trainer(tmp_path: Path, accumulation: int) -> None:
    """transformers' Trainer does not notice: the same losses, gradient norms and saved weights."""
    transformers = pytest.importorskip("transformers")
    results = []
    for name, model in (("plain", hugging_face()), ("fused", fuse(hugging_face()))):
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / name),
            max_steps=STEPS,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-2,
            logging_steps=1,
            save_steps=STEPS,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=Clips())
        trainer.train()
        log = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
        assert len(log) == STEPS
        loaded = type(model).from_pretrained(tmp_path / name / f"checkpoint-{STEPS}")
        weights = torch.cat([p.flatten() for p in loaded.parameters()])
        results.append((torch.tensor([(e["loss"], e["grad_norm"]) for e in log]), weights))
    (plain, plain_weights), (fused, fused_weights) = results
    assert plain[-1, 0] < plain[0, 0] - 0.02
    torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-4)
    assert (fused_weights - plain_weights).norm() < 1e-3 * plain_weights.norm()
