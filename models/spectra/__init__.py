"""Spectra: their exact linear algebra, and what is known of colors."""
