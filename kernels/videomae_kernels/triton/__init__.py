"""Triton kernels and their launchers, one file per role. Nothing here is imported before a kernel is needed."""
