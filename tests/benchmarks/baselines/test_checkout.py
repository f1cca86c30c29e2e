"""A user's checkout of the published code: loaded from where it lies, or an error that says what is wrong."""

import sys
from pathlib import Path

import pytest

from benchmarks.baselines.published.checkout import load_published_models
from benchmarks.baselines.published.release_classes import build_published
from benchmarks.settings import SIZES
from videomae_fast.models import VideoMAEForPretraining, get_config

# As much of a checkout as is called: the constructor's keywords are the published ones.
MODULE = """
from .sizes import Recorder


class PretrainVisionTransformer(Recorder):
    pass
"""
HELPER = """
class Recorder:
    def __init__(
        self, *, img_size, patch_size, encoder_embed_dim, encoder_depth, encoder_num_heads, decoder_num_classes,
        decoder_embed_dim, decoder_depth, decoder_num_heads, mlp_ratio, qkv_bias, norm_layer, tubelet_size,
        all_frames, with_cp
    ):
        self.sizes = img_size, decoder_num_classes, all_frames, with_cp
        self.eps = norm_layer(4).eps

    def load_state_dict(self, state):
        self.state = state
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    models = tmp_path / "models"
    models.mkdir()
    (models / "__init__.py").write_text("raise ImportError('the package itself is not needed')")
    (models / "modeling_pretrain.py").write_text(MODULE)
    (models / "sizes.py").write_text(HELPER)
    for name in [name for name in sys.modules if name.startswith("published_videomae_models")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_it_is_built_with_our_sizes_and_weights(checkout: Path) -> None:
    ours = VideoMAEForPretraining(SIZES["tiny"])
    model = build_published(load_published_models(checkout).PretrainVisionTransformer, ours)
    assert model.sizes == (32, 384, 8, False) and model.eps == 1e-6
    assert model.state.keys() == ours.state_dict().keys()


def test_only_square_clips(checkout: Path) -> None:
    ours = VideoMAEForPretraining(get_config("small", encoder_depth=1, decoder_depth=1, image_size=(32, 64)))
    with pytest.raises(ValueError, match=r"square images, got \(32, 64\)"):
        build_published(load_published_models(checkout).PretrainVisionTransformer, ours)


def test_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no checkout of OpenGVLab/VideoMAEv2.*modeling_pretrain\.py"):
        load_published_models(tmp_path)


def test_what_it_needs_is_missing(checkout: Path) -> None:
    (checkout / "models" / "sizes.py").write_text("import no_such_timm")
    with pytest.raises(ImportError, match=r"No module named 'no_such_timm'.*needs timm"):
        load_published_models(checkout)
