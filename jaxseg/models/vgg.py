"""VGG-16 (Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556), its thirteen convolutions.

Parameters have torchvision's names: `features.0.weight` is at features/0/kernel.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.network import network
from jaxseg.models.pooling import max_pool_2x2
from jaxseg.models.resnet import OUTPUT_STRIDES, Features
from jaxseg.models.settings import check_known, check_positive
from jaxseg.types import Network

BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Channels, in widths, and convolutions of each block."""


class _Convolutions(nn.Module):
    width: int
    padding: int
    output_stride: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Array) -> Features:
        maps = []
        place, reached, dilation = 0, 1, 1
        for factor, count in BLOCKS:
            for _ in range(count):
                conv = nn.Conv(
                    factor * self.width,
                    (3, 3),
                    padding=dilation if place else self.padding,
                    kernel_dilation=dilation,
                    kernel_init=nn.initializers.he_normal(),
                    dtype=self.dtype,
                    name=f"{place}",
                )
                x = nn.relu(conv(x))
                place += 2  # torchvision counts the activations too.
            place += 1
            if reached < self.output_stride:
                reached *= 2
                rest = [(0, n % 2) for n in x.shape[1:3]]
                x = max_pool_2x2(jnp.pad(x, ((0, 0), *rest, (0, 0)), constant_values=-jnp.inf))
            else:
                dilation *= 2
            maps.append(x)
        return tuple(maps)


class VGG16(nn.Module):
    """The trunk; see `vgg16`. `padding` is the first convolution's, of which FCN has 100."""

    width: int = 64
    padding: int = 1
    output_stride: int = 32
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> Features:
        """The maps after each of the five blocks and its pooling."""
        return _Convolutions(
            self.width, self.padding, self.output_stride, self.dtype, name="features"
        )(x)


def vgg16(*, width: int = 64, output_stride: int = 32, dtype: DTypeLike | None = None) -> Network:
    """VGG-16's trunk: an image of any size and number of channels -> `Features`.

    The maps have 1, 2, 4, 8 and 8 times `width` channels; sides are divided by the stride and
    rounded up, the last window of a pooling being smaller at an odd side (Caffe's rule).

    Args:
        width: channels of the first block.
        output_stride: 8, 16 or 32; poolings beyond it are left out, and the convolutions after them
            dilated (Yu and Koltun, ICLR 2016).
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    check_known(OUTPUT_STRIDES, output_stride=output_stride)
    check_positive(width=width)
    return network(VGG16(width, output_stride=output_stride, dtype=dtype))
