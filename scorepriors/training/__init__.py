"""Training of priors: recipes, training sets, the loop."""
