"""The weights and the rows of the head that a classifier starts from, and the classes that an evaluation asks for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.recipes import tiny
from videomae_fast.interop import Classifier, read_classifier, save_published
from videomae_fast.models import VideoMAEConfig, VideoMAEForClassification, VideoMAEForPretraining
from videomae_fast.recipes.start import ClassifierRun, pick_classes, with_classes

CONFIG = VideoMAEConfig(48, 2, 2, 24, 1, decoder_depth=2, num_frames=8, image_size=(32, 32))
NAMES = ("archery", "yoga", "tai chi", "hugging (not baby)")


def _model(classes: int, seed: int = 0) -> VideoMAEForClassification:
    torch.manual_seed(seed)
    return VideoMAEForClassification(CONFIG, classes, init_scale=1.0)


def _weights(folder: Path, names: tuple[str, ...] | None = NAMES, classes: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    save_published(_model(classes, seed=1), folder / "weights.pth")
    if names is not None:
        (folder / "classes.json").write_text(json.dumps(names))
    return folder / "weights.pth"


def _classifier(folder: Path, names: tuple[str, ...] | None) -> Classifier:
    return read_classifier(_weights(folder, names), num_frames=8, image_size=32)


def _heads(path: Path, model: VideoMAEForClassification) -> tuple[Tensor, Tensor]:
    return torch.load(path, weights_only=True)["model"]["head.weight"], model.head.weight.detach()


@pytest.mark.parametrize(
    "beside, ours, rows, note",
    [
        (NAMES, NAMES, [0, 1, 2, 3], "all weights are from"),
        (NAMES, ("yoga", "archery"), [1, 0], "the head has the rows of our 2 classes, by name"),
        (NAMES, ("yoga", "archery", "skiing", "tai chi"), None, "the head is new: the weights are of other classes"),
        (None, NAMES, [0, 1, 2, 3], "all weights are from"),
        (None, NAMES[:3], None, "the head of the file has 4 classes, that of the model 3"),
        # Numbers mean something else in each list, so rows are not found by them.
        (("0", "1", "2", "3"), ("0", "1"), None, "the head of the file has 4 classes, that of the model 2"),
        (("0", "1", "2", "3"), NAMES, [0, 1, 2, 3], "all weights are from"),
        (NAMES, ("0", "1", "2"), None, "the head of the file has 4 classes, that of the model 3"),
    ],
)
def test_rows_by_the_names_beside_the_weights(
    beside: tuple[str, ...] | None, ours: tuple[str, ...], rows: list[int] | None, note: str, tmp_path: Path
) -> None:
    path, model = _weights(tmp_path, beside), _model(len(ours))
    new = model.head.weight.detach().clone()
    assert note in ClassifierRun(init=str(path)).start(model, ours)
    theirs, found = _heads(path, model)
    assert torch.equal(found, new if rows is None else theirs[rows])
    assert torch.equal(model.fc_norm.weight, _model(4, seed=1).fc_norm.weight)
    assert torch.equal(model.blocks[1].attn.qkv.weight, _model(4, seed=1).blocks[1].attn.qkv.weight)  # type: ignore


@pytest.mark.parametrize(
    "name, content, merged, ours, rows",
    [
        ("all.txt", "\n".join(NAMES), {}, ("tai chi", "archery"), [2, 0]),
        ("all.json", json.dumps(NAMES), {}, ("tai chi", "archery"), [2, 0]),
        ("all.txt", "\n".join(NAMES), {"hugging": "hugging (not baby)"}, ("hugging", "yoga"), [3, 1]),
        ("rows.json", "[3, 0]", {}, ("any", "name"), [3, 0]),
        ("rows.json", "[3, 0]", {}, ("0", "1"), [3, 0]),
    ],
)
def test_rows_by_a_file(
    name: str, content: str, merged: dict[str, str], ours: tuple[str, ...], rows: list[int], tmp_path: Path
) -> None:
    """In training and in evaluation alike."""
    path, given = _weights(tmp_path, None), {"init_classes": str(tmp_path / name)}
    (tmp_path / name).write_text(content)
    if merged:
        (tmp_path / "merged.json").write_text(json.dumps(merged))
        given["init_merged"] = str(tmp_path / "merged.json")
    model = _model(2)
    assert str(tmp_path / name) in ClassifierRun(init=str(path), **given).start(model, ours)
    theirs, found = _heads(path, model)
    assert torch.equal(found, theirs[rows])
    picked = with_classes(_classifier(tmp_path, None), ours, **given)
    assert torch.equal(picked.state["head.weight"], theirs[rows]) and picked.class_names == ours


@pytest.mark.parametrize(
    "name, content, ours, message",
    [
        ("all.txt", "archery\nyoga\n", ("yoga",), "names 2 classes, the head of the weights has 4"),
        ("all.txt", "\n".join(NAMES), ("skiing",), "the 4 classes of the head do not have 'skiing'"),
        ("all.txt", "\n".join(NAMES), ("0", "1"), "ours have numbers only: name them in classes"),
        ("rows.json", "[0, 4]", ("a", "b"), r"expected 2 rows, one for each class, in \[0, 4\)"),
        ("rows.json", "[0, 1, 2]", ("a", "b"), "lists 3 rows from 0 to 2: expected 2 rows"),
        ("rows.json", "[0, 0]", ("a", "b"), "row 0 for two classes"),
        ("rows.json", "[0, -1]", ("a", "b"), "whole numbers from 0 up"),
        ("gone.txt", None, ("a", "b"), "there is no class file at .*gone.txt"),
        ("gone.json", None, ("a", "b"), "there is no class file at .*gone.json"),
        ("all.json", "{}", ("a", "b"), "expected a list of names, got dict"),
    ],
)
def test_class_files_that_do_not_fit(
    name: str, content: str | None, ours: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    path, model = _weights(tmp_path, None), _model(len(ours))
    if content is not None:
        (tmp_path / name).write_text(content)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ClassifierRun(init=str(path), init_classes=str(tmp_path / name)).start(model, ours)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        with_classes(_classifier(tmp_path, None), ours, str(tmp_path / name))


def test_pre_trained_weights_have_no_rows(tmp_path: Path) -> None:
    save_published(VideoMAEForPretraining(CONFIG), tmp_path / "pre.pth")
    (tmp_path / "all.txt").write_text("\n".join(NAMES))
    with pytest.raises(ValueError, match=r"the file has no head \(for --init-classes, too\)"):
        ClassifierRun(init=str(tmp_path / "pre.pth"), init_classes=str(tmp_path / "all.txt")).start(_model(4), NAMES)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"init_classes": "names.txt"}, "init_classes 'names.txt' names the classes of --init, which is empty"),
        ({"init": "a", "init_merged": "m.json"}, "init_merged 'm.json' goes with --init-classes, which is empty"),
    ],
)
def test_options_that_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierRun(**options)


def test_classes_of_an_evaluation(tmp_path: Path) -> None:
    """Without a class file: all, some, or other names for a head that has none."""
    named, unnamed = _classifier(tmp_path / "a", NAMES), _classifier(tmp_path / "b", None)
    assert with_classes(named, ()).class_names == NAMES
    assert with_classes(unnamed, ()).class_names == ("0", "1", "2", "3")
    some = with_classes(named, ("tai chi", "archery"))
    assert torch.equal(some.state["head.weight"], named.state["head.weight"][[2, 0]])
    assert torch.equal(some.state["head.bias"], named.state["head.bias"][[2, 0]])
    assert with_classes(unnamed, NAMES).class_names == NAMES
    numbers = _classifier(tmp_path / "c", ("0", "1", "2", "3"))
    assert with_classes(numbers, NAMES).class_names == NAMES
    with pytest.raises(ValueError, match="do not have 'skiing'"):
        with_classes(named, ("skiing",))
    with pytest.raises(ValueError, match="there are 2 class names, and the head has 4 classes without names"):
        with_classes(unnamed, NAMES[:2])


def test_all_classes_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("\n".join(NAMES))
    assert pick_classes(4, (), str(tmp_path / "all.txt")) == ([0, 1, 2, 3], NAMES)
    (tmp_path / "rows.json").write_text("[2, 1]")
    assert pick_classes(4, (), str(tmp_path / "rows.json")) == ([2, 1], ("0", "1"))


def test_a_run_is_its_last_checkpoint(labelled: Path, tmp_path: Path) -> None:
    from videomae_fast.recipes.finetune import finetune

    finetune(tiny.finetuning(labelled, tmp_path, max_steps=3, save_every=1))
    run = ClassifierRun(init=str(tmp_path))
    assert run.source == tmp_path / "checkpoints" / "step-00000003" and not run.continues
    assert ClassifierRun(output=str(tmp_path), resume=True, init="/gone").source == run.source
    assert ClassifierRun(output=str(tmp_path), resume=True, init="/gone").start(_model(4), NAMES) == (
        "--resume continues from a checkpoint: --init /gone is not read"
    )
    assert ClassifierRun().source is None and ClassifierRun().start(_model(4), NAMES) == ""
