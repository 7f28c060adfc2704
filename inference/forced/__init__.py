"""Forced photometry: fluxes of fixed shapes and places in another image."""
