"""How a prior is trained: recipes, training sets, the loop."""
