"""Every script in examples/ runs."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_example_is_left_out() -> None:
    tested = {"ops_in_your_vit", "your_own_mask", "pretrain_on_your_videos"}
    assert {path.stem for path in EXAMPLES.glob("*.py")} == tested


def test_ops_in_your_vit() -> None:
    losses = load("ops_in_your_vit").main()
    assert losses[-1] < losses[0] - 0.02


def test_your_own_mask() -> None:
    assert 0.5 < load("your_own_mask").main().item() < 2


def test_pretrain_on_your_videos(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    from videomae_fast.data import demo_folder

    model = load("pretrain_on_your_videos").main(
        str(demo_folder()),
        str(tmp_path),
        model="small",
        num_frames=4,
        image_size=32,
        stride=1,
        repeats=1,
        batch_size=2,
        epochs=2,
        warmup_epochs=1,
        workers=0,
    )
    assert model.config.image_size == (32, 32)
    assert (tmp_path / "log.csv").is_file()
