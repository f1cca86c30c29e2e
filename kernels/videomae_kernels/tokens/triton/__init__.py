"""Triton kernels of the token ops. Nothing here is imported before a kernel is needed."""
