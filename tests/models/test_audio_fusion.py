"""The second stage with sound: six losses against formulas, images without sound, published names."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.test_audio_tower import TINY as BEATS
from tests.models.test_audio_tower import norm, spectrograms
from tests.models.test_bert import TINY as BERT
from tests.models.test_fusion import CAPTIONS, LETTERS, SAMPLE, clips
from tests.models.test_internvideo2 import TINY as INTERNVIDEO2
from tests.models.test_internvideo2 import published_names
from tests.models.test_layers import randomise
from videomae_fast.models import (
    BERT_LARGE,
    AudioTower,
    AudioVideoTextModel,
    BeatsConfig,
    InternVideo2Tower,
    SplitBert,
    get_internvideo2_config,
    hard_negatives,
    mask_words,
)
from videomae_fast.models.fusion import vtm_loss
from videomae_fast.models.negatives import SOUND_STREAMS, TEXT_STREAM, VIDEO_STREAM

WIDTH = 20  # of projected tokens


def model(width: int = WIDTH) -> AudioVideoTextModel:
    bert = SplitBert(BERT, width)
    found = randomise(AudioVideoTextModel(InternVideo2Tower(INTERNVIDEO2), bert, AudioTower(BEATS), 12))
    assert isinstance(found, AudioVideoTextModel)
    return found.eval()


def sounds() -> Tensor:
    return spectrograms(4)


def affine(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return x @ state[name + ".weight"].mT + state[name + ".bias"]


def losses(found: AudioVideoTextModel, tokens: Tensor, feature: Tensor, head: str, streams: Any) -> tuple[Any, ...]:
    """Matching and words, written out; each pair of a caption and a video goes through the fusion layers alone."""
    bert, state = found.text_encoder, dict(found.named_parameters())
    text = bert(CAPTIONS, LETTERS)
    caption = F.normalize(affine(text.pooled, state, "text_proj"), dim=1)
    numbers = []
    for similarity, stream in zip((feature @ caption.mT, caption @ feature.mT), streams, strict=True):
        drawn = hard_negatives(similarity / found.temp, SAMPLE, SAMPLE, SAMPLE, seed=5, stream=stream)
        numbers.append(drawn.tolist())
    pairs = [(i, i, 1) for i in range(4)] + [(i, numbers[1][i], 0) for i in range(4)]
    pairs += [(numbers[0][i], i, 0) for i in range(4)]
    matching = torch.zeros((), dtype=torch.float64)
    for number, film, label in pairs:
        part = slice(number, number + 1)
        row = bert.fuse(text.tokens[part], LETTERS[part], tokens[film : film + 1])[0, 0]
        matching -= affine(row, state, head).log_softmax(0)[label] / 12
    hidden, labels = mask_words(CAPTIONS, SAMPLE, seed=5, vocab_size=40, mask_id=4, kept_ids=(0, 2))
    logits = bert.words(bert.fuse(bert(hidden, LETTERS).tokens, LETTERS, tokens))
    chosen = labels >= 0
    return caption, matching, -logits[chosen].log_softmax(1).gather(1, labels[chosen][:, None]).mean()


def formula(found: AudioVideoTextModel, clip: Tensor, visible: Tensor | None, sound: Tensor) -> list[tuple[Any, ...]]:
    """Features and losses of the video, and of sound and video."""
    state = dict(found.named_parameters())
    video, audio = found.vision_encoder(clip, visible), found.audio_encoder(sound).tokens
    seen = norm(affine(video.tokens, state, "av_concat_vision_proj.0"), state, "av_concat_vision_proj.1")
    heard = norm(affine(audio, state, "av_concat_audio_proj.0"), state, "av_concat_audio_proj.1")
    projected = affine(video.pooled, state, "vision_proj")
    both = torch.cat([affine(audio.mean(1), state, "audio_proj"), projected], 1)
    features = F.normalize(projected, dim=1), F.normalize(affine(both, state, "av_fusion"), dim=1)
    given = (
        (seen, features[0], "itm_head", (TEXT_STREAM, VIDEO_STREAM)),
        (torch.cat([heard, seen], 1), features[1], "avtm_head", SOUND_STREAMS),
    )
    return [(each[1], *losses(found, *each)) for each in given]


def test_losses_are_the_formula() -> None:
    found, clip, sound = model(), clips(), sounds()
    visible = found.vision_encoder.draw(SAMPLE, 0.5, seed=1)
    output = found(clip, CAPTIONS, LETTERS, SAMPLE, visible, spectrogram=sound, seed=5)
    assert output.sound is not None and output.sound.sound is None
    for ours, expected in zip((output, output.sound), formula(found, clip, visible, sound), strict=True):
        video, text, matching, words = expected
        torch.testing.assert_close(ours.pairs.video, video)
        torch.testing.assert_close(ours.pairs.text, text)
        torch.testing.assert_close(ours.matching, matching)
        torch.testing.assert_close(ours.words, words)
        assert torch.equal(ours.pairs.scale, 1 / found.temp) and ours.pairs.bias is None
    assert not torch.equal(output.matching, output.sound.matching)


@pytest.mark.parametrize("width", [WIDTH, InternVideo2Tower(INTERNVIDEO2).token_dim])
def test_match_is_what_the_loss_of_matching_reads(width: int) -> None:
    """Of two pairs, whose negatives are each other; also where tokens would fit without their projection."""
    found, mask = model(width), LETTERS[:2]
    video, text = found.encode_video(clips(2)), found.encode_text(CAPTIONS[:2], mask)
    output = found.losses(video, CAPTIONS[:2], mask, SAMPLE[:2], seed=5)
    others = text._replace(tokens=text.tokens.flip(0))
    pairs = (text, mask, video.tokens), (text, mask, video.tokens.flip(0)), (others, mask.flip(0), video.tokens)
    torch.testing.assert_close(vtm_loss(torch.cat([found.match(*each) for each in pairs])), output.matching)


def test_images_have_the_losses_of_the_video_alone() -> None:
    found = model().train()
    output = found(clips(frames=1), CAPTIONS, LETTERS, SAMPLE, seed=5)
    with_sound = found(clips(frames=1), CAPTIONS, LETTERS, SAMPLE, spectrogram=sounds(), seed=5)
    assert output.sound is None
    assert torch.equal(output.matching, with_sound.matching) and torch.equal(output.words, with_sound.words)
    (
        output.pairs.video.sum() * output.pairs.scale + output.pairs.text.sum() + output.matching + output.words
    ).backward()
    for name, parameter in found.named_parameters():
        assert parameter.grad is not None, name  # DDP waits for all of them
        of_sound = name.startswith(("audio_", "av_concat_audio_proj", "av_fusion", "avtm_head"))
        assert (float(parameter.grad.abs().max()) == 0) == of_sound or name == "vision_encoder.pos_embed", name


def test_every_parameter_gets_a_gradient_unless_frozen() -> None:
    found = model()
    for frozen in (False, True):
        found.zero_grad(set_to_none=True)
        if frozen:
            found.freeze_audio()
        output = found(clips(), CAPTIONS, LETTERS, SAMPLE, spectrogram=sounds(), seed=5)
        total = output.matching + output.words + output.sound.matching + output.sound.words
        for pairs in (output.pairs, output.sound.pairs):
            total = total + F.cross_entropy(pairs.scale * pairs.video @ pairs.text.mT, torch.arange(4))
        total.backward()
        for name, parameter in found.named_parameters():
            if frozen and name.startswith("audio_encoder."):
                assert parameter.grad is None, name
            else:
                assert parameter.grad is not None, name
                assert parameter.grad.abs().max() > 0 or name == "vision_encoder.img_pos_embed", name


def test_a_video_without_sound_differs_from_one_with() -> None:
    """Zeros are an input as any other: the published code has no mark for them, and neither has this."""
    found, sound = model(), sounds()
    sound[1] = 0
    output = found(clips(), CAPTIONS, LETTERS, SAMPLE, spectrogram=sound, seed=5)
    expected = found(clips(), CAPTIONS, LETTERS, SAMPLE, spectrogram=sounds(), seed=5)
    same = [torch.equal(a, b) for a, b in zip(output.sound.pairs.video, expected.sound.pairs.video, strict=True)]
    assert same == [True, False, True, True] and bool(output.sound.pairs.video.isfinite().all())
    assert torch.equal(output.pairs.video, expected.pairs.video)


def test_cached_rows_are_exact() -> None:
    found = model()
    found.freeze_video()
    expected = found(clips(), CAPTIONS, LETTERS, SAMPLE, spectrogram=sounds(), seed=5)
    video, audio = found.encode_video(clips()), found.encode_sound(sounds())
    output = found.losses(video, CAPTIONS, LETTERS, SAMPLE, seed=5, audio=audio)
    assert torch.equal(output.sound.matching, expected.sound.matching)
    assert torch.equal(output.sound.pairs.video, expected.sound.pairs.video)
    features = found.losses(video, CAPTIONS, LETTERS, None, seed=5, audio=audio)
    assert torch.equal(features.sound.pairs.video, expected.sound.pairs.video)
    assert features.matching is features.sound.matching is features.sound.words is None


def test_names_are_those_of_the_published_code() -> None:
    config = get_internvideo2_config("6b", num_frames=4)
    with torch.device("meta"):
        found = AudioVideoTextModel(InternVideo2Tower(config), SplitBert(BERT_LARGE, 768), AudioTower(BeatsConfig()))
    shapes = {name: tuple(tensor.shape) for name, tensor in found.state_dict().items()}
    trunk = {n: s for n, s in published_names(config) if not n.startswith(("clip_pos", "mae_pos"))}
    trunk["img_pos_embed"] = (1, 257, 3200)
    towers = "vision_encoder.", "text_encoder.", "audio_encoder."
    assert {n.removeprefix(towers[0]): s for n, s in shapes.items() if n.startswith(towers[0])} == trunk
    assert shapes["text_encoder.bert.encoder.layer.19.crossattention.self.value.weight"] == (1024, 768)
    assert shapes["audio_encoder.encoder.layers.11.fc1.weight"] == (3072, 768)
    assert {name: shape for name, shape in shapes.items() if not name.startswith(towers)} == {
        "temp": (),
        "vision_proj.weight": (768, 768),
        "vision_proj.bias": (768,),
        "text_proj.weight": (768, 1024),
        "text_proj.bias": (768,),
        "itm_head.weight": (2, 1024),
        "itm_head.bias": (2,),
        "audio_proj.weight": (768, 768),
        "audio_proj.bias": (768,),
        "av_concat_vision_proj.0.weight": (768, 3200),
        "av_concat_vision_proj.0.bias": (768,),
        "av_concat_vision_proj.1.weight": (768,),
        "av_concat_vision_proj.1.bias": (768,),
        "av_concat_audio_proj.0.weight": (768, 768),
        "av_concat_audio_proj.0.bias": (768,),
        "av_concat_audio_proj.1.weight": (768,),
        "av_concat_audio_proj.1.bias": (768,),
        "av_fusion.weight": (768, 1536),
        "av_fusion.bias": (768,),
        "avtm_head.weight": (2, 1024),
        "avtm_head.bias": (2,),
    }


ERRORS: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: model()(clips(), CAPTIONS, LETTERS, SAMPLE, spectrogram=spectrograms(3), seed=5),
        "as many sounds as clips, got 3 and 4",
    ),
    (
        lambda: model()(clips(), CAPTIONS, LETTERS, SAMPLE, spectrogram=sounds()[:, :9], seed=5),
        "spectrogram must be (B, 23, 8), got (4, 9, 8)",
    ),
    (lambda: model()(clips(), CAPTIONS[:2], LETTERS[:2], SAMPLE[:2], seed=5), "as many captions as clips, got 2 and 4"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
