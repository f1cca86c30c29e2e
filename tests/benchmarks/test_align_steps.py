"""Alignment steps: all compute the same, FLOPs counted by hand, memory and host syncs predicted."""

from argparse import Namespace
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from benchmarks.align import test_predicted as predicted
from benchmarks.align import test_step as timed
from benchmarks.align.contenders import AlignCase
from benchmarks.align.models import AlignBatch
from benchmarks.align.predictable import PREDICTABLE, make_predictable
from benchmarks.align.sizes import ALIGN_SIZES, PUBLISHED_SIZES
from benchmarks.align.steps import IMPLEMENTATIONS, WITHOUT_EFFECT, make_align_step
from benchmarks.harness.run import DisagreementError, run_suites
from benchmarks.harness.step_tables import format_alignment
from benchmarks.model.agreement import Outcome, check_same_gradients
from benchmarks.model.contenders import StepContenders
from benchmarks.settings import Settings
from videomae_fast.memory.fake_cuda import DEVICE

CASE = AlignCase("tiny", "fp32", 2, 4, torch.device("cpu"))


def settings(**options: object) -> Settings:
    return Settings(Namespace(**({"size": None, "precision": None, "rounds": None, "batch_size": None} | options)))


def test_the_published_models_and_batches() -> None:
    for name, clips, dim in (("1b", 32, 1408), ("6b", 8, 3200)):
        size = ALIGN_SIZES[name]
        assert (size.clips, size.student.encoder_dim, size.checkpoints) == (clips, dim, True)
        assert size.teacher_layers == ((42, 43, 44, 45, 46, 47), (36, 37, 38, 39))
        assert (size.heads.image_dim, size.heads.pooled_dim, size.heads.video_dim) == (3200, 768, 1408)
        assert size.student.grid == (8, *size.image.grid[1:]) == size.video.grid == (8, 16, 16)
        assert AlignBatch(size, 1, 1, DEVICE).visible_per_frame * 8 == 416


def test_cases() -> None:
    _, rows, ids = predicted.parametrize(settings())
    assert len(set(ids)) == len(rows) == len(PUBLISHED_SIZES) * (len(PREDICTABLE) + 2 * len(PREDICTABLE[1:]))
    assert str(rows[-1][0]) == "8 masked clips of 8x224x224, bf16, 4 masks per clip"
    _, rows, _ = timed.parametrize(settings(rounds=1, batch_size=2))
    assert {str(row[0]) for row in rows} == {
        f"2 masked clips of 8x224x224, fp32, {masks} per clip" for masks in ("1 mask", "2 masks")
    }
    assert set(PREDICTABLE) <= set(IMPLEMENTATIONS)


@pytest.mark.parametrize("masks", [2, *(pytest.param(masks, marks=pytest.mark.slow) for masks in (1, 4))])
def test_all_agree_on_loss_and_gradients(masks: int) -> None:
    batch = replace(CASE, masks=masks).inputs()
    expected = Outcome.of(make_align_step("published", batch))
    found = {name: Outcome.of(make_align_step(name, batch)) for name in IMPLEMENTATIONS[1:]}
    for name, outcome in found.items():
        assert check_same_gradients(name, outcome, expected, "fp32")["gradient"] < 1e-5
    of_student = {name for name, _ in make_align_step("videomae_fast", batch).model.student.named_parameters()}
    assert {f"student.{name}" for name in of_student} == expected.gradients.keys() | set(WITHOUT_EFFECT)


def test_other_masks_are_no_agreement() -> None:
    other = CASE.inputs()
    vars(other)["hidden"] = other.hidden.flip(0)
    expected = Outcome.of(make_align_step("published", other))
    with pytest.raises(DisagreementError, match="'x' and the published code disagree"):
        check_same_gradients("x", Outcome.of(make_align_step("videomae_fast", CASE.inputs())), expected, "fp32")


def test_masks_are_the_same_in_both_forms() -> None:
    batch = CASE.inputs()
    assert batch.visible.shape == (4, 4 * 4) and (batch.visible.diff() > 0).all()
    assert (batch.visible.view(4, 4, 4) // 16 == torch.arange(4)[:, None]).all()  # four of each frame
    torch.testing.assert_close((~batch.hidden[:, 1:]).nonzero()[:, 1].view(4, 16), batch.visible)
    assert not batch.hidden[:, 0].any() and torch.equal(batch.repeated_clip[0], batch.repeated_clip[1])


def test_a_case_for_the_contenders() -> None:
    contenders = StepContenders(memory_budget=None)
    records = {}
    for name in (CASE.reference, "videomae_fast"):
        step, records[name] = contenders.ready(CASE, name)
        assert step is not None and (records[name]["suite"], records[name]["clips"]) == ("align", 4)
    assert records["videomae_fast"]["case"] == "4 masked clips of 4x32x32, fp32, 2 masks per clip"
    assert records["videomae_fast"]["syncs"] == 0
    # Five selections, three of them again in backward, and the drawing; copies to the host are not seen on a CPU.
    assert records[CASE.reference]["syncs"] == 9


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"name must be one of \('published', .*, got 'ours'"):
        make_align_step("ours", CASE.inputs())
    with pytest.raises(ValueError, match=r"name must be one of .*, got 'published'"):
        make_predictable("published", ALIGN_SIZES["tiny"], 2, 1)
    with pytest.raises(ValueError, match=r"size must be one of .*'6b'.* to align, got 'huge'"):
        replace(CASE, size="huge")
    with pytest.raises(ValueError, match="a multiple of 3 masks per clip, got 4"):
        replace(CASE, masks=3)
    with pytest.raises(ValueError, match=r"size must be one of .* for the suite memory, got '1b'"):
        run_suites(["align", "memory"], size="1b")


def linear(rows: int, *widths: int) -> int:
    """FLOPs of products one after the other: (rows, a) x (a, b) x (b, c) ..."""
    return sum(2 * rows * a * b for a, b in pairwise(widths))


def block(rows: int, dim: int, hidden: int) -> int:
    """qkv, proj, fc1, fc2."""
    return linear(rows, dim, 3 * dim) + linear(rows, dim, dim) + linear(rows, dim, hidden, dim)


def attention(queries: int, keys: int, dim: int) -> int:
    return 2 * 2 * queries * keys * dim


def pool(rows: int, dim: int, out: int) -> int:
    """Products of one query; keys and values of all rows."""
    return linear(1, dim, dim) + 2 * linear(rows, dim, dim) + linear(1, dim, out)


ROWS, VISIBLE, TOKENS = 17, 16, 64  # of the student with its cls token, without it, and of the whole clip
FLASH_BACKWARD = 2.5  # of forward: five products for two
IMAGE_TEACHER = 4 * (
    linear(16, 192, 32) + 3 * (block(17, 32, 128) + attention(17, 17, 32)) + pool(17, 32, 24) + attention(1, 17, 32)
)
VIDEO_TEACHER = linear(TOKENS, 384, 24) + 2 * (block(TOKENS, 24, 96) + attention(TOKENS, TOKENS, 24))
HEADS = 2 * linear(ROWS, 48, 32) + linear(1, 24, 24) + linear(VISIBLE, 48, 48, 24) + pool(ROWS, 48, 24)


@pytest.fixture
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predicts one batch only."""
    monkeypatch.setattr(predicted, "largest_batch", lambda *_: 0)


@pytest.mark.slow
@pytest.mark.usefixtures("no_search")
def test_flops_by_hand_of_the_published_structure() -> None:
    """All tokens are embedded, and every block is computed twice; the clip has no gradient."""
    record = predicted.predict(replace(CASE, precision="bf16", masks=1), "published, checkpointed")
    attend = attention(ROWS, ROWS, 48)
    student = (
        2 * linear(TOKENS, 192, 48)
        + 3 * (4 * block(ROWS, 48, 192) + (2 + FLASH_BACKWARD) * attend)
        + 3 * HEADS
        + 3 * attention(1, ROWS, 48)  # not fused
    )
    assert record["teacher_tflop_per_clip"] * 1e12 == pytest.approx(IMAGE_TEACHER + VIDEO_TEACHER, rel=1e-9)
    assert record["tflop_per_clip"] * 1e12 == pytest.approx(IMAGE_TEACHER + VIDEO_TEACHER + student, rel=1e-9)
    assert record["syncs"] == 9 and record["predicted"]


@pytest.mark.parametrize("masks", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.usefixtures("no_search")
def test_flops_by_hand_of_ours(masks: int) -> None:
    """Teachers run once for the masks of a clip, the video teacher's last block for visible rows only."""
    record = predicted.predict(replace(CASE, precision="bf16", masks=masks), "videomae_fast")
    rows = masks * VISIBLE
    last = linear(TOKENS, 24, 2 * 24) + linear(rows, 24, 24) + linear(rows, 24, 24) + linear(rows, 24, 96, 24)
    spared = block(TOKENS, 24, 96) + attention(TOKENS, TOKENS, 24) - last - attention(rows, TOKENS, 24)
    teachers = (IMAGE_TEACHER + VIDEO_TEACHER - spared) / masks
    student = (
        3 * linear(VISIBLE, 192, 48)  # once more in backward, as the learned positions have a gradient
        + 3 * (3 * block(ROWS, 48, 192) + (1 + FLASH_BACKWARD) * attention(ROWS, ROWS, 48))
        + 3 * HEADS
        + (1 + FLASH_BACKWARD) * attention(1, ROWS, 48)
    )
    assert record["teacher_tflop_per_clip"] * 1e12 == pytest.approx(teachers, rel=1e-9)
    assert record["tflop_per_clip"] * 1e12 == pytest.approx(teachers + student, rel=1e-9)
    assert record["syncs"] == 0 and record["masks"] == masks


@pytest.mark.slow
def test_the_largest_batch_fits_and_is_large() -> None:
    size = replace(ALIGN_SIZES["tiny"], usable=2**23)
    with predicted.fake_step(make_predictable("videomae_fast, checkpointed", size, 4, 1)) as step:
        figures = predicted._figures(step)
        found = predicted.largest_batch(step, figures, 4, size.usable)
        peaks = []
        for clips in (found, found + found // 8):
            step.set_batch_size(clips)
            figures = predicted._figures(step)
            peaks.append(figures.peak_bytes - figures.breakdown["optimizer state"])
    assert peaks[0] <= 2**23 < peaks[1]


def test_tables() -> None:
    common = {"suite": "align", "name": "1b", "predicted": True, "kernel_launches": 5, "largest_batch": 9}
    parts = ("peak", "total", "activations", "temporaries", "gradients", "parameters", "optimizer", "inputs")
    rows = [
        common
        | {f"{part}_mib": 100 * share for part in parts}
        | {"case": f"8 masked clips, {masks} masks per clip", "variant": variant, "masks": masks, "syncs": syncs}
        | {"tflop_per_clip": flops, "teacher_tflop_per_clip": 1.0}
        for variant, masks, flops, share, syncs in (("published", 1, 6.0, 1, 9), ("videomae_fast", 4, 2.0, 0.25, 0))
    ]
    text = format_alignment(rows)
    assert "Predicted alignment step, InternVideo2-1b, 8 masked clips, memory in MiB" in text
    assert "| published | 1 | 6.00 | 1.00 | 1.00x | 100 | 1.00x |" in text
    assert "| videomae_fast | 4 | 2.00 | 1.00 | 3.00x | 25 | 0.25x |" in text
    measured = {"suite": "align", "name": "tiny", "case": "4 masked clips", "variant": "published", "predicted": False}
    assert "Alignment step, InternVideo2-tiny, 4 masked clips." in format_alignment(
        [measured | {"p50_ms": 1.0, "clips_per_s": 1.0, "peak_mib": 1.0, "total_mib": 2.0}]
    )
