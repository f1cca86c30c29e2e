"""Ops that read pixels of listed tokens, from a tensor or from crop boxes of decoded frames."""
