"""Fluxes, positions and shapes of a fitted scene with errors that know everything uncertain."""
