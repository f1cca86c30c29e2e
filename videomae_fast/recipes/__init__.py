"""Training tasks for the engine, and what they share.

A task is one file, read top to bottom; `pretrain.py` is the one to copy. Tasks share `config` (options from keywords,
files and the command line), `options` (sections of options) and `videos` (batches of clips). `step_memory` predicts
the memory of a pre-training step.
"""
