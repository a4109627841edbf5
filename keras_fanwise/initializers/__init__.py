"""What is drawn."""

from keras_fanwise.initializers.variance_scaling import (
    FanwiseGlorotNormal,
    FanwiseGlorotUniform,
    FanwiseHeNormal,
    FanwiseHeUniform,
    FanwiseLecunNormal,
    FanwiseLecunUniform,
    FanwiseVarianceScaling,
)

# Pickles of version 0.1 look for them here.
__all__ = [
    "FanwiseGlorotNormal",
    "FanwiseGlorotUniform",
    "FanwiseHeNormal",
    "FanwiseHeUniform",
    "FanwiseLecunNormal",
    "FanwiseLecunUniform",
    "FanwiseVarianceScaling",
]
