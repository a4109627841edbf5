"""Layers to measure: one example of each, and many more of those with settings."""

import functools
import re
import warnings

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers

from support.fan_oracle import PreActivations

small = st.integers(1, 3)


def gates(gated=True):
    """Activations through which the linear maps of a cell can be seen."""
    states = PreActivations()
    gate = {"recurrent_activation": states.gate} if gated else {}
    return {"activation": states.candidate, **gate}


# By name in `keras.layers`: a layer, to be built anew for each test, and the shape to
# build it for. Strides, groups and sizes differ, so that none can pass for another.
EXAMPLES = {
    "Dense": (lambda: layers.Dense(3), (2, 5)),
    "TernaryDense": (lambda: layers.TernaryDense(3), (2, 5)),
    "EinsumDense": (
        lambda: layers.EinsumDense("...bef,hef->...beh", (2, 3, 4), bias_axes="h"),
        (2, 2, 2, 3, 5),
    ),
    "Conv1D": (lambda: layers.Conv1D(6, 3, strides=2, groups=3), (2, 12, 6)),
    "Conv2D": (lambda: layers.Conv2D(4, (3, 2), strides=(2, 3), groups=2), (2, 12, 14, 6)),
    "Conv3D": (lambda: layers.Conv3D(3, (1, 2, 3), strides=(2, 1, 3)), (1, 9, 6, 15, 2)),
    "Conv1DTranspose": (lambda: layers.Conv1DTranspose(3, 4, strides=2), (2, 8, 5)),
    "Conv2DTranspose": (
        lambda: layers.Conv2DTranspose(3, (4, 3), strides=(2, 1)),
        (2, 8, 7, 5),
    ),
    "Conv3DTranspose": (
        lambda: layers.Conv3DTranspose(3, (1, 2, 3), strides=(1, 2, 1)),
        (1, 5, 5, 7, 2),
    ),
    "DepthwiseConv1D": (
        lambda: layers.DepthwiseConv1D(5, strides=2, depth_multiplier=3),
        (2, 20, 4),
    ),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D((3, 5), strides=2, depth_multiplier=3),
        (2, 14, 20, 4),
    ),
    "SeparableConv1D": (
        lambda: layers.SeparableConv1D(7, 5, strides=2, depth_multiplier=2),
        (2, 20, 3),
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(7, (3, 5), strides=2, depth_multiplier=2),
        (2, 14, 20, 3),
    ),
    "SimpleRNNCell": (lambda: layers.SimpleRNNCell(3, **gates(gated=False)), (2, 5)),
    "LSTMCell": (lambda: layers.LSTMCell(3, **gates()), (2, 5)),
    "GRUCell": (lambda: layers.GRUCell(3, **gates()), (2, 5)),
    "ConvLSTM1D": (lambda: layers.ConvLSTM1D(2, 3, strides=2, **gates()), (1, 2, 12, 3)),
    "ConvLSTM2D": (
        lambda: layers.ConvLSTM2D(2, (3, 2), strides=(2, 1), **gates()),
        (1, 2, 12, 8, 3),
    ),
    "ConvLSTM3D": (
        lambda: layers.ConvLSTM3D(2, (1, 2, 2), strides=(1, 2, 1), **gates()),
        (1, 2, 3, 8, 6, 3),
    ),
    "Embedding": (lambda: layers.Embedding(7, 3), (2,)),
    "ReversibleEmbedding": (
        lambda: layers.ReversibleEmbedding(7, 3, tie_weights=False),
        (2,),
    ),
    "Attention": (
        lambda: layers.Attention(score_mode="concat"),
        [(1, 1, 1), (1, 2, 1)],
    ),
    "AdditiveAttention": (lambda: layers.AdditiveAttention(), [(1, 1, 5), (1, 2, 5)]),
    "PReLU": (lambda: layers.PReLU(shared_axes=[1]), (2, 3, 4)),
    "STFTSpectrogram": (
        lambda: layers.STFTSpectrogram("real", frame_length=8, frame_step=3),
        (1, 40, 2),
    ),
    "BatchNormalization": (lambda: layers.BatchNormalization(epsilon=0.0), (2, 4)),
    "GroupNormalization": (
        lambda: layers.GroupNormalization(2, epsilon=1e-30),  # 0 is refused by some Keras
        (2, 4, 6),
    ),
    "LayerNormalization": (lambda: layers.LayerNormalization(epsilon=0.0), (2, 4)),
    "RMSNormalization": (lambda: layers.RMSNormalization(epsilon=0.0), (2, 4)),
    "Normalization": (lambda: layers.Normalization(), (2, 4)),
    "SpectralNormalization": (
        lambda: layers.SpectralNormalization(layers.Dense(3)),
        (2, 4),
    ),
}
EXAMPLES = {name: example for name, example in EXAMPLES.items() if hasattr(layers, name)}


@functools.cache
def pads_transposed():
    """Whether transposed convolutions are padded as on all backends.

    Not by Keras before 3.14 on PyTorch, which warns, and leaves out what is at the border.
    """
    # Ones: within a strategy nothing may be drawn.
    layer = layers.Conv1DTranspose(1, 5, 2, "same", kernel_initializer="ones")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        layer(np.ones((1, 6, 1), "float32"))
    return not any("inconsistencies across backends" in str(each.message) for each in told)


@functools.cache
def pads_strides():
    """Whether "same" fits a stride of one axis alone; not in Keras 3.8 on PyTorch."""
    layer = layers.Conv2D(1, (3, 2), (1, 2), "same", kernel_initializer="ones")
    given = layer(np.ones((1, 4, 6, 1), "float32"))
    return keras.ops.convert_to_numpy(given).max(1).min() == 6


@st.composite
def convolutions(draw, name):
    rank = int(re.search(r"\d", name)[0])
    sizes = st.integers(1, 2) if rank == 3 else small
    size, strides, dilation = draw(st.tuples(*[sizes] * rank)), (1,) * rank, 1
    # Keras takes one or the other.
    if draw(st.booleans()):
        dilation = draw(st.integers(1, 2))
    else:
        strides = draw(st.tuples(*[sizes] * rank))
    depthwise = name.startswith(("Depthwise", "Separable"))
    # TensorFlow runs both on some CPUs only, those for which oneDNN takes over.
    if keras.backend.backend() == "tensorflow":
        dilation = 1 if "Transpose" in name else dilation
        strides = strides[:1] * rank if depthwise else strides
    elif not pads_strides():
        strides = strides[:1] * rank
    groups = draw(small) if name in ("Conv1D", "Conv2D", "Conv3D") else 1
    channels, outputs = draw(small) * groups, draw(small) * groups
    options = {"groups": groups} if groups > 1 else {}
    if depthwise:
        options["depth_multiplier"] = draw(small)
    if name.startswith("Separable"):
        # As many as the depthwise half has, or more, so that all of it can be seen.
        options["filters"] = channels * options["depth_multiplier"] + outputs
    elif not depthwise:
        options["filters"] = outputs
    if name.startswith("ConvLSTM"):
        options.update(gates())
    paddings = ["valid", "same", "causal"] if name == "Conv1D" else ["valid", "same"]
    if "Transpose" in name and not pads_transposed():
        paddings = ["valid"]
    make = functools.partial(
        getattr(layers, name),
        kernel_size=size,
        strides=strides,
        dilation_rate=dilation,
        padding=draw(st.sampled_from(paddings)),
        **options,
    )
    # Large enough to have a middle, where the padding is not seen.
    extents = [
        2 * (dilation * (taps - 1) + 1) + 4 * stride
        for taps, stride in zip(size, strides, strict=True)
    ]
    batch = (1, 2) if name.startswith("ConvLSTM") else (2,)
    return make, (*batch, *extents, channels)


@st.composite
def equations(draw):
    """Labels of each role, in any order, with an ellipsis on either side or none."""
    free, batch, contracted, new = (
        draw(st.sampled_from(["", *labels]))
        for labels in (["b", "bc"], ["d", "de"], ["f", "fg"], ["h", "hi"])
    )
    shuffled = (
        draw(st.permutations(labels))
        for labels in (
            batch + (contracted or "f") + new,
            free + batch + (contracted or "f"),
            free + batch + new,
        )
    )
    kernel, inputs, output = map("".join, shuffled)
    sizes = {label: draw(small) for label in "bcdefghi"}
    forms = ["a{},{}->a{}"]
    if output:  # an ellipsis in front stands next to labels, on both sides of the arrow
        forms.append("...{},{}->...{}")
    if keras.backend.backend() != "tensorflow":  # which crashes on some of these
        forms.append("a{}...,{}->a{}...")
    form = draw(st.sampled_from(forms))
    make = functools.partial(
        layers.EinsumDense,
        form.format(inputs, kernel, output),
        tuple(sizes[label] for label in output),
        bias_axes=draw(st.sampled_from([None, *output])),
    )
    before = (2, 2) if form.startswith("...") else (2,)
    after = (2,) if form.endswith("...") else ()
    return make, (*before, *(sizes[label] for label in inputs), *after)


@st.composite
def cells(draw, name):
    options = gates(gated=name != "SimpleRNNCell")
    if name != "SimpleRNNCell":
        options["implementation"] = draw(st.sampled_from([1, 2]))
    if name == "GRUCell":
        options["reset_after"] = draw(st.booleans())
    make = functools.partial(getattr(layers, name), draw(small), **options)
    return make, (2, draw(small))


@st.composite
def sized(draw, make, input_shape, *sizes):
    """`make` and `input_shape` are functions of the drawn sizes."""
    drawn = [draw(size) for size in sizes]
    return functools.partial(make, *drawn), input_shape(*drawn)


# More of each layer whose fans depend on settings or on sizes.
MANY = {
    "Dense": sized(
        lambda o, axes, i: layers.Dense(o),
        lambda o, axes, i: (2,) * axes + (i,),
        small,
        small,
        small,
    ),
    "TernaryDense": sized(
        lambda o, threshold, i: layers.TernaryDense(o, threshold=threshold),
        lambda o, threshold, i: (2, i),
        small,
        st.sampled_from([None, 0.0, 0.5]),
        small,
    ),
    "EinsumDense": equations(),
    **{name: convolutions(name) for name in EXAMPLES if "Conv" in name},
    **{name: cells(name) for name in EXAMPLES if name.endswith("Cell")},
    "Embedding": sized(
        lambda v, d: layers.Embedding(v + 1, d), lambda v, d: (2,), small, small
    ),
    "STFTSpectrogram": sized(
        lambda mode, frames, step: layers.STFTSpectrogram(mode, frames * step, step),
        lambda mode, frames, step: (1, 60, 2),
        st.sampled_from(["real", "imag"]),
        small,
        small,
    ),
    "Attention": sized(
        lambda mode: layers.Attention(mode == "dot", mode),
        lambda mode: [(1, 1, 1), (1, 2, 1)],
        st.sampled_from(["dot", "concat"]),
    ),
    "AdditiveAttention": sized(
        lambda d: layers.AdditiveAttention(), lambda d: [(1, 1, d), (1, 2, d)], small
    ),
}
MANY = {name: many for name, many in MANY.items() if name in EXAMPLES}
