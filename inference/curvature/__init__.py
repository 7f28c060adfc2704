"""Hessians of any NumPyro model, and coordinates in which they are round."""
