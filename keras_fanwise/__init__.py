"""Keras initializers that count the fans of the weight they fill.

Importing the package makes its initializers known to Keras by name, and wraps
`keras.Layer.add_weight` so that they learn which weight of which layer they fill.
Other initializers pass through that untouched.
"""

from importlib.metadata import version as _version

from keras_fanwise.diagnostics.audit import audit, fans_table
from keras_fanwise.diagnostics.history import SignalHistory
from keras_fanwise.diagnostics.signal import signal
from keras_fanwise.fans.counting import Fans
from keras_fanwise.fans.layers import layer_fans, register_fans
from keras_fanwise.initializers.activations import Criticality, criticality, gain
from keras_fanwise.initializers.base import Distribution, FanwiseInitializer, Site
from keras_fanwise.initializers.counterparts import register
from keras_fanwise.initializers.structured import (
    FanwiseChronoBias,
    FanwiseDeltaOrthogonal,
    FanwiseDirac,
    FanwiseOrthogonal,
    FanwiseSubpixel,
    FanwiseUpsampling,
)
from keras_fanwise.initializers.variance_scaling import (
    FanwiseGammaNoise,
    FanwiseGlorotNormal,
    FanwiseGlorotUniform,
    FanwiseHeNormal,
    FanwiseHeUniform,
    FanwiseLecunNormal,
    FanwiseLecunUniform,
    FanwiseNormal,
    FanwiseSiren,
    FanwiseVarianceScaling,
)
from keras_fanwise.models.calibrate import calibrate
from keras_fanwise.models.diagnose import diagnose
from keras_fanwise.models.initialize import initialize, reinitialize
from keras_fanwise.models.output_bias import output_bias
from keras_fanwise.models.recipes import Rule, recipes, residual_ends
from keras_fanwise.reports.diagnosis import (
    Diagnosis,
    DiagnosisFinding,
    Fault,
    HistoryFinding,
    LayerHistory,
    LayerSignal,
    Learning,
    SignalFinding,
    SignalReport,
    Trend,
    Trial,
    Verdict,
)
from keras_fanwise.reports.weights import (
    AuditFinding,
    AuditReport,
    CalibratedWeight,
    CalibrationReport,
    Condition,
    FansTable,
    OutputBias,
    OutputBiasReport,
    ResidualBranch,
    ResidualReport,
    StartReport,
    WeightAudit,
    WeightFans,
    WeightStart,
)
from keras_fanwise.sampling.sampler import Stream
from keras_fanwise.seam import binding
from keras_fanwise.seam.blocks import retrofit, skip_init

__version__ = _version("keras_fanwise")
__all__ = [
    "AuditFinding",
    "AuditReport",
    "CalibratedWeight",
    "CalibrationReport",
    "Condition",
    "Criticality",
    "Diagnosis",
    "DiagnosisFinding",
    "Distribution",
    "Fans",
    "FansTable",
    "FanwiseChronoBias",
    "FanwiseDeltaOrthogonal",
    "FanwiseDirac",
    "FanwiseGammaNoise",
    "FanwiseGlorotNormal",
    "FanwiseGlorotUniform",
    "FanwiseHeNormal",
    "FanwiseHeUniform",
    "FanwiseInitializer",
    "FanwiseLecunNormal",
    "FanwiseLecunUniform",
    "FanwiseNormal",
    "FanwiseOrthogonal",
    "FanwiseSiren",
    "FanwiseSubpixel",
    "FanwiseUpsampling",
    "FanwiseVarianceScaling",
    "Fault",
    "HistoryFinding",
    "LayerHistory",
    "LayerSignal",
    "Learning",
    "OutputBias",
    "OutputBiasReport",
    "ResidualBranch",
    "ResidualReport",
    "Rule",
    "SignalFinding",
    "SignalHistory",
    "SignalReport",
    "Site",
    "StartReport",
    "Stream",
    "Trend",
    "Trial",
    "Verdict",
    "WeightAudit",
    "WeightFans",
    "WeightStart",
    "audit",
    "calibrate",
    "criticality",
    "diagnose",
    "fans_table",
    "gain",
    "initialize",
    "layer_fans",
    "output_bias",
    "recipes",
    "register",
    "register_fans",
    "reinitialize",
    "residual_ends",
    "retrofit",
    "signal",
    "skip_init",
]

# Saved models, pickles and error messages name the package, whose names stay, and not the
# module that something is in today.
for _name in __all__:
    globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    """The public names, for `dir` and for completion; the rooms can be imported still."""
    return [*__all__, "__version__"]


register()
binding.install()
