"""Training tasks for the engine: one file each, read top to bottom; `pretrain.py` is the one to copy."""
