"""Diagnosis of the prior's influence: hallucination maps, typicality, flags."""
