"""Deblending of scenes, sampling of them, and tables of the results."""
