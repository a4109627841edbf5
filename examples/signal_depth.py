"""A signal through thirty layers of ReLUs, from Glorot's scale and from He's.

    python examples/signal_depth.py --figure signal_depth.png

Measures with `keras_fanwise.signal` what He et al. 2015 (<https://arxiv.org/abs/1502.01852>,
section 2.2) derive: each layer of ReLUs multiplies the variance by half the scale of its
weights, so thirty layers keep a signal with He's scale, 2, and lose it with Glorot's, which
is 1 in a layer of as many outputs as inputs. Prints the trends, and draws the standard
deviations of the signal and of its gradient after each layer. The exit code is 0 only if
the signal vanishes with Glorot's scale and stays with He's.
"""

import argparse
import os
from pathlib import Path

# TensorFlow reads it when Keras imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from keras import layers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import keras_fanwise
from keras_fanwise.reports.diagnosis import SignalReport

GLOROT, HE = INITIALIZERS = "fanwise_glorot_normal", "fanwise_he_normal"
COLOURS = {GLOROT: "#d55e00", HE: "#0072b2"}
DEPTH, WIDTH, SEED = 30, 512, 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Send a signal through thirty layers.")
    parser.add_argument("--figure", type=Path, default=Path("signal_depth.png"))
    figure = parser.parse_args().figure
    reports = {name: keras_fanwise.signal(network(name)) for name in INITIALIZERS}
    Console().print(table(reports))
    draw(reports, figure)
    vanished = {
        name: [finding.verdict.label for finding in report.findings]
        for name, report in reports.items()
    }
    if vanished != {GLOROT: ["vanishing", "vanishing"], HE: []}:
        raise SystemExit(f"signal_depth: {vanished}, which is not as claimed")


def network(initializer: str) -> keras.Model:
    keras.utils.set_random_seed(SEED)
    return keras.Sequential(
        [
            keras.Input((WIDTH,)),
            *(
                layers.Dense(WIDTH, "relu", kernel_initializer=initializer)
                for _ in range(DEPTH)
            ),
        ]
    )


def table(reports: dict[str, SignalReport]) -> Table:
    result = Table("scale", "direction", box=None, pad_edge=False)
    for heading in ("std after 1 layer", "after 30", "× per layer"):
        result.add_column(heading, justify="right")
    for name, report in reports.items():
        gradients = [row.gradient_std or 0.0 for row in report.rows[::-1]]
        for direction, stds, trend in (
            ("forward", [row.std for row in report.rows], report.forward),
            ("backward", gradients, report.backward),
        ):
            rate = f"{trend.rate:.3f}" if trend and trend.rate else ""
            result.add_row(name, direction, f"{stds[0]:.3g}", f"{stds[-1]:.3g}", rate)
    return result


def draw(reports: dict[str, SignalReport], file: Path) -> None:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    forward, backward = figure.subplots(1, 2, sharey=True)
    for name, report in reports.items():
        draw_line(forward, name, [row.std for row in report.rows])
        draw_line(backward, name, [row.gradient_std or 0.0 for row in report.rows])
    forward.set(title="forward", ylabel="standard deviation", xlabel="layer")
    backward.set(title="backward", xlabel="layer")
    legend = forward.get_legend_handles_labels()
    figure.legend(*legend, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(file, dpi=150)


def draw_line(panel: Axes, name: str, stds: list[float]) -> None:
    panel.semilogy(range(1, len(stds) + 1), stds, ".-", color=COLOURS[name], label=name)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.3)


if __name__ == "__main__":
    main()
