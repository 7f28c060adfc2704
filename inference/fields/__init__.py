"""Whole fields: images larger than a scene, from their scenes to one catalog."""
