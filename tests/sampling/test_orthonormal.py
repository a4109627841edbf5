"""Orthonormal columns: exact products, equal bits, Haar's measure."""

import fractions
import hashlib
import json

import mpmath
import numpy as np
import pytest
import scipy.linalg
from scipy import stats

from keras_fanwise.sampling import orthonormal as module
from keras_fanwise.sampling.orthonormal import orthonormal
from keras_fanwise.sampling.sampler import Stream

from support.processes import run_python

# Beside the largest that is asked for: ragged panels and blocks, one column, one row.
SHAPES = [(1, 1), (2, 2), (64, 64), (65, 65), (130, 67), (200, 1), (256, 256), (3, 40, 7)]
GOLDEN = {
    (1, 1): "21e70d53c58f305a",
    (2, 2): "fdd54c65fd34897a",
    (64, 64): "c4a001f3138123ac",
    (65, 65): "7d83ec4741d38528",
    (130, 67): "9730fcf1bed30ea8",
    (200, 1): "07889322411eccf9",
    (256, 256): "18c09bfbf7d7a34d",
    (3, 40, 7): "6d52f4ac390cf7e6",
}


def normals(shape, key=7):
    return Stream(key).draw("untruncated_normal", shape, "float64")


def sha(values):
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def distance(q):
    """max |QᵀQ − I|, in float64."""
    q = q.astype(np.float64)
    return np.abs(np.swapaxes(q, -1, -2) @ q - np.eye(q.shape[-1])).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bits_never_change(shape):
    assert sha(orthonormal(normals(shape))) == GOLDEN[shape]


@pytest.mark.parametrize("shape", [*SHAPES, (1000, 130), (9, 0), (0, 9, 3)])
def test_columns_are_orthonormal(shape):
    q = orthonormal(normals(shape))
    assert q.shape == shape
    if q.size:
        assert distance(q) < 1e-12
        # Of columns that float32 rounds, by no more than half a unit in the last place.
        assert distance(q.astype(np.float32)) < 2.0**-23


@pytest.mark.few(2)
@pytest.mark.parametrize("shape", [(128, 128), (512, 512), (1024, 256), (4608, 512)])
def test_large_matrices_in_both_types(shape):
    q = orthonormal(normals(shape))
    assert distance(q) < 1e-12
    assert distance(q.astype(np.float32)) < 3e-8
    # LAPACK's, in float32.
    lapack, _ = scipy.linalg.qr(normals(shape).astype(np.float32), mode="economic")
    assert distance(lapack) > 1e-7


def reflections(x):
    """The product of the exact reflections of the columns, to 50 digits."""
    rows, columns = x.shape
    with mpmath.workdps(50):
        q = mpmath.eye(rows)
        for place in range(columns):
            v = mpmath.zeros(rows, 1)
            for row in range(place, rows):
                v[row] = mpmath.mpf(float(x[row, place]))
            sign = mpmath.sign(v[place])
            v[place] += sign * mpmath.norm(v)
            square = (v.T * v)[0]
            q = q - (q * v) * (v.T * (2 / square))
            q[:, place] *= -sign
        # Later reflections leave columns before their own alone.
        return np.array(q[:, :columns].tolist(), dtype=np.float64)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (5, 3), (12, 12)])
def test_small_matrices_are_the_exact_products(shape):
    x = normals(shape, key=3)
    # Reflectors are rounded to 24 bits.
    np.testing.assert_allclose(orthonormal(x), reflections(x), rtol=0, atol=2e-6)


def test_another_matrix_is_not_its_product():
    x = normals((5, 3), key=3)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(orthonormal(x), reflections(x[::-1]), rtol=0, atol=2e-6)


def exact(one, other):
    """A matrix product in Python's fractions, each sum rounded once."""
    one, other = (
        [[fractions.Fraction(float(v)) for v in row] for row in m] for m in (one, other)
    )
    columns = list(zip(*other, strict=True))
    return np.array(
        [[float(sum(map(lambda a, b: a * b, row, column))) for column in columns] for row in one]
    )  # fmt: skip


def checked_products(monkeypatch):
    """From now on each product is compared with the exact one, of some rows and columns."""
    count = 0

    def product(one, other):
        nonlocal count
        result = np.matmul(one, other)
        for a, b, c in zip(one, other, result, strict=True):
            rows, columns = (slice(None, None, max(1, n // 3)) for n in c.shape)
            np.testing.assert_array_equal(c[rows, columns], exact(a[rows], b[:, columns]))
            count += 1
        return result

    monkeypatch.setattr(module, "_product", product)
    return lambda: count


@pytest.mark.parametrize("shape", [(4, 4), (70, 70), (2, 90, 66)])
def test_products_are_exact(shape, monkeypatch):
    count = checked_products(monkeypatch)
    orthonormal(normals(shape))
    assert count() >= 3


@pytest.mark.parametrize("name", ["_REFLECTOR_BITS", "_COLUMN_BITS", "_STEP_BITS"])
def test_finer_grids_are_not_exact(name, monkeypatch):
    monkeypatch.setattr(module, name, getattr(module, name) + 10)
    checked_products(monkeypatch)
    with pytest.raises(AssertionError):
        orthonormal(normals((130, 130)))


def backwards(one, other):
    """A matrix product that sums in another order, one product at a time."""
    result = np.zeros((*one.shape[:-1], other.shape[-1]))
    for place in reversed(range(one.shape[-1])):
        result += one[..., place, None] * other[..., place, None, :]
    return result


def test_the_order_of_summation_does_not_matter(monkeypatch):
    x = normals((330, 140))
    expected = orthonormal(x)
    monkeypatch.setattr(module, "_product", backwards)
    assert np.array_equal(orthonormal(x), expected)
    # A planted fault: floating-point products, whose sums round.
    monkeypatch.setattr(module, "_on_grid", lambda values, bits, out=None: values)
    other = orthonormal(x)
    monkeypatch.setattr(module, "_product", np.matmul)
    assert not np.array_equal(orthonormal(x), other)


def test_steps_have_room_for_the_worst_case():
    """Of a vector and of steps that all point along one axis."""
    v = np.zeros((1, 128, module._PANEL))
    v[:, 0] = 1.0 - 2.0**-module._REFLECTOR_BITS
    steps = np.full((1, module._PANEL, 2), 2.0 - 2.0**-40)
    coarse = module._on_grid(steps, module._STEP_BITS)
    for part in (coarse, module._on_grid(steps - coarse, module._STEP_REST_BITS)):
        assert np.array_equal(np.matmul(v, part)[0, :1], exact(v[0, :1], part[0]))


def test_a_short_vector_of_almost_nothing_has_a_sign():
    for sign in (1.0, -1.0):
        assert orthonormal(np.array([[sign * 1e-9]])) == -sign


HASHES = """
import hashlib, json
from keras_fanwise.sampling.orthonormal import orthonormal
from keras_fanwise.sampling.sampler import Stream
hashes = []
for shape in ((65, 65), (130, 67), (256, 256), (300, 300), (3, 40, 7)):
    q = orthonormal(Stream(7).draw("untruncated_normal", shape, "float64"))
    hashes.append(hashlib.sha256(q.tobytes()).hexdigest())
print(json.dumps(hashes))
"""


@pytest.fixture(scope="module")
def as_it_is():
    return run_python(HASHES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("core", "threads"),
    [("Prescott", "1"), ("Nehalem", "2"), ("Haswell", "2"), ("Zen", "1")],
)
def test_same_bits_whatever_the_library(core, threads, as_it_is, monkeypatch):
    assert len(set(json.loads(as_it_is))) == 5
    monkeypatch.setenv("OPENBLAS_CORETYPE", core)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    monkeypatch.setenv("KERAS_FANWISE_THREADS", threads)
    assert run_python(HASHES) == as_it_is


# Haar's measure. Its invariance gives every distribution below.


@pytest.fixture(scope="module")
def group():
    """Matrices of 8 × 8."""
    return orthonormal(normals((6000, 8, 8), key=11))


def haar_marginal(n):
    """(1 + an element) / 2 of a unit vector of n elements, uniform on the sphere."""
    return stats.beta((n - 1) / 2, (n - 1) / 2).cdf


@pytest.mark.parametrize("place", [(0, 0), (3, 5), (7, 7), (7, 0)])
def test_entries(group, place):
    entries = (1 + group[:, place[0], place[1]]) / 2
    assert stats.kstest(entries, haar_marginal(8)).pvalue > 1e-3
    assert stats.kstest(entries, haar_marginal(12)).pvalue < 1e-3  # a planted fault


def test_traces_have_the_moments_of_a_normal(group):
    """E tr² = 1 and E tr⁴ = 3 for n = 8 (Diaconis and Evans 2001)."""
    traces = np.trace(group, axis1=1, axis2=2)
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 105 - 9)):
        error = (traces**power).mean() - expected
        assert abs(error) < 4 * np.sqrt(variance / len(traces))
    # Without the signs of R the trace of Householder's QR is shifted.
    lapack = np.linalg.qr(np.random.default_rng(0).standard_normal((6000, 8, 8))).Q
    assert abs(np.trace(lapack, axis1=1, axis2=2).mean()) > 1


def test_eigenvalues_are_those_of_an_independent_route(group):
    """By a polar decomposition, which is invariant from both sides."""
    normal = np.random.default_rng(1).standard_normal((6000, 8, 8))
    u, _, v = np.linalg.svd(normal)

    def phases(matrices):
        return np.abs(np.angle(np.linalg.eigvals(matrices)[:, 0]))

    assert stats.ks_2samp(phases(group), phases(u @ v)).pvalue > 1e-3
    q = np.linalg.qr(normal).Q  # no sign fix
    traces = [np.trace(each, axis1=1, axis2=2) for each in (group, u @ v, q)]
    assert stats.ks_2samp(traces[0], traces[1]).pvalue > 1e-3
    assert stats.ks_2samp(traces[0], traces[2]).pvalue < 1e-3


def test_determinants_are_balanced(group):
    positive = np.count_nonzero(np.linalg.det(group) > 0)
    assert abs(positive - 3000) < 4 * np.sqrt(6000 / 4)


def test_small_groups():
    """O(1) is two signs; of O(2) the angle of the first column is uniform."""
    signs = orthonormal(normals((4000, 1, 1)))
    np.testing.assert_allclose(np.abs(signs), 1.0, rtol=0, atol=1e-13)
    assert abs(signs.sum()) < 4 * np.sqrt(4000)
    first = orthonormal(normals((4000, 2, 2), key=5))[:, :, 0]
    angles = np.arctan2(first[:, 1], first[:, 0])
    assert stats.kstest(angles, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
