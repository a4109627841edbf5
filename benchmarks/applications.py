"""What `audit` and `signal` say of every model of keras.applications, untrained.

    KERAS_BACKEND=torch python benchmarks/applications.py --write docs/applications.md

Each model is built with `weights=None` and the smallest images that it takes, in a process
of its own, so that no memory is left behind. Of a family whose sizes have the same layers
the smallest stands for all; `--all` takes every size. A model that does not fit in memory
is said to be so. Then all are built again inside `retrofit()`.
"""

import argparse
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

# In every process, before Keras imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_fanwise

from harness import progress

# The smallest of each family, with the side of the smallest images that it takes (with its
# head, which for these is needed); others of the family differ in width and depth alone.
FAMILIES: dict[str, Sequence[str]] = {
    "ConvNeXtTiny": ("ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"),
    "DenseNet121": ("DenseNet169", "DenseNet201"),
    "EfficientNetB0": tuple(f"EfficientNetB{size}" for size in range(1, 8)),
    "EfficientNetV2B0": ("EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3"),
    "EfficientNetV2S": ("EfficientNetV2M", "EfficientNetV2L"),
    "InceptionResNetV2": (),
    "InceptionV3": (),
    "MobileNet": (),
    "MobileNetV2": (),
    "MobileNetV3Small": ("MobileNetV3Large",),
    "NASNetMobile": ("NASNetLarge",),
    "ResNet50": ("ResNet101", "ResNet152"),
    "ResNet50V2": ("ResNet101V2", "ResNet152V2"),
    "VGG16": ("VGG19",),
    "Xception": (),
}
SMALLEST = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}
