"""The engine's tests use the fixtures of the recipes' tests."""

from tests.recipes.conftest import fresh_accelerate, one_thread, tiny_size, videos

__all__ = ["fresh_accelerate", "one_thread", "tiny_size", "videos"]
