"""`caption --demo`: a small language model says what the clips of `contrast --demo` show, without downloads.

The video tower is that of a run of `contrast --demo`, frozen, and the run trains on the captions that this run wrote.
The language model is a small LLaMA that was trained on the texts of these captions alone (word_models.py): it can
speak, and has seen no video. Only the connector between the two is trained here. A second run, whose tower has random
weights, tells how often captions are right without what the tower has learned.

File structure:
    DEMO                  the options of `--demo`
    from_contrast         these options, with the tower and the captions of a run of `contrast --demo`
    with_language_model   writes a language model
    Said                  what is said about held-out clips
    report                how often it is right, with this tower and with a random one
"""

from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from .._lock import lock_output
from .._text import printable
from ..data.sources.captions import read_captions
from ..data.sources.written_clips import LIST
from ..engine.checkpoint import list_checkpoints, prepare_output
from ..engine.loop import RunResult
from ..engine.parallel import make_accelerator
from .caption import caption
from .caption_config import CaptionConfig
from .contrast_config import ContrastConfig
from .contrast_options import ContrastData, TowerOptions
from .describe import Describer, Description, describe
from .start import last_checkpoint
from .word_models import write_language_model

# A minute or two on two CPU cores.
DEMO = CaptionConfig.from_options(
    connector="mean",
    max_tokens=32,
    batch_size=64,
    epochs=3,
    lr=1e-2 * 256 / 64,
    final_lr=1e-4 * 256 / 64,
    clip_grad=1.0,
    log_every=8,
)
_FROM_RUN = {each.name for section in (ContrastData, TowerOptions) for each in fields(section)}
LONGEST = 16  # tokens of an answer
BATCH = 64  # clips that are described at a time
SHOWN = 3  # clips whose answers are printed


def from_contrast(init: str) -> CaptionConfig:
    """The options of `--demo`, with the tower, the clips and the captions of a run of `contrast --demo`.

    Args:
        init: the run, or one of its checkpoints.

    Returns:
        The configuration, without a language model.

    Raises:
        ValueError: `init` is empty or no such run, or its captions are gone; the message names the command to run
            before.
    """
    before = "run `videomae-fast contrast --demo --output runs/motion` first, and give --init runs/motion"
    if not init:
        raise ValueError(f"init is empty: the demo asks a tower that has learned from captions; {before}")
    settings = last_checkpoint(Path(init)) / "config.json"
    if not settings.is_file():
        raise ValueError(f"init must be a run of `contrast --demo`: there is no {printable(settings)}; {before}")
    try:
        run = ContrastConfig.from_options(**ContrastConfig.read_options(settings))
    except ValueError as error:
        raise ValueError(f"init must be a run of `contrast --demo`: {error}; {before}") from error
    for path in (Path(run.data.data), held_out(run.data.data)):
        if path.name != LIST or not path.is_file():
            raise ValueError(
                f"init must be a run of `contrast --demo`, with its captions: there is no {printable(path)}; {before}"
            )
    return DEMO.with_options(**{name: value for name, value in run.flat().items() if name in _FROM_RUN}, init=init)


def held_out(captions: str) -> Path:
    """The list of held-out clips beside that of the clips to train on."""
    return Path(captions).parent.parent / "test" / LIST


def with_language_model(config: CaptionConfig, say: Callable[[str], None]) -> CaptionConfig:
    """Write the demo's language model to the output folder, unless the options name one.

    Args:
        config: of the run, made of `from_contrast`.
        say: prints a line.

    Returns:
        The configuration with `language_model`. The main process has written it when this returns; a run that continues
        has it already.

    Raises:
        ValueError: the output folder is not named, or in use; or other captions are named.
        ImportError: transformers is missing.
        OSError: a file cannot be written.
    """
    if config.data.data != from_contrast(config.run.init).data.data or config.data.root:
        raise ValueError("the demo trains on the captions of the run of --init: leave out data and root")
    if not config.run.output:
        raise ValueError("output is empty: name the folder of the run")
    if config.language.language_model:
        return config
    accelerator = make_accelerator(config.run.precision)
    output = prepare_output(config.run.output, config.run.resume)  # a run that is finished keeps its language model
    folder = output / "language_model"
    if accelerator.is_main_process and not (config.run.resume and list_checkpoints(output)):
        with lock_output(output):
            texts = _texts(Path(config.data.data))
            loss = write_language_model(folder, texts, config.run.seed)
        say(f"language model: a LLaMA of two layers, trained on {len(texts)} captions to a loss of {loss:.3f} a token")
    accelerator.wait_for_everyone()
    return config.with_options(language_model=str(folder))


def _texts(captions: Path) -> list[str]:
    """All captions of a list, each once."""
    videos = read_captions(captions)
    return list(dict.fromkeys(text for index in range(len(videos)) for text in videos.captioned(index).captions))


class Said(NamedTuple):
    """What is said about a clip.

    Attributes:
        path: of the clip.
        text: the answer.
        captions: the clip's own.
    """

    path: str
    text: str
    captions: tuple[str, ...]


def ask(run: Path, captions: Path, precision: str, workers: int) -> list[Said]:
    """What a run of `caption` says about the clips of a list.

    Args:
        run: or one of its checkpoints.
        captions: the list; its entries are whole videos.
        precision: one of PRECISIONS.
        workers: processes that decode videos.

    Returns:
        The answers, in the order of the list.

    Raises:
        ValueError: a clip cannot be read any more.
    """
    videos = read_captions(captions)
    entries = [videos.captioned(index) for index in range(len(videos))]
    describer = Describer(str(run), precision=precision)
    names = [entry.name for entry in entries]
    found = list(describe(describer, names, max_new_tokens=LONGEST, batch_size=BATCH, workers=workers))
    texts = [each.text for each in found if isinstance(each, Description)]
    if len(texts) < len(found):
        raise ValueError(f"{len(found) - len(texts)} of {len(found)} clips cannot be read any more")
    return [Said(entry.name, text, entry.captions) for entry, text in zip(entries, texts, strict=True)]


def share_right(answers: list[Said]) -> float:
    """The share of clips about which one of their own captions is said, to the letter."""
    return sum(each.text in each.captions for each in answers) / len(answers)


def share_of_a_constant(answers: list[Said]) -> float:
    """The share of clips that the best answer which is always the same is right about: chance."""
    texts = {text for each in answers for text in each.captions}
    return max(sum(text in each.captions for each in answers) for text in texts) / len(answers)


def report(config: CaptionConfig, result: RunResult) -> Iterator[str]:
    """Lines about what was learned. Every process of a run calls this; the lines are those of the main process.

    The run with a tower of random weights is trained here, in the folder `random_tower` of the output folder.

    Args:
        config: of the run, as `with_language_model` returns it.
        result: of the run.

    Returns:
        The lines.
    """
    output, test = Path(config.run.output), held_out(config.data.data)
    if result.is_main_process:
        yield "the same once more, with a tower of random weights:"
    control = caption(config.with_options(init="", output=str(output / "random_tower")))
    if not (result.is_main_process and control.finished):
        return
    known, guessed = (
        ask(each.checkpoint, test, config.run.precision, config.data.workers) for each in (result, control)
    )
    yield f"{len(known)} clips of later frames, about which one of their own captions is said to the letter:"
    figures = ("tower of --init", share_right(known)), ("tower of random weights", share_right(guessed))
    for name, share in (*figures, ("chance", share_of_a_constant(known))):
        yield f"  {name:24} {share:.3f}"
    for each in known[:SHOWN]:
        yield f"{printable(each.path)}: {printable(each.text)} ({'right' if each.text in each.captions else 'wrong'})"
    again = f"videomae-fast describe {known[0].path} --init {output}"
    yield f"what the language model says as it comes: {printable(again)}"
