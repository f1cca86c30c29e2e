"""The naive dual encoder against the rules of the paper, written out, and our towers against it in float64."""

import math

import pytest
import torch
from torch import Tensor

from benchmarks.baselines.vivit import NaiveDualEncoder, NaiveVideoEncoder, full_clip_loss
from videomae_fast.models import VideoMAEConfig
from videomae_fast.models.dual_encoder import VideoTextModel
from videomae_fast.models.text_tower import TextTower
from videomae_fast.models.video_transformer import VideoTransformer
from videomae_kernels import contrastive_loss, random_mask_index

CONFIG = VideoMAEConfig(32, 3, 2, 16, 2, patch_size=8, num_frames=4, image_size=(16, 24))
CLIPS, TOKENS = 3, 12
BERT = dict(
    vocab_size=16, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
    max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
LIMIT = 1e-10  # relative, of float64


def with_values(model: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms begin at 0 and 1: give them values, or a swapped one would not show."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return model.double()


def clip(frames: int = 4) -> Tensor:
    return torch.randn(CLIPS, 3, frames, 16, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def captions() -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, 16, (CLIPS, 6), generator=torch.Generator().manual_seed(2))
    return ids, (torch.arange(6) < torch.tensor([[6], [4], [1]])).long()


def visible(tokens: int = TOKENS, ratio: float = 0.75) -> Tensor:
    return random_mask_index(torch.arange(CLIPS), tokens, ratio, seed=5)


def hidden_of(index: Tensor, tokens: int = TOKENS) -> Tensor:
    return torch.ones(CLIPS, tokens, dtype=torch.bool).scatter(1, index, False)


@pytest.fixture
def ours() -> VideoTextModel:
    transformers = pytest.importorskip("transformers")
    text = TextTower(transformers.BertModel(transformers.BertConfig(**BERT), add_pooling_layer=False))
    model = with_values(VideoTextModel(VideoTransformer(CONFIG), text, 16))
    assert isinstance(model, VideoTextModel)
    return model


@pytest.fixture
def naive(ours: VideoTextModel) -> NaiveDualEncoder:
    import transformers

    text = transformers.BertModel(transformers.BertConfig(**BERT), add_pooling_layer=False).double()
    torch.set_default_dtype(torch.float64)
    try:
        return NaiveDualEncoder.from_config(CONFIG, text, ours.state_dict())
    finally:
        torch.set_default_dtype(torch.float32)


def outcome(loss: Tensor, model: torch.nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def check_same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    """Loss and every gradient. Biases of keys have none, since a softmax cancels them."""
    torch.testing.assert_close(found[0], expected[0], rtol=LIMIT, atol=0)
    largest = max(float(gradient.norm()) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        if name.endswith("key.bias"):
            assert gradient.norm() < 1e-14 * largest
        else:
            assert gradient.norm() > 0 and (found[1][name] - gradient).norm() <= LIMIT * gradient.norm(), name
    unused = found[1].keys() - expected[1].keys()  # the embedding of the other kind has a gradient of zeros in ours
    assert all(not found[1][name].any() for name in unused)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75])
def test_ours_has_its_loss_and_every_gradient(ours: VideoTextModel, naive: NaiveDualEncoder, ratio: float) -> None:
    """Of clips, with the same masks."""
    index = visible(ratio=ratio) if ratio else None
    expected = outcome(naive(clip(), *captions(), hidden_of(index) if index is not None else None), naive)
    found = outcome(contrastive_loss(*ours(clip(), *captions(), index)), ours)
    check_same(found, expected)
    assert {n for n in found[1].keys() - expected[1].keys()} == {
        f"vision_encoder.image_embed.proj.{name}" for name in ("weight", "bias")
    }


@pytest.mark.parametrize("masked", [False, True])
def test_ours_has_those_of_images_too(ours: VideoTextModel, naive: NaiveDualEncoder, masked: bool) -> None:
    index = visible(6, 0.5) if masked else None
    expected = outcome(naive(clip(1), *captions(), hidden_of(index, 6) if index is not None else None), naive)
    assert "vision_encoder.image_embed.proj.weight" in expected[1]
    check_same(outcome(contrastive_loss(*ours(clip(1), *captions(), index)), ours), expected)


@pytest.mark.parametrize("last", [1, 2])
def test_ours_trains_the_last_blocks_as_it_does(ours: VideoTextModel, naive: NaiveDualEncoder, last: int) -> None:
    """And the frozen form has the gradients that it has where it trains all."""
    index, both = visible(), {}
    for frozen in (False, True):
        if frozen:
            naive.vision_encoder.freeze_before(last)
        both[frozen] = outcome(naive(clip(), *captions(), hidden_of(index)), naive)
    kept = [name for name, parameter in naive.named_parameters() if parameter.requires_grad]
    assert both[True][1].keys() == set(kept) and f"vision_encoder.blocks.{3 - last}.norm1.weight" in kept
    assert "vision_encoder.norm.weight" in kept
    assert not any(name.startswith("vision_encoder") and "embed" in name for name in kept)
    assert all(torch.equal(both[True][1][name], both[False][1][name]) for name in kept)
    ours.vision_encoder.freeze(f"last:{last}")
    found = outcome(contrastive_loss(*ours(clip(), *captions(), index)), ours)
    assert found[1].keys() == both[True][1].keys()
    check_same(found, both[True])


def test_other_masks_are_another_loss(ours: VideoTextModel, naive: NaiveDualEncoder) -> None:
    index = visible()
    expected = outcome(naive(clip(), *captions(), hidden_of(index)), naive)
    with pytest.raises(AssertionError):
        check_same(outcome(contrastive_loss(*ours(clip(), *captions(), index.roll(1, 0))), ours), expected)


def test_the_loss_by_hand() -> None:
    """−log softmax of the pair's logit, among its row and among its column."""
    x, y = (torch.randn(3, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (0, 1))
    scale, total = 2.5, 0.0
    for i in range(3):
        own = math.exp(scale * float(x[i] @ y[i]))
        total -= math.log(own / sum(math.exp(scale * float(x[i] @ y[j])) for j in range(3)))
        total -= math.log(own / sum(math.exp(scale * float(x[j] @ y[i])) for j in range(3)))
    assert float(full_clip_loss(x, y, torch.tensor(scale))) == pytest.approx(total / 6, rel=1e-12)


def test_the_mean_is_of_tokens_that_are_visible() -> None:
    """Without blocks: pixels of tubelets times the kernel, plus positions, normalised; dropped tokens have no part."""
    torch.manual_seed(0)
    model = with_values(NaiveVideoEncoder((2, 2, 3), (2, 8, 8), dim=32, depth=0, heads=2, mlp_ratio=4.0))
    pixels, index = clip(), visible()
    tubes = pixels.unflatten(2, (2, 2)).unflatten(4, (2, 8)).unflatten(6, (3, 8)).permute(0, 2, 4, 6, 1, 3, 5, 7)
    kernel = model.patch_embed.proj
    x = tubes.reshape(CLIPS, TOKENS, -1) @ kernel.weight.flatten(1).T + kernel.bias + model.pos_embed
    x = x.gather(1, index[..., None].expand(-1, -1, 32))
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * model.norm.weight + model.norm.bias
    torch.testing.assert_close(model(pixels, hidden_of(index)), normed.mean(1), rtol=1e-12, atol=1e-12)
