"""What writes the weights of a model."""
