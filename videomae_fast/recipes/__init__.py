"""Training tasks for the engine: one file each, read top to bottom."""

from .pretrain import DEMO, PretrainConfig, pretrain

__all__ = ["DEMO", "PretrainConfig", "pretrain"]
