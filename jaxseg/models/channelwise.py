"""The sum over taps that a depthwise convolution is, with a gradient that a CPU is fast at."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def channelwise(
    x: Array, taps: Array, strides: tuple[int, int], dilation: tuple[int, int]
) -> Array:
    """`[b, h, w, c]` and `[kh, kw, c]`, without padding.

    The gradient is written out, since that of the slices has a pad for each tap, and XLA computes
    what comes from above anew for each of them.
    """
    spans = _spans(x, taps, strides, dilation)
    total = jnp.zeros((), x.dtype)
    for i, j in np.ndindex(*taps.shape[:2]):
        part = x
        for axis, tap in enumerate((i * dilation[0], j * dilation[1])):
            span = spans[axis]
            part = jax.lax.slice_in_dim(part, tap, tap + span, strides[axis], axis + 1)
        total += part * taps[i, j].reshape(1, 1, 1, -1)
    return total


def _spans(
    x: Array, taps: Array, strides: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    """The rows and the columns from the first that a tap sees to the last."""
    rows, cols = (
        (n - (k - 1) * d - 1) // s * s + 1
        for n, k, d, s in zip(x.shape[1:3], taps.shape[:2], dilation, strides, strict=True)
    )
    return rows, cols


def _forward(x, taps, strides, dilation):
    return channelwise(x, taps, strides, dilation), (x, taps)


def _backward(strides, dilation, saved, gradient):
    x, taps = saved
    channels = x.shape[-1]
    spans = _spans(x, taps, strides, dilation)
    ends = [
        ((k - 1) * d, n - span)
        for n, k, d, span in zip(x.shape[1:3], taps.shape[:2], dilation, spans, strict=True)
    ]
    config = [(0, 0, 0), *((*e, s - 1) for e, s in zip(ends, strides, strict=True)), (0, 0, 0)]
    spread = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), config)
    to_x = channelwise(spread, taps[::-1, ::-1], (1, 1), dilation)
    # A loop, so that `gradient` exists before it; products, since XLA's reductions are slow.
    ones = jnp.ones((1, gradient.size // channels), x.dtype)

    def to_tap(place: Array) -> Array:
        start = (0, place[0] * dilation[0], place[1] * dilation[1], 0)
        part = jax.lax.dynamic_slice(x, start, (x.shape[0], *spans, channels))
        part = part[:, :: strides[0], :: strides[1]]
        return (ones @ (part * gradient).reshape(-1, channels))[0]

    places = np.stack(np.meshgrid(*map(np.arange, taps.shape[:2]), indexing="ij"), -1)
    to_taps = jax.lax.map(to_tap, jnp.asarray(places.reshape(-1, 2), jnp.int32))
    return to_x, to_taps.reshape(taps.shape)


channelwise.defvjp(_forward, _backward)
