"""How a model is wired."""
