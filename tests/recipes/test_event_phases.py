"""LongViViT's two phases as two commands, on files of clips of two events: 16 frames, then 64."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.recipes import paired, tiny
from videomae_fast.cli import main
from videomae_fast.data.sources.events import PAIRS, EventClips, write_event_clips
from videomae_fast.engine.checkpoint import list_checkpoints
from videomae_fast.models.config import CONFIGS
from videomae_fast.models.positions import interpolate_positions

pytest.importorskip("transformers")
WORDS = ("turns", "then", "first", "later", "before", "after", ",", "red", "green", "blue", "dark")


def test_two_commands_are_both_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CONFIGS, "tiny", replace(tiny.TINY, encoder_depth=5))
    text = paired.write_text_model(tmp_path / "text", vocabulary=WORDS)
    footage = [torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8)]
    options = (
        f"--text-model {text} --model tiny --image-size 32 --patch-size 8 --sampling uniform --embed-dim 16 "
        "--max-tokens 12 --workers 0 --batch-size 6 --epochs 2 --warmup-epochs 1 --lr 0.1 --precision fp32 --seed 3 "
        "--track none"
    )

    def phase(name: str, num_frames: int, *changes: str) -> dict[str, torch.Tensor]:
        clips = EventClips(footage, seed=1, num_frames=num_frames)
        data = write_event_clips(clips, range(len(PAIRS)), tmp_path / f"{num_frames}_frames")
        paths = ["--data", str(data), "--output", str(tmp_path / name)]
        assert main(["contrast", *paths, *options.split(), "--num-frames", str(num_frames), *changes]) == 0
        return paired.state_of(list_checkpoints(tmp_path / name)[-1])

    a = phase("a", 16)
    capsys.readouterr()
    b = phase("b", 64, "--init", str(tmp_path / "a"), "--train", "last:4", "--freeze-text")
    assert "interpolated to" in capsys.readouterr().out
    table = interpolate_positions(a.pop("vision_encoder.pos_embed")[0], (8, 4, 4), (32, 4, 4))[None]
    torch.testing.assert_close(b.pop("vision_encoder.pos_embed"), table)
    trained = ("vision_encoder.blocks.1.", "vision_encoder.blocks.4.", "vision_encoder.norm.", "vision_proj.")
    frozen = ("vision_encoder.patch_embed.", "vision_encoder.blocks.0.", "text_encoder.", "text_proj.")
    for names, same in ((trained, False), (frozen, True)):
        for name in names:
            found = [torch.equal(a[key], b[key]) for key in a if key.startswith(name)]
            assert found and all(found) if same else not all(found), name
