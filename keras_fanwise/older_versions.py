"""Where pickles of older versions find the classes that they name.

A pickle names a class by its module. From this version on that is `keras_fanwise` alone;
in version 0.1 it was the module that defined the class. Of these modules `initializers` and
`fans` are packages today, which have the classes too; the others are named here.
"""

import sys

from keras_fanwise.initializers import normal
from keras_fanwise.models import recipes


def name_older_modules() -> None:
    """Makes `pickle` find the modules of version 0.1 that are elsewhere today."""
    sys.modules["keras_fanwise.normal"] = normal
    sys.modules["keras_fanwise.rules"] = recipes
