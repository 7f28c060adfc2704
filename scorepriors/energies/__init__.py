"""Energies of images: networks, closed forms, and the flow between noise levels."""
