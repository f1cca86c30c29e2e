"""Optional packages: which extra installs each, and an import whose error names that extra."""

import importlib
from types import ModuleType

# The extra that installs each optional package, by import name. Video readers are named after their package.
EXTRAS = {
    "triton": "triton",
    "av": "video",
    "decord": "decord",
    "torchcodec": "torchcodec",
    "PIL": "video",
    "skvideo": "demo",
    "accelerate": "train",
    "safetensors": "train",
    "tensorboard": "train",
    "matplotlib": "train",
    "pytest_benchmark": "bench",
    "tqdm": "train",
    "transformers": "hf",
    "gguf": "chat",
    "peft": "lora",
    "torchmetrics": "metrics",
    "liger_kernel": "liger",
    "cut_cross_entropy": "cut-cross-entropy",
    "deepspeed": "deepspeed",
    "flash_attn": "flash-attn",
    "xformers": "xformers",
}


def require(module: str) -> ModuleType:
    """Import and return a module of an optional package.

    A package can be installed and still fail to load (a missing shared library, say), so the original reason is
    part of the error.

    Args:
        module: dotted import name; its first part is a key of EXTRAS.

    Returns:
        The imported module.

    Raises:
        ImportError: it cannot be imported; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(
            f"'{module}' is needed here and could not be imported ({error}). "
            f"Install it with: pip install 'videomae-fast[{EXTRAS[module.partition('.')[0]]}]'"
        ) from error
