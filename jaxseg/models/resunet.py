"""Residual U-Net (Drozdzal, Vorontsov, Chartrand, Kadoury, Pal, 2016, arXiv:1608.04117).

Blocks are pre-activated (batch norm, ReLU, convolution). Stages halve the map in their first block
and double it, repeating pixels, in their last; the map at the bottom is reached and left by one
stage. Long skips are sums, after a 1×1 convolution where the channels differ. Structure and numbers
are those of the authors' code for the ISBI EM data, with 11 million parameters.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.pooling import max_pool_2x2
from jaxseg.models.settings import (
    Layers,
    Settings,
    Statistics,
    checked_settings,
    normalised_network,
)
from jaxseg.types import Network


class _Block(nn.Module):
    """A bottleneck 1×1, 3×3, 1×1 to four times the features, or a single 3×3 convolution."""

    features: int
    bottleneck: bool
    down: bool
    up: bool
    dropout: float

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        def pre(x: Array, i: int) -> Array:
            return nn.relu(layers.norm(x, f"norm{i}"))

        if self.bottleneck:
            stride = 2 if self.down else 1
            y = _conv(layers, self.features, 1, "conv1", stride)(pre(x, 1))
            y = _conv(layers, self.features, 3, "conv2")(pre(y, 2))
            # To repeat pixels before a 1×1 convolution, as in the paper, gives the same.
            y = _conv(layers, 4 * self.features, 1, "conv3")(pre(y, 3))
        else:
            y = pre(x, 1)
            y = max_pool_2x2(y) if self.down else y
            y = _conv(layers, self.features, 3, "conv1")(y)
        shortcut = x[:, ::2, ::2] if self.down else x
        if shortcut.shape[-1] != y.shape[-1]:
            shortcut = _conv(layers, y.shape[-1], 1, "shortcut")(shortcut)
        if self.up:
            y, shortcut = _repeat(y), _repeat(shortcut)
        return shortcut + layers.dropout(y, self.dropout, "dropout")


class _ResUNet(nn.Module):
    num_classes: int
    width: int
    depths: tuple[int, ...]
    pooled: int
    dropout: float
    settings: Settings

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], keys=None, *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w n"]:
        layers = Layers(self.settings, train, mask, axis_name, keys)
        middle = len(self.depths) // 2
        total = 2 ** (self.pooled + middle + 1)
        for side in x.shape[1:3]:
            if side % total:
                raise ValueError(f"side of {side} pixels: expected a multiple of {total}")

        def stage(x: Array, name: str, level: int, blocks: int, *, down: bool, up: bool) -> Array:
            for i in range(blocks):
                block = _Block(
                    self.width * 2 ** max(level, 0),
                    level >= 0,
                    down and i == 0,
                    up and i == blocks - 1,
                    self.dropout,
                    name=f"{name}_{i}",
                )
                x = block(x, layers)
            return x

        # Levels below 0 are the single convolutions with poolings.
        levels = range(-self.pooled, middle)
        x = _conv(layers, self.width, 3, "stem")(x)
        skips = [x]
        for level in levels:
            blocks = self.depths[level] if level >= 0 else 1
            x = stage(x, f"down{level + self.pooled}", level, blocks, down=True, up=False)
            skips.append(x)
        x = stage(x, "across", middle, self.depths[middle], down=True, up=True)
        for level in reversed(levels):
            name = f"up{level + self.pooled}"
            x = _long_skip(x, skips.pop(), layers, f"{name}_skip")
            blocks = self.depths[-1 - level] if level >= 0 else 1
            x = stage(x, name, level, blocks, down=False, up=True)
        x = _long_skip(x, skips.pop(), layers, "top_skip")
        x = nn.relu(layers.norm(x, "top_norm"))
        x = _conv(layers, self.width, 3, "top")(x)
        return _conv(layers, self.num_classes, 1, "head")(x)


def resunet(
    num_classes: int,
    *,
    width: int = 32,
    depths: tuple[int, ...] = (3, 8, 10, 3, 10, 8, 3),
    pooled: int = 2,
    dropout: float = 0.1,
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """Residual U-Net on images of any number of channels; logits `[B, H, W, num_classes]`.

    Sides must be multiples of 2^(pooled + stages down + 1), which is 64. A second input, random
    keys `[B]`, one for each example, turns on dropout.

    Args:
        num_classes: channels of the output (the paper's binary one has a single channel).
        width: channels of the first convolution; bottlenecks have 1, 2, 4, ... times it inside and
            four times that outside.
        depths: bottlenecks in each stage: down, across, up.
        pooled: blocks of a single convolution, with max pooling, around the bottlenecks.
        dropout: rate at the end of each block.
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range; when traced: a side is not such a multiple.
    """
    settings = checked_settings(momentum, batch_norm, dtype, num_classes=num_classes, width=width)
    if len(depths) % 2 == 0 or min(depths) < 1 or pooled < 0:
        raise ValueError(f"depths={depths}, pooled={pooled}: expected an odd number of 1 or more")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: expected 0 or more, less than 1")
    module = _ResUNet(num_classes, width, tuple(depths), pooled, dropout, settings)
    return normalised_network(module, settings)


def _conv(layers: Layers, features: int, size: int, name: str, stride: int = 1) -> nn.Conv:
    he = nn.initializers.he_normal()
    return layers.conv(features, size, stride=stride, use_bias=True, kernel_init=he, name=name)


def _long_skip(x: Array, skip: Array, layers: Layers, name: str) -> Array:
    if x.shape[-1] != skip.shape[-1]:
        x = _conv(layers, skip.shape[-1], 1, name)(x)
    return x + skip


def _repeat(x: Array) -> Array:
    """Doubles the sides; every pixel becomes four."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)
