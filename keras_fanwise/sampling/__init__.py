"""Which bits a draw is made of, by NumPy alone."""
