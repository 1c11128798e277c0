"""Sums of products of two maps' pixels at every small displacement: three ways to one result.

J_t[c, d] = Σ_{n, u} x[n, u + t, c] · y[n, u, d] for |t| ≤ T in rows and columns; 0 outside of maps.
A batch is summed at once: that is what is wanted of it, and no map of products is ever held.

- "fft" multiplies spectra, which takes several times fewer operations than (2T + 1)² products of
  shifted maps (at T = 10 and 16 channels: 10 times for 64 x 64 pixels). The transforms are products
  with fixed matrices, not XLA's FFT. At that size they cost no more on a CPU, and of a batch that
  is sharded nothing is sent but the sums, where an FFT gathers the batch.
- "conv" is one convolution that has y for its kernel.
- "scan" goes through the displacements one by one, with the least memory.

The gradient with respect to either map is an ordinary convolution of the other one with the
(2T + 1) x (2T + 1) kernel dL/dJ. It is made anew from the maps alone; spectrally for "fft".
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Method = Literal["fft", "conv", "scan"]

_HIGHEST = jax.lax.Precision.HIGHEST
_einsum = functools.partial(jnp.einsum, precision=_HIGHEST)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def displaced_joints(
    x: Float[Array, "b h w c"], y: Float[Array, "b h w d"], displacement: int, method: Method
) -> Float[Array, "k k c d"]:
    """J_t for t from (-T, -T) to (T, T): k = 2T + 1 for T = `displacement`.

    Args:
        x: maps, of the type of `y`.
        y: maps of the same size.
        displacement: T, below height and width.
        method: one of those above.
    """
    return _WAYS[method](x, y, displacement)


def _forward(x, y, displacement, method):
    return displaced_joints(x, y, displacement, method), (x, y)


def _backward(displacement, method, maps, slope):
    x, y = maps
    if method == "fft":
        return jax.vjp(functools.partial(_by_spectra, displacement=displacement), x, y)[1](slope)
    turned = jnp.flip(slope, (0, 1)).swapaxes(2, 3)
    return _convolve(y, turned, displacement), _convolve(x, slope, displacement)


displaced_joints.defvjp(_forward, _backward)


def collapsed_joint(
    x: Float[Array, "b h w c"], y: Float[Array, "b h w d"], displacement: int
) -> Float[Array, "c d"]:
    """Σ_t J_t: y with the sum of x over a window, which needs no displacement apart."""
    for axis in (1, 2):
        window = tuple(2 * displacement + 1 if i == axis else 1 for i in range(4))
        padding = [(displacement, displacement) if i == axis else (0, 0) for i in range(4)]
        x = jax.lax.reduce_window(x, np.zeros((), x.dtype), jax.lax.add, window, (1,) * 4, padding)
    return _einsum("bhwc,bhwd->cd", x, y)


def _convolve(x, kernel, displacement):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding=[(displacement, displacement)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=_HIGHEST,
    )


def _by_convolution(x, y, displacement):
    return jax.lax.conv_general_dilated(
        x,
        y,
        window_strides=(1, 1),
        padding=[(displacement, displacement)] * 2,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
        precision=_HIGHEST,
    )


def _by_scan(x, y, displacement):
    side = 2 * displacement + 1
    around = ((0, 0), (displacement, displacement), (displacement, displacement), (0, 0))
    padded = jnp.pad(x, around)

    def one(t):
        start = (jnp.zeros_like(t), t // side, t % side, jnp.zeros_like(t))
        shifted = jax.lax.dynamic_slice(padded, start, x.shape)
        return _einsum("bhwc,bhwd->cd", shifted, y)

    joints = jax.lax.map(one, jnp.arange(side * side, dtype=jnp.int32))
    return joints.reshape(side, side, *joints.shape[1:])


def _by_spectra(x, y, displacement):
    # So many zeros are behind the maps that what goes round at their ends meets nothing.
    rows, cols = (size + displacement for size in x.shape[1:3])
    x, y = _spectrum(x, rows, cols), _spectrum(y, rows, cols)
    real, imaginary = y[:, :, :1], y[:, :, 1:]
    turned = jnp.concatenate([-imaginary, real], axis=2)
    # Σ_n x̂ ŷ*: its real part, then its imaginary part.
    cross = jnp.stack([_einsum("flpbc,flpbd->flcd", x, z) for z in (y, turned)], axis=2)
    steps = np.arange(-displacement, displacement + 1)
    frequencies = np.arange(cols // 2 + 1)
    back_rows = _rotation(np.arange(rows), steps, rows, 1)
    back_cols = _rotation(frequencies, steps, cols, 1)[:, :, 0]
    # Those left out are conjugates of others: these count twice.
    twice = np.where((frequencies == 0) | (2 * frequencies == cols), 1, 2) / (rows * cols)
    back_cols = back_cols * twice[:, None, None]
    some = _einsum("flqcd,lqpi->fpicd", cross, jnp.asarray(back_rows, x.dtype))
    return _einsum("fpicd,fpj->ijcd", some, jnp.asarray(back_cols, x.dtype))


def _spectrum(x: Float[Array, "b h w c"], rows: int, cols: int) -> Float[Array, "f l 2 b c"]:
    """Discrete Fourier transforms of maps that zeros extend to `rows` x `cols`.

    Real and imaginary parts at the frequencies f ≤ cols / 2 of columns and l of rows.
    """
    height, width = x.shape[1:3]
    across = _rotation(np.arange(width), np.arange(cols // 2 + 1), cols, -1)[:, 0]
    down = _rotation(np.arange(height), np.arange(rows), rows, -1)
    x = _einsum("bhwc,wqf->fhqbc", x, jnp.asarray(across, x.dtype))
    return _einsum("fhqbc,hqpl->flpbc", x, jnp.asarray(down, x.dtype))


def _rotation(a: np.ndarray, b: np.ndarray, size: int, sign: int) -> np.ndarray:
    """exp(sign · 2πi · a · b / size) as what it does to (real, imaginary): [a, from, to, b]."""
    angle = sign * 2 * np.pi / size * (a[:, None] * b[None] % size)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)


_WAYS = {"fft": _by_spectra, "conv": _by_convolution, "scan": _by_scan}
