"""The videos of a run: list files, folders, tar files, mixtures, the demo clips, operations and events on them."""
