"""Simulated blends, and sets of them with their truth."""
