"""Colour: RGB to CIE Lab, integers to floats."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

_RGB_TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_D65 = np.array([0.95047, 1.0, 1.08883])


def to_float(image: Shaped[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Brings an image to floats: uint8 0..255 becomes float32 0..1; floats pass unchanged.

    Raises:
        ValueError: the image is of another type.
    """
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(f"image of type {image.dtype}: expected uint8 or a float")
    return image


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Widens half-precision floats to float32; float32 and float64 pass unchanged."""
    return x if jnp.finfo(x.dtype).bits >= 32 else x.astype(jnp.float32)


def rgb_to_lab(image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """Converts sRGB to CIE 1976 L*a*b* under D65, 2 degree observer (IEC 61966-2-1, CIE 15).

    Args:
        image: RGB in [0, 1]. Computed in float32, or in float64 if given so.

    Returns:
        L in [0, 100], a and b about -108..98. The gradient is finite everywhere.
    """
    shape = image.shape
    # Three long rows, and powers by exp and log: the compiler vectorises these.
    rgb = at_least_float32(image).reshape(-1, 3).T
    curved = rgb > 0.04045
    base = jnp.where(curved, (rgb + 0.055) / 1.055, 1)
    linear = jnp.where(curved, jnp.exp(2.4 * jnp.log(base)), rgb / 12.92)
    matrix = jnp.asarray(_RGB_TO_XYZ / _D65[:, None], rgb.dtype)
    xyz = jnp.matmul(matrix, linear, precision=jax.lax.Precision.HIGHEST)
    curved = xyz > 0.008856
    root = jnp.exp(jnp.log(jnp.where(curved, xyz, 1)) / 3)
    x, y, z = jnp.where(curved, root, 7.787 * xyz + 16 / 116)
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).reshape(shape)
