"""Evaluation of deblending on blends with known truth."""
