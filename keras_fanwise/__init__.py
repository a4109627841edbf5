"""Keras initializers that count the fans of the weight they fill.

Importing the package makes its initializers known to Keras by name, and wraps
`keras.Layer.add_weight` so that they learn which weight of which layer they fill.
Other initializers pass through that untouched.
"""

from importlib.metadata import version

from keras_fanwise.audit import audit
from keras_fanwise.binding import install
from keras_fanwise.fans import Fans
from keras_fanwise.fans_table import fans_table
from keras_fanwise.gains import gain
from keras_fanwise.initializers import (
    FanwiseGlorotNormal,
    FanwiseGlorotUniform,
    FanwiseHeNormal,
    FanwiseHeUniform,
    FanwiseLecunNormal,
    FanwiseLecunUniform,
    FanwiseVarianceScaling,
)
from keras_fanwise.layer_fans import layer_fans, register_fans
from keras_fanwise.normal import FanwiseGammaNoise, FanwiseNormal
from keras_fanwise.registration import register
from keras_fanwise.retrofit import retrofit
from keras_fanwise.rules import Rule, recipes
from keras_fanwise.signal import signal
from keras_fanwise.whole_model import initialize, reinitialize

__version__ = version("keras_fanwise")
__all__ = [
    "Fans",
    "FanwiseGammaNoise",
    "FanwiseGlorotNormal",
    "FanwiseGlorotUniform",
    "FanwiseHeNormal",
    "FanwiseHeUniform",
    "FanwiseLecunNormal",
    "FanwiseLecunUniform",
    "FanwiseNormal",
    "FanwiseVarianceScaling",
    "Rule",
    "audit",
    "fans_table",
    "gain",
    "initialize",
    "layer_fans",
    "recipes",
    "register",
    "register_fans",
    "reinitialize",
    "retrofit",
    "signal",
]

register()
install()
