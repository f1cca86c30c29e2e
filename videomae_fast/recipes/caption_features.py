"""Features of captions by the text tower of a run of contrastive pre-training, in a file."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from .._files import atomic_write, disk_errors, writable_folder
from .._lock import lock_output
from ..data import read_mixture
from ..engine.manifest import checksum
from ..engine.parallel import make_accelerator
from ..engine.precision import resolve_precision
from ..interop.checkpoint import joined_file
from .features import FeaturesConfig
from .start import last_checkpoint
from .two_towers import encode_texts, read_two_towers

VALUES, FACTS = "captions.npy", "captions.json"


@torch.no_grad()
def write_caption_features(config: FeaturesConfig) -> int:
    """Extract the features of all captions of a list: captions.npy, (n, E) float32 of length 1, and captions.json.

    captions.json has "captions", the n captions, each once, in the order of the list, and "weights_crc32", "max_tokens"
    and "precision", which decide their features. Products with a video's "mean" features of the same run are what its
    training calls similarities.

    Args:
        config: for example `FeaturesConfig.from_options(captions="val.tsv", init="runs/pairs", output="features")`.

    Returns:
        n.

    Raises:
        FileNotFoundError: the weights or a list do not exist.
        ValueError: options are missing or do not fit, `init` is no run of `contrast`, captions cannot be read, another
            run has the folder, or features are NaN or infinite.
        ImportError: transformers is missing.
        OSError: the disk is full or broken.
    """
    windows, options = config.windows, config.features
    config.check_given("captions")
    folder = writable_folder(options.output)
    accelerator = make_accelerator(options.precision)
    with lock_output(folder) if accelerator.is_main_process else nullcontext():
        towers = read_two_towers(options.init, **({"text_model": options.text_model} if options.text_model else {}))
        towers.model.to(accelerator.device)
        listed = read_mixture(options.captions, windows.root or None, captioned=True)
        entries = (listed.captioned(index) for index in range(len(listed)))
        captions = list(dict.fromkeys(caption for entry in entries for caption in entry.captions))
        with accelerator.autocast():
            values = encode_texts(towers, captions, accelerator).cpu().numpy()
        if accelerator.is_main_process:
            facts = {
                "weights_crc32": checksum(joined_file(last_checkpoint(Path(options.init)))),
                "max_tokens": towers.tokenizer.max_tokens,
                "precision": resolve_precision(options.precision),
                "captions": captions,
            }
            for name in (VALUES, FACTS):
                (folder / name).unlink(missing_ok=True)  # a stopped run leaves no two files that do not fit
            with disk_errors(folder / VALUES), atomic_write(folder / VALUES) as partial, open(partial, "wb") as file:
                np.save(file, values)
            with disk_errors(folder / FACTS), atomic_write(folder / FACTS) as partial:
                partial.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        accelerator.wait_for_everyone()
    return len(captions)
