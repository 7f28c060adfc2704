"""Noise of the pixels of an exposure, one model a file."""
