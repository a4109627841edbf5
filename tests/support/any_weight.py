"""The initializers that fill a weight of any layer, of which each takes a seed alone."""

import keras_fanwise as kf
from keras_fanwise.initializers.counterparts import CLASSES

# What a structured start fills stands in its own tests.
STRUCTURED = (
    kf.FanwiseChronoBias,
    kf.FanwiseDirac,
    kf.FanwiseSubpixel,
    kf.FanwiseUpsampling,
)
ANY_WEIGHT = tuple(cls for cls in CLASSES if cls not in STRUCTURED)
