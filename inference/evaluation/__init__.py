"""Deblending judged by blends whose truth is known."""
