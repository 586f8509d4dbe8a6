"""Photographs in and out: bit depth, transparency, tiles, restored files, scores of a folder."""
