"""Keras initializers that count the fans of the weight they fill.

Importing the package makes its initializers known to Keras by name, and wraps
`keras.Layer.add_weight` so that they learn which weight of which layer they fill.
Other initializers pass through that untouched.
"""

from importlib.metadata import version

from keras_fanwise.diagnostics.audit import audit
from keras_fanwise.diagnostics.comparison import fans_table
from keras_fanwise.diagnostics.signal import signal
from keras_fanwise.fans.counting import Fans
from keras_fanwise.fans.lookup import layer_fans, register_fans
from keras_fanwise.initializers.base import FanwiseInitializer
from keras_fanwise.initializers.gains import gain
from keras_fanwise.initializers.normal import FanwiseGammaNoise, FanwiseNormal
from keras_fanwise.initializers.registration import register
from keras_fanwise.initializers.scaling import Distribution
from keras_fanwise.initializers.site import Site
from keras_fanwise.initializers.variance_scaling import (
    FanwiseGlorotNormal,
    FanwiseGlorotUniform,
    FanwiseHeNormal,
    FanwiseHeUniform,
    FanwiseLecunNormal,
    FanwiseLecunUniform,
    FanwiseVarianceScaling,
)
from keras_fanwise.models.initialize import initialize, reinitialize
from keras_fanwise.models.rules import Rule, recipes
from keras_fanwise.sampling.sampler import Stream
from keras_fanwise.seam import binding, origin
from keras_fanwise.seam.retrofit import retrofit, retrofitted

__version__ = version("keras_fanwise")
__all__ = [
    "Distribution",
    "Fans",
    "FanwiseGammaNoise",
    "FanwiseGlorotNormal",
    "FanwiseGlorotUniform",
    "FanwiseHeNormal",
    "FanwiseHeUniform",
    "FanwiseInitializer",
    "FanwiseLecunNormal",
    "FanwiseLecunUniform",
    "FanwiseNormal",
    "FanwiseVarianceScaling",
    "Rule",
    "Site",
    "Stream",
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
origin.install()
binding.install(retrofitted)
