"""Which videos a run reads: annotation lists, folders, tar shards, mixtures, the demo clips."""
