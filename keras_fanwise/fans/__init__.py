"""How many inputs feed a unit, and how many units an input feeds."""

from keras_fanwise.fans.counting import Fans

# Pickles of version 0.1 look for it here.
__all__ = ["Fans"]
