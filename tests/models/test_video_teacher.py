"""The video teacher against the published blocks written out, and what it computes and keeps."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness.counts import count
from tests.models.test_layers import randomise
from videomae_fast import VideoMAEConfig
from videomae_fast.models.encoder import Encoder
from videomae_fast.models.frozen_teacher import find_nonfinite, last_layers
from videomae_fast.models.teachers import Observation, TeacherRows
from videomae_fast.models.video_teacher import VideoMAETeacher
from videomae_kernels import crop_clips

TINY = VideoMAEConfig(24, 3, 2, 16, 2, num_frames=4, image_size=(16, 24), patch_size=8)
MASKS = torch.tensor([[0, 5, 6], [5, 7, 11], [1, 2, 3], [1, 9, 10]])  # two of each of two clips


def make_encoder() -> Encoder:
    torch.manual_seed(0)
    return randomise(Encoder(TINY))


def make_clip() -> Tensor:
    return torch.randn(2, 3, 4, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def written_out(encoder: Encoder, clip: Tensor) -> list[Tensor]:
    """The residual sum after each block for all tokens, the last one normed."""
    patch = encoder.patch_embed.proj
    x = F.conv3d(clip, patch.weight, patch.bias, stride=patch.stride).flatten(2).mT + encoder.position
    found = []
    for block in encoder.blocks:
        attn, mlp = block.attn, block.mlp
        y = F.layer_norm(x, (24,), block.norm1.weight, block.norm1.bias, 1e-6) @ attn.qkv.weight.T
        q, k, v = y.unflatten(2, (3, 2, 12)).permute(2, 0, 3, 1, 4)
        q, v = q + attn.q_bias.view(2, 1, 12), v + attn.v_bias.view(2, 1, 12)
        x = x + attn.proj(((q @ k.mT / 12**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + mlp.fc2(F.gelu(mlp.fc1(F.layer_norm(x, (24,), block.norm2.weight, block.norm2.bias, 1e-6))))
        found.append(x)
    found[-1] = F.layer_norm(x, (24,), encoder.norm.weight, encoder.norm.bias, 1e-6)
    return found


def at_masks(x: Tensor) -> Tensor:
    return torch.stack([x[row // 2, listed] for row, listed in enumerate(MASKS)])


@pytest.mark.parametrize("clips_at_once", [None, 1])
@pytest.mark.parametrize("layers", [(2,), (0, 2), (0, 1), (1,)])
def test_rows_are_those_of_all_tokens(layers: tuple[int, ...], clips_at_once: int | None) -> None:
    """Only the last block is normed, and only if it is asked for; two masks of a clip share tokens."""
    encoder, clip = make_encoder(), make_clip()
    expected = written_out(encoder, clip)
    teacher = VideoMAETeacher(encoder, layers, dtype=torch.float64, clips_at_once=clips_at_once)
    rows = teacher.rows(clip, MASKS)
    assert rows.pooled is None and teacher.grid == (2, 2, 3) and not teacher.has_cls and teacher.dim == 24
    assert len(rows.layers) == len(layers)
    for number, layer in zip(layers, rows.layers, strict=True):
        torch.testing.assert_close(layer, at_masks(expected[number]), rtol=1e-12, atol=1e-12)
        assert layer.untyped_storage().nbytes() == layer.nbytes  # no view keeps the other tokens
    assert all(map(torch.equal, teacher.rows(clip, MASKS.int()).layers, rows.layers))


@pytest.mark.parametrize("layers, computed", [((1, 2), [12, 12, 6]), ((0, 1), [12, 6])])
def test_the_last_block_computes_the_wanted_rows_and_no_block_follows(
    layers: tuple[int, ...], computed: list[int]
) -> None:
    encoder, found = make_encoder(), []
    for block in encoder.blocks:
        block.mlp.fc1.register_forward_pre_hook(lambda module, args: found.append(args[0].shape[1]))
    VideoMAETeacher(encoder, layers, dtype=torch.float64).rows(make_clip(), MASKS)
    assert found == computed


def test_a_teacher_is_frozen_and_half_without_copies() -> None:
    """Matrices are bfloat16, nothing else is; an autocast around the call and the mode of the model change nothing."""
    encoder = make_encoder().float()
    exact = copy.deepcopy(encoder)
    teacher = VideoMAETeacher(encoder.train(), (1, 2))
    for name, parameter in teacher.model.named_parameters():
        assert parameter.dtype == (torch.bfloat16 if parameter.ndim > 1 else torch.float32), name
        assert not parameter.requires_grad and parameter.grad is None
    clip = make_clip().float()
    rows = teacher.rows(clip, MASKS)
    with torch.autocast("cpu", torch.float16):
        again = teacher.rows(clip, MASKS)
    expected = VideoMAETeacher(exact, (1, 2), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        wide = expected.rows(clip, MASKS)
    for half, repeated, full in zip(rows.layers, again.layers, wide.layers, strict=True):
        assert half.dtype == torch.bfloat16 and not half.requires_grad and torch.equal(half, repeated)
        assert full.dtype == torch.float32
        torch.testing.assert_close(half.float(), full, rtol=0.05, atol=0.05)


def test_no_host_sync() -> None:
    teacher = VideoMAETeacher(make_encoder().float(), (1, 2), clips_at_once=1)
    clip = make_clip().float()
    assert count(lambda: teacher.rows(clip, MASKS), clip.device).syncs == 0


def test_uint8_clips_and_crops_are_normalised() -> None:
    frames = torch.randint(0, 256, (2, 4, 20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops = crop_clips(list(frames), [0, 1], [(2, 3, 16, 24)] * 2, [False, False], (16, 24))
    pixels = frames[:, :, 2:18, 3:27]
    mean, std = torch.tensor(TINY.pixel_mean).double(), torch.tensor(TINY.pixel_std).double()
    teacher = VideoMAETeacher(make_encoder(), (2,), dtype=torch.float64, clips_at_once=1)
    (expected,) = teacher.rows((pixels / 255.0 - mean) / std, MASKS, "BTHWC").layers
    for rows in (teacher.rows(pixels, MASKS, "BTHWC"), teacher.rows(crops, MASKS)):
        torch.testing.assert_close(rows.layers[0], expected, rtol=1e-5, atol=1e-5)


def test_last_layers() -> None:
    assert last_layers(48, 6) == (42, 43, 44, 45, 46, 47)
    assert last_layers(40, 6, 3.34) == (23, 26, 29, 33, 36, 39)  # published for InternVideo2-1B
    for depth, layers, interval in ((3, 4, 1.0), (3, 0, 1.0), (12, 6, 3.0), (3, 1, 0.5)):
        with pytest.raises(ValueError, match=f"do not fit a teacher of {depth} blocks"):
            last_layers(depth, layers, interval)


def test_errors_name_what_came() -> None:
    teacher = VideoMAETeacher(make_encoder(), (2,), dtype=torch.float64, name="tiny")
    for layers in ((), (1, 0), (1, 1), (-1,)):
        with pytest.raises(ValueError, match="layers must be ascending block numbers"):
            VideoMAETeacher(make_encoder(), layers)
    with pytest.raises(ValueError, match="below 3, the blocks of teacher big, got \\(2, 3\\)"):
        VideoMAETeacher(make_encoder(), (2, 3), name="big")
    with pytest.raises(ValueError, match="clips_at_once must be positive, got 0"):
        VideoMAETeacher(make_encoder(), (2,), clips_at_once=0)
    with pytest.raises(ValueError, match="teacher tiny has a grid of 2x2x3 tokens, the student of 2x2x2"):
        teacher.check_grid((2, 2, 2))
    teacher.check_grid((2, 2, 3))
    with pytest.raises(ValueError, match="M masks of one token or more for each of 2 clips, got shape \\(3, 3\\)"):
        teacher.rows(make_clip(), MASKS[:3])
    with pytest.raises(ValueError, match="T=4"):
        teacher.rows(make_clip()[:, :, :2], MASKS)


def test_the_layer_that_is_not_finite_is_named() -> None:
    teacher = VideoMAETeacher(make_encoder(), (1, 2), dtype=torch.float64, name="tiny")
    rows = teacher.rows(make_clip(), MASKS)
    assert find_nonfinite(teacher, rows) == ""
    rows.layers[1][0, 0, 0] = float("nan")
    assert find_nonfinite(teacher, rows) == "teacher tiny computed NaN or infinity in layer 2"
    bad = TeacherRows(rows.layers, torch.full((2, 3), float("inf")))
    assert find_nonfinite(teacher, bad).endswith("in layer 2, the pooled row")


def test_an_observation_has_layers() -> None:
    with pytest.raises(ValueError, match="layers must have one layer or more"):
        Observation(torch.ones(1, 1, 2, 2), (), 0, None)
