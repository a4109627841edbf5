"""Prints the table of docs/why_fans.md: where Keras's fans and ours differ.

    python tools/fans_of_layers.py

A test compares the page with it.
"""

from collections.abc import Callable

import keras

import keras_fanwise

layers = keras.layers
Case = tuple[Callable[[], keras.Layer], tuple[int | None, ...]]

# What the table calls a layer: how to make it, and the shape of its input.
CASES: dict[str, Case] = {
    "`Conv2D` 64→128, 3×3, 4 groups": (
        lambda: layers.Conv2D(128, 3, groups=4),
        (None, 8, 8, 64),
    ),
    "`Conv2D` 64→128, 3×3, stride 2": (
        lambda: layers.Conv2D(128, 3, strides=2),
        (None, 8, 8, 64),
    ),
    "`DepthwiseConv2D` 3×3, 128 channels": (
        lambda: layers.DepthwiseConv2D(3),
        (None, 8, 8, 128),
    ),
    "`SeparableConv2D` 128→128, 3×3": (
        lambda: layers.SeparableConv2D(128, 3),
        (None, 8, 8, 128),
    ),
    "`Conv2DTranspose` 256→64, 4×4, stride 2": (
        lambda: layers.Conv2DTranspose(64, 4, 2),
        (None, 8, 8, 256),
    ),
    "`Conv2DTranspose` 64→3, 4×4, stride 2": (
        lambda: layers.Conv2DTranspose(3, 4, 2),
        (None, 8, 8, 64),
    ),
    "`EinsumDense` `ebd,edf->ebf`, 8 experts 64→128": (
        lambda: layers.EinsumDense("ebd,edf->ebf", (None, 128)),
        (8, None, 64),
    ),
    "`LSTM` 64→64": (lambda: layers.LSTM(64), (None, 5, 64)),
    "`GRU` 64→64": (lambda: layers.GRU(64), (None, 5, 64)),
    "`ConvLSTM2D` 16→32, 3×3": (
        lambda: layers.ConvLSTM2D(32, 3),
        (None, 5, 8, 8, 16),
    ),
    "`Embedding` 10,000 × 64": (lambda: layers.Embedding(10_000, 64), (None, 5)),
}


def lines() -> list[str]:
    """The table in Markdown, the kernels of each layer."""
    table = [
        "| layer | weight | fan_in: Keras, ours | fan_out: Keras, ours "
        "| std of he, lecun | std of glorot |",
        "|---|---|---|---|---|---|",
    ]
    for name, (make, shape) in CASES.items():
        layer = make()
        layer.build(shape)
        for row in keras_fanwise.fans_table(layer).rows:
            if row.path.endswith("bias"):
                continue
            cells = [
                name,
                f"`{row.path.rsplit('/')[-1]}`",
                f"{row.keras_fans.fan_in:g}, {row.fans.fan_in:g}",
                f"{row.keras_fans.fan_out:g}, {row.fans.fan_out:g}",
                f"× {row.fan_in_ratio:.3g}",
                f"× {row.fan_avg_ratio:.3g}",
            ]
            table.append(f"| {' | '.join(cells)} |")
    return table


if __name__ == "__main__":
    print("\n".join(lines()))
