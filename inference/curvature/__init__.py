"""Hessians of any NumPyro model, and whitening coordinates."""
