"""Pre-training: configuration, schedule, loop, checkpoints, log."""

from .config import DEMO, PretrainConfig
from .log import NonFiniteLossError
from .loop import RunResult, pretrain

__all__ = ["DEMO", "NonFiniteLossError", "PretrainConfig", "RunResult", "pretrain"]
