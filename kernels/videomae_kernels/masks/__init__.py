"""Masks as lists of token numbers."""
