"""Ops on rows of token tensors."""
