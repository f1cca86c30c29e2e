"""Pictures of a run: its first clips and masks (gallery), a reconstruction, the curves of its log, attention, confusion."""
