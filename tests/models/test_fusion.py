"""The second stage: matching and words against formulas, negatives of one and of several processes, published names."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.test_bert import TINY as BERT
from tests.models.test_internvideo2 import TINY as INTERNVIDEO2
from tests.models.test_internvideo2 import published_names
from tests.models.test_layers import randomise
from tests.models.test_text_tower import IDS, MASK
from tests.models.test_video_tower import saved
from videomae_fast.models import (
    BERT_LARGE,
    InternVideo2Tower,
    SplitBert,
    VideoTextFusionModel,
    get_internvideo2_config,
    hard_negatives,
    mask_words,
)
from videomae_fast.models.negatives import TEXT_STREAM, VIDEO_STREAM

CAPTIONS = torch.cat([IDS, IDS.flip(0) + (IDS.flip(0) > 3)])  # four of them
LETTERS = torch.cat([MASK, MASK.flip(0)])
SAMPLE = torch.tensor([7, 3, 11, 2])


def model(word_ratio: float = 0.5) -> VideoTextFusionModel:
    tower = InternVideo2Tower(INTERNVIDEO2)
    found = randomise(VideoTextFusionModel(tower, SplitBert(BERT, tower.token_dim), 12, word_ratio=word_ratio))
    assert isinstance(found, VideoTextFusionModel)
    return found.eval()


def clips(batch: int = 4, frames: int = 4) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, 3, frames, 16, 24, dtype=torch.float64)


def formula(found: VideoTextFusionModel, clip: Tensor, visible: Tensor | None, ids: Tensor = SAMPLE) -> tuple[Any, ...]:
    """Both losses, written out; each pair of a caption and a video goes through the fusion layers alone."""
    video, bert = found.encode_video(clip, visible), found.text_encoder
    text = bert(CAPTIONS, LETTERS)
    a, b = found.project_video(video.pooled), found.project_text(text.pooled)
    numbers = []
    for similarity, stream in ((a @ b.mT / found.temp, TEXT_STREAM), (b @ a.mT / found.temp, VIDEO_STREAM)):
        numbers.append(hard_negatives(similarity, ids, ids, SAMPLE, seed=5, stream=stream).tolist())
    texts, videos = numbers
    pairs = [(i, i, 1) for i in range(4)] + [(i, videos[i], 0) for i in range(4)]
    pairs += [(texts[i], i, 0) for i in range(4)]
    matching = torch.zeros((), dtype=torch.float64)
    for caption, film, label in pairs:
        part = slice(caption, caption + 1)
        row = bert.fuse(text.tokens[part], LETTERS[part], video.tokens[film : film + 1])[0, 0]
        matching -= F.linear(row, found.itm_head.weight, found.itm_head.bias).log_softmax(0)[label] / 12
    hidden, labels = mask_words(CAPTIONS, SAMPLE, seed=5, vocab_size=40, mask_id=4, kept_ids=(0, 2))
    logits = bert.words(bert.fuse(bert(hidden, LETTERS).tokens, LETTERS, video.tokens))
    chosen = labels >= 0
    words = -logits[chosen].log_softmax(1).gather(1, labels[chosen][:, None]).mean()
    return a, b, matching, words


@pytest.mark.parametrize("frames", [4, 1], ids=["clips", "images"])
def test_losses_are_the_formula(frames: int) -> None:
    found, clip = model(), clips(frames=frames)
    visible = found.vision_encoder.draw(SAMPLE, 0.5, seed=1, image=frames == 1)
    output = found(clip, CAPTIONS, LETTERS, SAMPLE, visible, seed=5)
    video, text, matching, words = formula(found, clip, visible)
    torch.testing.assert_close(output.pairs.video, video)
    torch.testing.assert_close(output.pairs.text, text)
    torch.testing.assert_close(output.matching, matching)
    torch.testing.assert_close(output.words, words)
    assert torch.equal(output.pairs.scale, 1 / found.temp) and output.pairs.bias is None


def test_equal_ids_are_no_negatives() -> None:
    found, clip = model(), clips()
    ids = torch.tensor([1, 1, 1, 2])
    output = found(clip, CAPTIONS, LETTERS, SAMPLE, seed=5, pair_ids=ids)
    torch.testing.assert_close(output.matching, formula(found, clip, None, ids)[2])
    with pytest.raises(ValueError, match="pair 0 has no negative among 4"):
        found(clip, CAPTIONS, LETTERS, SAMPLE, seed=5, pair_ids=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="pair 0 has no negative among 1"):
        found(clip[:1], CAPTIONS[:1], LETTERS[:1], SAMPLE[:1], seed=5)


def test_every_parameter_gets_a_gradient() -> None:
    found = model(word_ratio=1.0)
    output = found(clips(), CAPTIONS, LETTERS, SAMPLE, seed=5)
    vtc = F.cross_entropy(output.pairs.scale * output.pairs.video @ output.pairs.text.mT, torch.arange(4))
    (vtc + output.matching + output.words).backward()
    for name, parameter in found.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name == "vision_encoder.img_pos_embed", name


def test_negatives_of_all_processes() -> None:
    """Two processes of two pairs each compute what one of four does, and their gradients add up."""
    found, clip = model(), clips()
    whole = found(clip, CAPTIONS, LETTERS, SAMPLE, seed=5)
    whole.matching.backward()
    expected = {name: p.grad.clone() for name, p in found.named_parameters() if p.grad is not None}
    found.zero_grad()
    halves = [slice(0, 2), slice(2, 4)]
    rows = [(found.encode_video(clip[part]), found.encode_text(CAPTIONS[part], LETTERS[part])) for part in halves]
    losses = []
    for part in halves:
        # What `gather` is called with, in order: features and tokens of both sides, of all processes.
        everyone = [
            torch.cat([found.project_text(text.pooled) for _, text in rows]),
            torch.cat([found.project_video(video.pooled) for video, _ in rows]),
            SAMPLE,
            torch.cat([text.tokens for _, text in rows]),
            LETTERS,
            torch.cat([video.tokens for video, _ in rows]),
        ]
        answers = iter(everyone)

        def gather(own: Tensor, part: slice = part, answers: Any = answers) -> Tensor:
            answer: Tensor = next(answers)
            torch.testing.assert_close(own, answer[part])
            return answer

        losses.append(found(clip[part], CAPTIONS[part], LETTERS[part], SAMPLE[part], seed=5, gather=gather).matching)
        assert next(answers, None) is None
    mean = sum(losses) / 2
    torch.testing.assert_close(mean, whole.matching)
    mean.backward()  # type: ignore[union-attr]
    for name, parameter in found.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_cached_rows_of_a_frozen_tower_are_exact() -> None:
    found, clip = model(), clips()
    found.freeze_video()
    found.train()
    expected = found(clip, CAPTIONS, LETTERS, SAMPLE, seed=5)
    kept, cached = saved(lambda: found.encode_video(clip))
    assert kept == 0
    output = found.losses(cached, CAPTIONS, LETTERS, SAMPLE, seed=5)
    assert torch.equal(output.matching, expected.matching) and torch.equal(output.words, expected.words)
    assert torch.equal(output.pairs.video, expected.pairs.video)


def test_autocast_has_losses_in_float32() -> None:
    found = model().float()
    with torch.autocast("cpu", torch.bfloat16):
        output = found(clips().float(), CAPTIONS, LETTERS, SAMPLE, seed=5)
    assert output.matching.dtype == output.words.dtype == output.pairs.video.dtype == torch.float32


@pytest.mark.slow
def test_a_step_compiles_as_one_graph() -> None:
    found, clip = model().float(), clips().float()
    visible = found.vision_encoder.draw(SAMPLE, 0.5, seed=1)
    for train in ("all", "last:1"):
        found.vision_encoder.freeze(train)
        compiled = torch.compile(found, fullgraph=True, backend="aot_eager")
        output, expected = (call(clip, CAPTIONS, LETTERS, SAMPLE, visible, seed=5) for call in (compiled, found))
        torch.testing.assert_close(output.matching, expected.matching)
        torch.testing.assert_close(output.words, expected.words)
        torch.testing.assert_close(output.pairs.video, expected.pairs.video)


def test_names_are_those_of_the_published_checkpoint() -> None:
    config = get_internvideo2_config("1b", num_frames=4)
    with torch.device("meta"):
        tower = InternVideo2Tower(config)
        found = VideoTextFusionModel(tower, SplitBert(BERT_LARGE, tower.token_dim))
    shapes = {name: tuple(tensor.shape) for name, tensor in found.state_dict().items()}
    trunk = {n: s for n, s in published_names(config) if not n.startswith(("clip_pos", "mae_pos"))}
    trunk["img_pos_embed"] = (1, 257, 1408)
    assert {n.removeprefix("vision_encoder."): s for n, s in shapes.items() if n.startswith("vision_")} == {
        **trunk,
        "vision_proj.weight": (512, 768),
        "vision_proj.bias": (512,),
    }
    assert shapes["vision_encoder.pos_embed"] == (1, 1025, 1408)
    assert shapes["text_proj.weight"] == (512, 1024) and shapes["itm_head.weight"] == (2, 1024) and shapes["temp"] == ()
    assert shapes["text_encoder.bert.encoder.layer.19.crossattention.self.value.weight"] == (1024, 1408)
    first = {name.split(".")[0] for name in shapes}
    assert first == {"vision_encoder", "text_encoder", "vision_proj", "text_proj", "itm_head", "temp"}


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: model(word_ratio=0.0), "word_ratio must be in (0, 1], got 0.0"),
    (lambda: model()(clips(), IDS, MASK, SAMPLE, seed=5), "as many captions as clips, got 2 and 4"),
    (lambda: model()(clips(2), IDS, MASK, SAMPLE, seed=5), "must be (b, n), (b,) and (n,)"),
    (
        lambda: VideoTextFusionModel(InternVideo2Tower(INTERNVIDEO2), SplitBert(replace(BERT, depth=2), 48)),
        "text_layers is depth 2",
    ),
    (lambda: VideoTextFusionModel(InternVideo2Tower(INTERNVIDEO2), SplitBert(BERT, 20)), "source_dim"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
