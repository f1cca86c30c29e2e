"""The training loop. It knows no model, no mask and no video: a recipe (videomae_fast/recipes) supplies them."""

from .health import NonFiniteLossError
from .loop import RunResult, run
from .recipe import Recipe

__all__ = ["NonFiniteLossError", "Recipe", "RunResult", "run"]
