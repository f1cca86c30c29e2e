"""Triton kernels of the pixel ops; nothing here is imported before a kernel is needed."""
