import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from keras_fanwise.sampling.sampler import stream_key

seeds = st.integers(0, 2**64 - 1)


def test_keys_never_change():
    # A changed key is a changed draw for every user.
    assert stream_key(0) == 0xF5A269A2B886614C037ADAF569CB1401
    assert stream_key(1, "dense/kernel") == 0x180940EEA02E85406606CCBAF4890409
    assert stream_key([1, 0]) == 0x43FD3A004523BE6A17579C14B1B7FB63


@given(seeds, seeds, st.text(), st.text())
def test_different_seeds_or_weights_have_different_keys(seed, other, name, other_name):
    assert (stream_key(seed, name) == stream_key(other, other_name)) == (
        (seed, name) == (other, other_name)
    )


@given(seeds)
def test_a_state_is_not_a_seed(seed):
    assert len({stream_key(seed), stream_key([seed]), stream_key([seed, 0])}) == 3


def test_keys_fill_128_bits():
    keys = [stream_key(seed) for seed in range(2000)]
    bits = np.array([[key >> bit & 1 for bit in range(128)] for key in keys])
    # Five standard errors of a fair coin.
    assert np.all(np.abs(bits.mean(axis=0) - 0.5) < 5 * 0.5 / np.sqrt(len(keys)))
