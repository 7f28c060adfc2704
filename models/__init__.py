"""What a blend is: observations, rendering, sources, NumPyro models."""
