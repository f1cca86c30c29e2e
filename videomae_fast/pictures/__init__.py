"""Pictures of a run: first clips and masks (gallery), a reconstruction, the curves of its log, confusion, attention."""
