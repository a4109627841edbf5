"""What differs between backends, and what Keras keeps private."""
