"""Figures, pages and folders of results."""
