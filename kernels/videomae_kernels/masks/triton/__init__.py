"""Triton kernels of the mask ops: one program makes one index list. Nothing here is imported before it is needed."""
