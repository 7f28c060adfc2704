"""What the prior made up: hallucination maps, typicality, flags."""
