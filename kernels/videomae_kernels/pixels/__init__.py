"""Ops that read the pixels of listed tokens."""
