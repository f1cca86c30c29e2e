"""Where the memory of a step goes: measured on any device, or predicted for a GPU without one."""

from .profile import MemoryProfile

__all__ = ["MemoryProfile"]
