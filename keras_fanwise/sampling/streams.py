"""From a seed and the name of a weight to a 128-bit stream key."""

import hashlib
from collections.abc import Sequence

# Enters every key: another value is another set of draws.
_VERSION = b"keras_fanwise 1"


def stream_key(seed: int | Sequence[int], weight_key: str = "") -> int:
    """The key of the random stream that fills one weight.

    The key is BLAKE2b (RFC 7693) of the seed and the weight key, so that streams
    of neighbouring seeds or of similar names have nothing to do with each other.

    Args:
        seed: an integer seed, or the integers of a generator's state. The two
            never give the same key.
        weight_key: the name of the weight, `""` outside a layer.

    Returns:
        An integer from 0 to 2**128 - 1.

    Example:

    >>> stream_key(1) == stream_key(1), stream_key(1) == stream_key(1, "kernel")
    (True, False)
    """
    text = f"seed {seed}" if isinstance(seed, int) else f"state {list(map(int, seed))}"
    message = f"{text}\0{weight_key}".encode()
    digest = hashlib.blake2b(message, digest_size=16, person=_VERSION).digest()
    return int.from_bytes(digest, "little")
