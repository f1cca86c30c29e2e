"""Tools for whole lists of videos: check them, encode them again."""
