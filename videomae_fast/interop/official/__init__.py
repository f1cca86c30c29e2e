"""The published VideoMAE code (OpenGVLab/VideoMAEv2): checkpoints, and the models that `fuse` knows."""
