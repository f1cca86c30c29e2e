"""Which videos a run reads: list files, folders, tar files, mixtures, the demo clips."""
