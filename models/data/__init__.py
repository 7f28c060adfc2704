"""Data: readers, observations, positions, detection."""
