"""Draws from the posterior of any NumPyro model: BlackJAX kernels in, ArviZ out."""
