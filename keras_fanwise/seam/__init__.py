"""Which weight of which layer is being filled."""
