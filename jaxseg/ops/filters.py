"""Fixed filters of images."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxseg.ops.color import at_least_float32


def sobel(image: Float[Array, "h w c"]) -> Float[Array, "h w d"]:
    """Differences along both axes by Sobel's 3×3 kernels, with zeros around the image.

    Not normalised, and of the sign that IIC's networks are given (Ji et al., ICCV 2019, the
    released code): dx is the pixels to the left less those to the right, dy those above less those
    below, each weighted 1, 2, 1 along the other axis.

    Args:
        image: of any number of channels; IIC takes one, grey in [0, 1].

    Returns:
        `[H, W, 2C]`, dx of all channels and then dy of all, each within four times the range of
        values, counted with 0; float32, or float64 if given so.
    """
    x = jnp.pad(at_least_float32(image), ((1, 1), (1, 1), (0, 0)))
    down = x[:-2] + 2 * x[1:-1] + x[2:]
    along = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    return jnp.concatenate([down[:, :-2] - down[:, 2:], along[:-2] - along[2:]], axis=-1)
