"""Energies of images: networks, closed forms, and the flow between levels of noise."""
