"""Which teachers are read, and what they compute: the logits of an evaluation, in the precision of the run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.recipes import taught
from videomae_fast.interop import CheckpointError, read_classifier
from videomae_fast.interop.checkpoint import write_safetensors
from videomae_fast.models import VideoMAEForPretraining, get_config
from videomae_fast.recipes.teacher import Teacher, read_teacher, weights_digest

NAMES = tuple(taught.COLORS)
STUDENT = {"num_frames": 8, "image_size": (32, 32)}


def read(teacher: Path | str, names: tuple[str, ...] = NAMES, classes: str = "", **changes: Any) -> Any:
    return read_teacher(str(teacher), classes, names, get_config("tiny", **(STUDENT | changes)), print)


def clips() -> Tensor:
    return torch.randn(3, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_are_those_of_an_evaluation(precision: str, teacher: Path) -> None:
    """In bf16 the blocks compute bitwise as autocast does, with weights of half the bytes; the head is exact."""
    model = read_classifier(teacher).build().eval()
    found = Teacher(read(teacher), torch.device("cpu"), precision=precision)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        features = model.features(clips())
    with torch.no_grad():
        expected = model.head(features.float()).half()
    assert torch.equal(found(clips()), expected)
    dtypes = {name: parameter.dtype for name, parameter in found.model.named_parameters()}
    half = torch.bfloat16 if precision == "bf16" else torch.float32
    assert dtypes["blocks.0.attn.qkv.weight"] == dtypes["blocks.1.mlp.fc2.weight"] == half
    assert {dtypes[name] for name in ("patch_embed.proj.weight", "head.weight", "blocks.0.norm1.weight")} == {
        torch.float32
    }


def test_building_a_teacher_draws_nothing(teacher: Path) -> None:
    classifier = read(teacher)
    before = torch.get_rng_state()
    Teacher(classifier, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_are_picked_by_name(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = Teacher(read(teacher), torch.device("cpu"), precision="fp32")(clips())
    (tmp_path / "rows.json").write_text("[2, 0]")
    for classes in ("", str(tmp_path / "rows.json")):
        some = Teacher(read(teacher, ("red", "blue"), classes), torch.device("cpu"), precision="fp32")
        assert torch.equal(some(clips()), whole[:, [2, 0]])
    (teacher / "classes.json").unlink()
    (tmp_path / "names.txt").write_text("red\ngreen\nblue")
    named = Teacher(read(teacher, NAMES, str(tmp_path / "names.txt")), torch.device("cpu"), precision="fp32")
    assert torch.equal(named(clips()), whole[:, [2, 1, 0]])
    assert capsys.readouterr().out == ""
    unnamed = Teacher(read(teacher), torch.device("cpu"), precision="fp32")
    assert torch.equal(unnamed(clips()), whole)
    said = f"the 3 classes of teacher {teacher} have no names: they are taken as ours, in our order"
    assert capsys.readouterr().out.strip() == said


def test_a_digest_is_of_all_that_decides_logits(teacher: Path, tmp_path: Path) -> None:
    digest = weights_digest(read(teacher))
    assert re.fullmatch("[0-9a-f]{16}", digest) and digest == weights_digest(read(teacher))
    others = [read(teacher, ("blue", "green")), read(teacher, ("green", "blue", "red"))]
    state = dict(read(teacher).state)
    for name, change in (("head.bias", 1e-6), ("blocks.1.attn.v_bias", 1e-3)):
        changed = read(teacher)
        changed.state[name] = state[name] + change
        others.append(changed)
    half = read(teacher)
    half.state.update({name: tensor.half() for name, tensor in state.items()})
    (teacher / "config.json").write_text(
        json.dumps({"data": {"num_frames": 8, "image_size": 32}, "model": {"positions": "sinusoid"}})
    )
    digests = {weights_digest(each) for each in (*others, half, read(teacher))}
    assert len(digests) == 6 and digest not in digests


def test_a_teacher_is_named() -> None:
    with pytest.raises(ValueError, match="teacher is empty: name the weights of a classifier, or a run"):
        read("")


def test_no_such_teacher(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        read(tmp_path / "absent")


def test_pretraining_weights_are_no_teacher(tmp_path: Path) -> None:
    write_safetensors(VideoMAEForPretraining(get_config("tiny", **STUDENT)).state_dict(), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="pre-training weights"):
        read(tmp_path / "m.safetensors")


@pytest.mark.parametrize("changes, shown", [({"num_frames": 4}, "4x32x32"), ({"image_size": (64, 64)}, "8x64x64")])
def test_clips_of_another_size(changes: dict[str, Any], shown: str, teacher: Path) -> None:
    with pytest.raises(ValueError, match=rf"teacher .* takes clips of 8x32x32 \(.*\), the student {shown}: both see"):
        read(teacher, **changes)


def test_classes_that_the_teacher_lacks(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not have the student's classes: .* do not have 'pink'"):
        read(teacher, ("red", "pink"))
    (tmp_path / "rows.json").write_text("[2, 3]")
    with pytest.raises(ValueError, match=r"lists 2 rows from 2 to 3: expected .*\[0, 3\)"):
        read(teacher, ("red", "blue"), str(tmp_path / "rows.json"))
    (teacher / "classes.json").unlink()
    for _ in range(2):  # nothing names them, or numbers do
        with pytest.raises(ValueError, match="has 3 classes without names, the student 2: name the teacher's with tea"):
            read(teacher, ("red", "blue"))
        (teacher / "classes.json").write_text('["0", "1", "2"]')
