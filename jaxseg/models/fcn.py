"""Fully convolutional networks (Long, Shelhamer, Darrell, CVPR 2015, arXiv:1411.4038).

As released: the first convolution pads by 100 pixels, so that images of any size have scores (an
option leaves that out); upsampling is bilinear and fixed, maps are cropped to where they lie over
each other, and scores start at 0. The released networks start from ImageNet weights and take BGR
from 0 to 255 less its mean; here a network takes what it is given.
"""

from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.convolution import GroupedConv
from jaxseg.models.network import network
from jaxseg.models.settings import Dropout, check_known, check_positive
from jaxseg.models.upsampling import fixed_bilinear
from jaxseg.models.vgg import VGG16
from jaxseg.types import Network

Stride = Literal[8, 16, 32]
Padding = Literal["margin", "same"]

_PADDING = 100
_AT_ONCE = {"pool4": 1e-2, "pool3": 1e-4}
"""What the skips are multiplied with if all is trained at once, for their scale."""


class _Scores(nn.Module):
    """The classifier as convolutions: fc6, fc7 and the scores."""

    num_classes: int
    hidden: int
    size: int
    padding: str
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Array, keys: Array | None) -> Array:
        for name, size in (("fc6", self.size), ("fc7", 1)):
            conv = nn.Conv(
                self.hidden,
                (size, size),
                padding=self.padding,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=name,
            )
            x = Dropout(0.5, name=f"{name}_dropout")(nn.relu(conv(x)), keys)
        return _score(self.num_classes, self.dtype, "score")(x)


class _FCN(nn.Module):
    num_classes: int
    stride: int
    at_once: bool
    padding: str
    width: int
    hidden: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], keys=None, *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w n"]:
        margin = self.padding == "margin"
        encoder = VGG16(
            self.width, padding=_PADDING if margin else 1, dtype=self.dtype, name="encoder"
        )
        *_, pool3, pool4, pool5 = encoder(x)
        scores = _Scores(
            self.num_classes, self.hidden, 7, "VALID" if margin else "SAME", self.dtype, name="fc"
        )
        y = scores(pool5, keys)
        # With the margin, node 0 of the scores lies over node `first` of the map, and over pixel
        # `first` at the end: from kernels, strides and padding. Without, the kernel alone reaches
        # beyond the map, by half a stride.
        for stride, name, pool, first in ((32, "pool4", pool4, 5), (16, "pool3", pool3, 9)):
            if stride == self.stride:
                break
            y = fixed_bilinear(y, 4, 2)
            if self.at_once:
                pool *= _AT_ONCE[name]
            skip = _score(self.num_classes, self.dtype, f"score_{name}")(pool)
            y = y + _window(skip, first, y) if margin else _window(y, 1, skip) + skip
        y = fixed_bilinear(y, 2 * self.stride, self.stride)
        first = {32: 19, 16: 27, 8: 31}[self.stride] if margin else self.stride // 2
        return _window(y, first, x)


class _AlexNet(nn.Module):
    """The five convolutions of Caffe's AlexNet; a width is 32 channels."""

    width: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        layers = ((3, 11, 1), (8, 5, 2), (12, 3, 1), (12, 3, 2), (8, 3, 2))
        for i, (factor, size, groups) in enumerate(layers, 1):
            conv = GroupedConv(
                factor * self.width,
                (size, size),
                groups=groups,
                strides=4 if i == 1 else 1,
                padding=_PADDING if i == 1 else size // 2,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=f"conv{i}",
            )
            x = nn.relu(conv(x))
            if i in (1, 2, 5):
                x = _max_pool_3x3(x)
            if i in (1, 2):
                x = local_response_norm(x)
        return x


class _FCNAlexNet(nn.Module):
    num_classes: int
    width: int
    hidden: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], keys=None, *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w n"]:
        y = _AlexNet(self.width, self.dtype, name="encoder")(x)
        scores = _Scores(self.num_classes, self.hidden, 6, "VALID", self.dtype, name="fc")
        return _window(fixed_bilinear(scores(y, keys), 63, 32), 18, x)


def fcn(
    num_classes: int,
    *,
    stride: Stride = 8,
    at_once: bool = False,
    padding: Padding = "margin",
    width: int = 64,
    hidden: int = 4096,
    dtype: DTypeLike | None = None,
) -> Network:
    """FCN-32s, 16s or 8s on VGG-16: an image of any size -> logits `[B, H, W, num_classes]`.

    A second input, random keys `[B]`, one for each example, turns on dropout (0.5 after fc6 and
    fc7).

    Args:
        num_classes: channels of the output.
        stride: of the finest map that is scored; 16 adds pool4, 8 also pool3.
        at_once: multiplies pool4 by 0.01 and pool3 by 0.0001, for training all scores from the
            start instead of stage by stage.
        padding: "margin": 100 pixels around the image, as released; "same": by convolutions' own
            reach, fc6's too, with the same parameters and, for an image of 240×180, a quarter of
            the pixels.
        width: channels of VGG's first block.
        hidden: channels of fc6 and fc7.
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    check_positive(num_classes=num_classes, width=width, hidden=hidden)
    check_known(get_args(Stride), stride=stride)
    check_known(get_args(Padding), padding=padding)
    return network(_FCN(num_classes, stride, at_once, padding, width, hidden, dtype))


def fcn_alexnet(
    num_classes: int, *, width: int = 32, hidden: int = 4096, dtype: DTypeLike | None = None
) -> Network:
    """FCN-32s on AlexNet; see `fcn`. AlexNet's layers have 3, 8, 12, 12 and 8 times `width`.

    Raises:
        ValueError: an option is out of range.
    """
    check_positive(num_classes=num_classes, width=width, hidden=hidden)
    if width % 2:
        raise ValueError(f"width={width}: two groups of channels want an even number")
    return network(_FCNAlexNet(num_classes, width, hidden, dtype))


def local_response_norm(
    x: Float[Array, "b h w c"], *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> Float[Array, "b h w c"]:
    """AlexNet's x / (1 + alpha / size · Σ x²)^beta, a sum over `size` neighbouring channels."""
    channels = x.shape[-1]
    squares = jnp.pad(x**2, ((0, 0), (0, 0), (0, 0), (size // 2, size // 2)))
    total = sum(squares[..., k : k + channels] for k in range(size))
    return x / (1 + alpha / size * total) ** beta


def _window(x: Array, first: int, like: Array) -> Array:
    """From row and column `first` on, a map of the size of another."""
    return x[:, first : first + like.shape[1], first : first + like.shape[2]]


def _score(num_classes: int, dtype: DTypeLike | None, name: str) -> nn.Conv:
    return nn.Conv(num_classes, (1, 1), kernel_init=nn.initializers.zeros, dtype=dtype, name=name)


def _max_pool_3x3(x: Array) -> Array:
    """3×3, stride 2, no padding; a last window that starts inside counts."""
    for axis in (1, 2):
        nodes = x.shape[axis] // 2
        rest = [(0, 0)] * 4
        rest[axis] = (0, max(2 * nodes + 1 - x.shape[axis], 0))
        padded = jnp.pad(x, rest, constant_values=-jnp.inf)
        taps = [padded[(slice(None),) * axis + (slice(k, k + 2 * nodes - 1, 2),)] for k in range(3)]
        x = jnp.maximum(jnp.maximum(taps[0], taps[1]), taps[2])
    return x
