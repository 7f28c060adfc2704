"""Spectra: their exact linear algebra, and priors on fluxes and colors."""
