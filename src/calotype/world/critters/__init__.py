"""Critters: a few small characters that are always the same, one to three of them on a painted ground."""
