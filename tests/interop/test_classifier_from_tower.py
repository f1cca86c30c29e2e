"""A classifier starts from the video tower of two towers: it computes what the tower computes before its norm."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.test_internvideo2 import TINY as INTERNVIDEO2
from tests.models.test_video_tower import TINY, internvideo2, pixels, transformer
from videomae_fast.interop import CheckpointError, init_weights
from videomae_fast.interop.checkpoint import write_safetensors
from videomae_fast.models import InternVideo2ForClassification, VideoMAEForClassification, VideoTower
from videomae_fast.models.config import INTERNVIDEO2_CONFIGS
from videomae_fast.models.positions import sinusoid_table

CLIP = (4, 16, 24)


def two_towers(tower: VideoTower, folder: Path) -> Path:
    """The checkpoint of a run: the tower, a text tower of one tensor, and a scale."""
    folder.mkdir()
    state = {f"vision_encoder.{name}": tensor.float() for name, tensor in tower.state_dict().items()}
    others = {"text_encoder.model.bias": torch.ones(2), "logit_scale": torch.ones(())}
    write_safetensors(state | others, folder / "model.safetensors")
    config: Any = tower.config
    size = {"num_frames": config.num_frames, "image_size": list(config.image_size)}
    (folder / "config.json").write_text(json.dumps(size | {"text_model": "x"}))
    return folder


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_blocks_of_videomae(pool: str, tmp_path: Path) -> None:
    tower = transformer(pool=pool).float()
    tower.pos_embed.data.copy_(sinusoid_table(TINY.num_tokens, TINY.encoder_dim))
    model = VideoMAEForClassification(TINY, 5, trained_clip=CLIP)
    report = init_weights(model, two_towers(tower, tmp_path / "run"))
    clip = pixels().float()
    found = F.layer_norm(model.tokens(clip), (TINY.encoder_dim,), tower.norm.weight, tower.norm.bias, 1e-6)
    torch.testing.assert_close(found, tower(clip).tokens, rtol=1e-4, atol=1e-5)
    assert "new, left as they were: fc_norm.weight, fc_norm.bias, head.weight, head.bias" in report
    assert "not used, 0.0% away from the fixed positions of the model: pos_embed" in report
    unused = next(line for line in report.splitlines() if line.startswith("  not used: "))
    beside = ("norm.weight", "norm.bias", "logit_scale", "text_encoder", "image_embed.proj.weight")
    assert all(name in unused for name in beside) and ("clip_projector" in unused) == (pool == "attention")


def test_the_report_tells_how_far_learned_positions_are(tmp_path: Path) -> None:
    """One that is longer by a tenth, and one of clips of other frames, which is interpolated before."""
    tower = transformer()
    table: Tensor = sinusoid_table(TINY.num_tokens, TINY.encoder_dim)
    tower.pos_embed.data.copy_(1.1 * table)
    run = two_towers(tower, tmp_path / "run")
    assert "not used, 10.0% away from" in init_weights(VideoMAEForClassification(TINY, 5, trained_clip=CLIP), run)
    longer = transformer(TINY.__class__(24, 3, 3, 12, 3, patch_size=8, num_frames=8, image_size=(16, 24)))
    longer.pos_embed.data.copy_(table.view(2, 6, 24).repeat_interleave(2, 0).view(1, 24, 24))
    report = init_weights(
        VideoMAEForClassification(TINY, 5, trained_clip=CLIP), two_towers(longer, tmp_path / "longer")
    )
    assert "not used, 0.0% away from" in report
    (run / "config.json").write_text('{"num_frames": 16, "image_size": 32}')
    with pytest.raises(CheckpointError, match=r"its pos_embed is \(1, 12, 24\), which are no clips of \(16, 32, 32\)"):
        init_weights(VideoMAEForClassification(TINY, 5), run)


def test_internvideo2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its positions and pool; and no other family takes it."""
    monkeypatch.setitem(INTERNVIDEO2_CONFIGS, "tiny", INTERNVIDEO2)
    tower = internvideo2().float()
    model = InternVideo2ForClassification(INTERNVIDEO2, 5)
    run = two_towers(tower, tmp_path / "run")
    report = init_weights(model, run)
    config = INTERNVIDEO2
    clip = pixels((2, 3, config.num_frames, *config.image_size)).float()
    pooled = tower(clip).pooled
    torch.testing.assert_close(
        model.features(clip), F.layer_norm(pooled, pooled.shape[-1:], eps=1e-6), rtol=1e-3, atol=1e-3
    )
    assert "not used: img_pos_embed, logit_scale, text_encoder" in report
    with pytest.raises(CheckpointError, match="it holds weights of InternVideo2, the model is of VideoMAE"):
        init_weights(VideoMAEForClassification(TINY, 5), run)
