"""Modes of any NumPyro model."""
