"""Where the memory of a step goes: measured on any device, or predicted for a GPU without one."""

from .batches import CARDS, largest_batch, largest_batches
from .fake_cuda import known_true
from .figures import MemoryFigures
from .predict import StepPredictor, predict_step
from .profile import MemoryProfile

__all__ = [
    "CARDS",
    "MemoryFigures",
    "MemoryProfile",
    "StepPredictor",
    "known_true",
    "largest_batch",
    "largest_batches",
    "predict_step",
]
