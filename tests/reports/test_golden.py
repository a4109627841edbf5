"""The whole text, long text and page of each report, of rows that are written here.

`python tests/reports/test_golden.py` writes the files anew.
"""

from pathlib import Path

import pytest

import keras_fanwise as kf
from keras_fanwise import Condition, Fans, Learning, Verdict
from keras_fanwise.reports.diagnosis import HistoryReport
from keras_fanwise.seam.weights import Role

FILES = Path(__file__).parent / "golden"
LONG = "net/a_block_with_a_name_that_no_column_of_a_table_holds/"


def paths(count):
    yield from (f"{LONG}depthwise/kernel", "net/red\x1b[31m/kernel", "net/<b>/bias")
    yield from (f"net/dense_{i}/kernel" for i in range(count - 3))


def shape(path):
    return (3, 3, 16) if "depth" in path else (4,) if "bias" in path else (4, 4)


def layer(path):
    return "DepthwiseConv2D" if "depth" in path else "Dense"


def role(path):
    return Role.BIAS if "bias" in path else Role.KERNEL


def fans(count):
    ratios = [(4.0 / i, 1.5) for i in range(1, count + 1)]
    rows = [
        kf.WeightFans(
            p, layer(p), shape(p), Fans(9 + i, 2.25), Fans(144, 2), *ratios[i - 1], role(p)
        )
        for i, p in enumerate(paths(count), 1)
    ]
    return kf.FansTable(rows, name="net")


def start(count):
    rows = [
        kf.WeightStart(
            p,
            layer(p),
            shape(p),
            Fans(4, 4),
            "FanwiseHeNormal()",
            0.5,
            0.4987,
            role=role(p),
        )
        if "bias" not in p
        else kf.WeightStart(p, layer(p), shape(p), Fans(4, 4), reason="no rule for it")
        for p in paths(count)
    ]
    lost = {"net/dense_0/kernel": "saved with the config of Own, which does not hold it"}
    return kf.StartReport(rows, 7, lost, 1e-7, name="net")


def calibration(count):
    rows = [
        kf.CalibratedWeight(p, layer(p), shape(p), 0.001234567, 810.0, 1.0, "scaled")
        if "depth" not in p
        else kf.CalibratedWeight(p, layer(p), shape(p), reason="all its values are zero")
        for p in paths(count)
    ]
    return kf.CalibrationReport(rows, name="net")


def residual(count):
    rows = [
        kf.ResidualBranch(f"add_{i}", layer(p), (p, "net/norm/gamma")[: i % 2 + 1], (p,), i)
        for i, p in enumerate(paths(count), 1)
    ]
    rows.append(kf.ResidualBranch("add", status="other", reason="both inputs have kernels"))
    rows.append(kf.ResidualBranch("odd", status="unopened", reason="it cannot be traced"))
    return kf.ResidualReport(rows, name="net")


def audit(count):
    found = {"depthwise": (Condition.SCALE,), "red": (Condition.GLOROT, Condition.BALANCE)}
    rows, findings = [], []
    for p in paths(count):
        kinds = next((kinds for word, kinds in found.items() if word in p), ())
        kinds = (Condition.SYMMETRY,) if p.endswith(("0/kernel", "1/kernel")) else kinds
        rows.append(
            kf.WeightAudit(
                p,
                layer(p),
                shape(p),
                Fans(9, 2.25),
                "HeNormal()",
                1e-5,
                0.5,
                None if "bias" in p else 0.4714,
                0.1179,
                0.1251,
                0.03126,
                kinds,
                role(p),
            )
        )
        for kind in kinds:
            level = {Condition.GLOROT: "note", Condition.BALANCE: "warning"}.get(
                kind, "error"
            )
            rest = ("Keras counts otherwise", kind.remedy, 0.25, "fanwise_he_normal")
            findings.append(kf.AuditFinding(p, kind, level, "std × 0.25", *rest))
    return kf.AuditReport(rows, findings=findings, ignored=findings[:1], name="net")


def signal(count):
    dead = {3: (Verdict.DEAD,), count - 1: (Verdict.NON_FINITE,)}
    rows = [
        kf.LayerSignal(
            p.rpartition("/")[0],
            1 + (i == 2),
            layer(p),
            i,
            (None, 4),
            4,
            -0.5,
            0.5**i,
            float(i == 3),
            None if i == 1 else 2.0**i,
            dead.get(i, ()),
        )
        for i, p in enumerate(paths(count), 1)
    ]
    first, last = rows[0].name, rows[-1].name
    forward = kf.Trend(0.5, count - 1, 0.5 ** (count - 1), 0.5, first, last, 0.005, 50.0)
    backward = kf.Trend(None, count - 1, 123.4, 1.0, last, first, 0.01, 100.0)
    numbers = "× 123 from the last to the first"
    findings = [
        kf.SignalFinding(verdict, "backward", level, rows[3].path, numbers, verdict.remedy)
        for verdict, level in ((Verdict.EXPLODING, "warning"), (Verdict.DEAD, "error"))
    ]
    return kf.SignalReport(rows, forward, backward, findings=findings, name="net")


def history(count):
    """As wide as numbers and labels get."""
    kinds = Learning.STARVED, Learning.SLOW
    small = (1.5e-18, None, 0.00012)
    rows = [
        kf.LayerHistory(
            p.rpartition("/")[0], 1, layer(p), i, small, small, (0.0, 0.5, 1.0), (), small,
            kinds[: i % 3],
        )
        for i, p in enumerate(paths(count), 1)
    ]  # fmt: skip
    findings = [
        kf.HistoryFinding(
            rows[0].path, 0, Learning.STARVED, "warning", "its kernel", "look"
        ),
        kf.HistoryFinding(
            rows[1].path, 1, Learning.SLOW, "note", "no kernel", "raise it", 1
        ),
        kf.HistoryFinding(rows[2].path, 1, Verdict.DEAD, "error", "all units", "look", 2),
    ]
    return HistoryReport(rows, (0, 1, 2), findings=findings, name="net")


REPORTS = {
    f"{make.__name__}_{count}": make(count)
    for make in (fans, start, calibration, residual, audit, signal, history)
    for count in (5, 21)
}


def golden(report):
    texts = report.text(), report.text(verbose=True), report._repr_html_()
    return "\n\n----\n\n".join(texts) + "\n"


@pytest.mark.parametrize("name", REPORTS)
def test_reports_are_as_they_were(name):
    assert golden(REPORTS[name]) == (FILES / f"{name}.txt").read_text("utf-8")


@pytest.mark.parametrize("name", REPORTS)
def test_reports_fit_80_columns(name):
    assert max(map(len, REPORTS[name].text().splitlines())) <= 80


if __name__ == "__main__":
    for name, report in REPORTS.items():
        (FILES / f"{name}.txt").write_text(golden(report), "utf-8")
