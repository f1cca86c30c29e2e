"""Hugging Face transformers: weights, loading, and the models that `fuse` knows."""
