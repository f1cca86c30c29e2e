"""`contrast --demo order`: captions of long clips that only the order of two events makes true, without downloads.

The clips are of 64 frames, in which two events are at far ends (data/sources/events.py). The phases are those of
LongViViT, and each is a run as any other: 16 frames, both towers trained; then 64 frames, positions interpolated over
time, the last blocks trained, the text frozen with kept features. 75 % of the tokens are hidden in both.

File structure:
    DEMO                    the options of `--demo order`, and of its first phase
    LONG                    those that the second phase changes
    with_clips, long_phase  write clips, captions and a text model; the configuration of the second phase
    report                  how often captions are found, also when the order of frames is lost
    ways_of_ordering        what is seen then
    shares                  how often a caption is found, of all and of two
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .._files import writable_folder
from .._lock import lock_output
from .._optional import require
from .._text import printable
from ..data import demo_folder
from ..data.sources.events import PAIRS, TEMPLATES, EventClips, captions_of, write_event_clips
from ..data.sources.operations import read_footage
from ..data.sources.written_clips import LIST
from ..engine.checkpoint import list_checkpoints, prepare_output
from ..engine.loop import RunResult
from ..engine.parallel import make_accelerator
from .contrast_config import ContrastConfig
from .contrast_demo import write_text_model
from .evaluate import EvaluateConfig
from .evaluate_retrieval import RetrievalResult, evaluate_retrieval
from .single_frames import Shown, clips_of, features_of, reordered, still
from .two_towers import encode_texts, read_two_towers

# Minutes on two CPU cores.
DEMO = ContrastConfig.from_options(
    model="nano",
    patch_size=8,
    num_frames=16,
    image_size=32,
    sampling="uniform",
    embed_dim=64,
    max_tokens=16,
    workers=1,
    batch_size=48,
    epochs=5,
    lr=1e-3 * 256 / 48,
    final_lr=1e-5 * 256 / 48,
    clip_grad=1.0,
    log_every=20,
)
LONG: Mapping[str, Any] = MappingProxyType(
    {"num_frames": 64, "train": "last:2", "freeze_text": True, "batch_size": 32, "epochs": 3}
    | {"lr": 1e-3 * 256 / 32, "final_lr": 1e-5 * 256 / 32}
)
PHASES = ("short", "long")  # folders of the runs, and of their clips
CLIPS = {"short": 960, "long": 480, "test": 240}
SIDE = 32  # pixels of the written videos
PICTURED = 8  # frames of each video of the picture
ONE = TEMPLATES[2:3]  # "red before dark": two captions of one pair would be negatives of each other
BATCH = 48  # clips of a forward pass of `shares`


def with_clips(config: ContrastConfig, say: Callable[[str], None]) -> ContrastConfig:
    """Write the demo's clips, their captions and a text model to the output folder.

    Args:
        config: of the demo; its `data` is `demo_folder()`, and its `output` the folder of both phases. A `text_model`
            that it names is used.
        say: prints a line.

    Returns:
        The configuration of the first phase. The main process has written all files when this returns.

    Raises:
        ValueError: the output folder is not named, or in use; other videos, or weights, are named.
        ImportError: transformers or PyAV is missing.
        OSError: a file cannot be written.
    """
    if config.data.data != str(demo_folder()) or config.data.root or config.run.init:
        raise ValueError("the demo writes its own videos and captions: leave out data, root and init")
    if not config.run.output:
        raise ValueError("output is empty: name the folder of the demo")
    require("transformers")
    accelerator = make_accelerator(config.run.precision)
    output = writable_folder(config.run.output)
    short = prepare_output(str(output / PHASES[0]), config.run.resume)
    if accelerator.is_main_process and not list_checkpoints(short):  # a run that continues has its clips
        with lock_output(output):
            _write(output, config, say)
    accelerator.wait_for_everyone()
    found = {"text_model": config.text.text_model or str(output / "text_model"), "output": str(output / PHASES[0])}
    return config.with_options(data=str(output / "clips" / PHASES[0] / LIST), **found)


def _write(output: Path, config: ContrastConfig, say: Callable[[str], None]) -> None:
    say(f"{', '.join(f'{count} {name}' for name, count in CLIPS.items())} clips: {printable(output / 'clips')}")
    frames = {"short": config.data.num_frames, "long": LONG["num_frames"], "test": LONG["num_frames"]}
    first = 0  # clips of one number have the same events and times in both parts, so that the numbers differ too
    for name, count in CLIPS.items():
        part = "test" if name == "test" else "train"
        footage = read_footage(sorted(demo_folder().glob("*.mp4")), part, short_side=SIDE + 8)
        clips = EventClips(footage, config.run.seed, num_frames=frames[name], size=SIDE)
        write_event_clips(clips, range(first, first + count), output / "clips" / name, ONE)
        first += count
    if not config.text.text_model:
        say("text model: two blocks with random weights, and the words of the captions")
        write_text_model(output / "text_model", captions(), config.run.seed, words=0.1, others=0.1)


def captions() -> list[str]:
    """The caption of each of PAIRS."""
    return [caption for pair in range(len(PAIRS)) for caption in captions_of(pair, ONE)]


def long_phase(config: ContrastConfig, result: RunResult) -> ContrastConfig:
    """The configuration of the second phase.

    Args:
        config: of the first one, as `with_clips` returns it.
        result: of the first one.

    Returns:
        The configuration, in which LONG overrides the options of the first phase.
    """
    folder = Path(config.run.output).parent
    paths = {"data": folder / "clips" / PHASES[1] / LIST, "init": result.checkpoint, "output": folder / PHASES[1]}
    return config.with_options(**LONG, **{name: str(path) for name, path in paths.items()})


@torch.no_grad()
def report(config: ContrastConfig, result: RunResult, draw: Callable[[RetrievalResult, Path], None]) -> Iterator[str]:
    """Lines about what the towers learned, each as soon as it is known. Every process of a run calls this.

    Args:
        config: of the second phase.
        result: of it.
        draw: draws a picture of a retrieval into a file, retrieval.png in its output folder; the main process calls it.

    Returns:
        The lines.
    """
    output = Path(config.run.output)
    data = str(output.parent / "clips" / "test" / LIST)
    found = evaluate_retrieval(
        EvaluateConfig.from_options(
            task="retrieval",
            precision=config.run.precision,
            batch_size=BATCH,
            data=data,
            init=str(result.checkpoint),
            workers=config.data.workers,
        )
    )
    yield f"{len(found.videos)} clips of later frames, {len(found.captions)} captions of pairs of events"
    yield from found.lines()
    yield "the caption most similar to a clip is its own, of all captions, and of its own and that in reverse order:"
    yield f"  {'chance':28} {1 / len(PAIRS):.3f} {1 / 2:.3f}"
    accelerator, towers = make_accelerator(config.run.precision), read_two_towers(str(result.checkpoint))
    model = towers.model.to(accelerator.device)
    pairs = torch.tensor([captions().index(entry.captions[0]) for entry in found.videos])
    text = encode_texts(towers, captions(), accelerator).cpu()
    for name, shown in ways_of_ordering(clips_of(found, model.vision_encoder.config), config.run.seed):
        exact, order = shares(features_of(model, shown, BATCH) @ text.T, pairs)
        yield f"  {name:28} {exact:.3f} {order:.3f}"
    if result.is_main_process:
        draw(found, output / "retrieval.png")
    yield f"captions and the clips that they find: {printable(output / 'retrieval.png')}"


def ways_of_ordering(clips: Tensor, seed: int) -> Iterator[tuple[str, Shown]]:
    """Clips, and clips whose frames are in another order, or of which one frame is left.

    Args:
        clips: (B, C, T, H, W).
        seed: of random orders and frames.

    Yields:
        The name of a way of seeing, and what is seen.
    """
    orders = torch.rand(len(clips), clips.shape[2], generator=torch.Generator().manual_seed(seed)).argsort(1)
    yield "all frames", Shown(clips)
    yield "all frames backwards", Shown(clips.flip(2))
    yield "all frames in random order", reordered(clips, orders)
    yield "a random frame", still(clips, orders[:, 0])


def shares(similarity: Tensor, pairs: Tensor) -> tuple[float, float]:
    """How often the caption of a clip is the most similar one, of all and of two.

    Args:
        similarity: (n, 12) floating, of clips and the captions of PAIRS.
        pairs: (n,) int64, the pair of events of each clip.

    Returns:
        The share of clips whose caption is the most similar of 12; that of clips whose caption is more similar than the
        one of the reverse order.
    """
    reverse = torch.tensor([PAIRS.index(pair[::-1]) for pair in PAIRS])
    own, other = (similarity.gather(1, each[:, None]) for each in (pairs, reverse[pairs]))
    return (similarity.argmax(1) == pairs).double().mean().item(), (own > other).double().mean().item()
