"""Random numbers by name: what a session draws hangs on its own number, not on its neighbours.

Thousands of sessions run as one array operation, and agents are compared on the same chances. So a
random number must be a function of (seed, session, turn, purpose, position), and nothing else:
counter-based, as in Salmon et al. (2011); here by the mixing function of SplitMix64 (Steele et al.
2014).
"""

import zlib

import numpy as np
from scipy.special import ndtri


def uniforms(seed: int, purpose: str, keys: list[np.ndarray], n: int) -> np.ndarray:
    """Numbers in (0, 1), float64 `[B, n]`.

    `keys`: integers `[B]` or single ones, such as a session's number and its turn; two rows with
    the same keys get the same numbers, whatever stands beside them. `purpose`: any word; other
    words give independent numbers.
    """
    state = _mix(np.uint64(seed % 2**64) ^ np.uint64(zlib.crc32(purpose.encode())))
    for key in keys:
        state = _mix(state ^ np.asarray(key).astype(np.uint64))
    counters = np.arange(1, n + 1, dtype=np.uint64) * _STEP
    bits = _mix(np.atleast_1d(state)[:, None] + counters)
    return ((bits >> np.uint64(12)).astype(float) + 0.5) * 2.0**-52


def gumbels(seed: int, purpose: str, keys: list[np.ndarray], n: int) -> np.ndarray:
    """Standard Gumbel noise `[B, n]`: the argmax of it plus logits is a softmax choice."""
    return -np.log(-np.log(uniforms(seed, purpose, keys, n)))


def normals(seed: int, purpose: str, keys: list[np.ndarray], n: int) -> np.ndarray:
    """Standard normal numbers `[B, n]`."""
    return ndtri(uniforms(seed, purpose, keys, n))


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        x = x + _STEP
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
