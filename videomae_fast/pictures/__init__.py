"""Pictures of a run: its first clips and masks (gallery), a reconstruction, and the curves of its log."""
