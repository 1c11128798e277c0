"""Decoded arrays kept in memory, up to a number of bytes."""

import threading
from collections.abc import Callable, Hashable

import numpy as np


def narrow(labels: np.ndarray) -> np.ndarray:
    """The same integers in the narrowest unsigned type, where they are not negative."""
    if labels.min(initial=0) < 0:
        return labels
    return labels.astype(np.min_scalar_type(int(labels.max(initial=0))), copy=False)


class DecodeCache:
    """Keeps what was decoded first until `max_bytes` are reached, and nothing after that.

    Nothing is thrown out: with the order of a shuffled epoch, what was used last is used next last,
    so that replacing would miss more often. The arrays are read-only, for they are shared. Safe
    to use from several threads.
    """

    def __init__(self, max_bytes: int):
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}; expected 0 (keep nothing) or more")
        self._free = max_bytes
        self._kept: dict[Hashable, np.ndarray] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The array kept under `key`, or that of `decode()`, kept if there is room."""
        if (kept := self._kept.get(key)) is not None:
            return kept
        array = decode()
        array.setflags(write=False)
        with self._lock:
            if key not in self._kept and array.nbytes <= self._free:
                self._kept[key] = array
                self._free -= array.nbytes
        return array
