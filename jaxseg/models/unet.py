"""U-Net (Ronneberger, Fischer, Brox, MICCAI 2015, arXiv:1505.04597), the original and its heirs.

Deviation: no dropout at the end of the contracting path; the paper gives no rate, and the ports
that are in use leave it out.
"""

from typing import Literal, NamedTuple, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.pooling import max_pool_2x2
from jaxseg.models.settings import (
    SCORES,
    Layers,
    Settings,
    Statistics,
    check_known,
    checked_settings,
    normalised_network,
)
from jaxseg.models.superpixel_pool import SuperpixelPool
from jaxseg.models.trunk import TRUNK_OPTIONS, Trunk, TrunkOption
from jaxseg.models.upsampling import ConvTranspose2x2, upsample_bilinear_2x
from jaxseg.types import Network

Padding = Literal["same", "valid", "mirror"]
Upsampling = Literal["transposed", "bilinear"]


class Superpixels(NamedTuple):
    """A `SuperpixelPool` inside the network; it then takes a second input, the guide."""

    number: int
    """Wanted in an image."""
    num_iters: int = 5
    num_learned: int = 0
    """Channels of features beside the guide."""
    level: int = 0
    """Where: after the decoder's block at 1 / 2^level of the input's size."""


class _Block(nn.Module):
    """Twice 3×3 convolution and ReLU, with batch norm between if wanted."""

    middle: int
    features: int
    padding: str
    normalise: bool

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        for i, features in enumerate((self.middle, self.features), 1):
            conv = layers.conv(
                features,
                3,
                padding=self.padding,
                use_bias=not self.normalise,
                kernel_init=nn.initializers.he_normal(),
                name=f"conv{i}",
            )
            x = conv(x)
            x = nn.relu(layers.norm(x, f"norm{i}") if self.normalise else x)
        return x


class _UNet(nn.Module):
    num_classes: int
    width: int
    depth: int
    padding: Padding
    upsampling: Upsampling
    normalise: bool
    superpixels: Superpixels | None
    settings: Settings
    trunk: TrunkOption

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        guide: Float[Array, "b h w k"] | None = None,
        *,
        train=False,
        mask=None,
        axis_name=None,
    ) -> Float[Array, "b oh ow n"] | Trunk:
        if (guide is None) != (self.superpixels is None):
            raise ValueError("a U-Net takes a guide if and only if it has superpixels")
        size = (x.shape[1], x.shape[2])
        if self.padding == "mirror":
            margin = 6 * 2**self.depth - 4
            whole = [valid_input_size(n, self.depth) for n in size]
            pad = [(margin, w - n - margin) for w, n in zip(whole, size, strict=True)]
            x = jnp.pad(x, ((0, 0), *pad, (0, 0)), mode="reflect" if min(size) > 1 else "edge")
        self._check_size(x)
        layers = Layers(self.settings, train, mask, axis_name)
        dtype = self.settings.dtype

        def block(x, features, name, middle=None):
            padding = "SAME" if self.padding == "same" else "VALID"
            made = _Block(middle or features, features, padding, self.normalise, name=name)
            return made(x, layers)

        bilinear = self.upsampling == "bilinear"
        skips = []
        for level in range(self.depth):
            x = block(x, self.width * 2**level, f"down{level}")
            skips.append(x)
            x = max_pool_2x2(x)
        # Bilinear upsampling keeps the channels, so each block gives half as many.
        x = bottom = block(x, self.width * 2**self.depth // (1 + bilinear), f"down{self.depth}")
        for level in reversed(range(self.depth)):
            features = self.width * 2**level
            if bilinear:
                x = upsample_bilinear_2x(x)
            else:
                up = ConvTranspose2x2(
                    features,
                    kernel_init=nn.initializers.he_normal(),
                    dtype=dtype,
                    name=f"rise{level}",
                )
                x = up(x)
            x = jnp.concatenate([_crop(skips[level], x.shape[1], x.shape[2]), x], axis=-1)
            last = features // 2 if bilinear and level else features
            x = block(x, last, f"up{level}", middle=features)
            if guide is not None and self.superpixels is not None:
                number, num_iters, num_learned, place = self.superpixels
                if level == place:
                    layer = SuperpixelPool(
                        number, num_iters, num_learned, dtype, name="superpixels"
                    )
                    x = layer(x, guide)
        maps = (*skips, bottom)
        if self.trunk is True:
            return Trunk(x, maps)
        logits = layers.conv(self.num_classes, use_bias=True, kernel_init=SCORES, name="head")(x)
        if self.trunk:
            return Trunk(x, maps, logits)
        return logits[:, : size[0], : size[1]] if self.padding == "mirror" else logits

    def _check_size(self, x) -> None:
        for n in x.shape[1:3]:
            if self.padding == "same" and n % 2**self.depth:
                raise ValueError(f"side of {n} pixels: expected a multiple of {2**self.depth}")
            near = valid_input_size(max(n - _lost(self.depth), 1), self.depth)
            if self.padding != "same" and n != near:
                raise ValueError(f"side of {n} pixels: valid convolutions want {near}")


def unet(
    num_classes: int,
    *,
    width: int = 64,
    depth: int = 4,
    padding: Padding = "same",
    upsampling: Upsampling = "transposed",
    batch_norm: Statistics | bool = "running",
    momentum: float = 0.9,
    superpixels: Superpixels | None = None,
    dtype: DTypeLike | None = None,
    trunk: TrunkOption = False,
) -> Network:
    """U-Net on images of any number of channels; logits `[B, H, W, num_classes]`.

    The paper's is `unet(2, padding="valid", batch_norm=False)`. With batch norm the convolutions
    have no bias. Skips are cropped and come first in the concatenation.

    Args:
        num_classes: channels of the output.
        width: channels of the first block; each level down has twice as many.
        depth: how often the map is halved.
        padding: "same": zeros, and the sides must be multiples of 2^depth; "valid": none, and the
            output is smaller than the input by 12·2^depth - 8 (see `valid_input_size`); "mirror":
            valid on an image that is continued by its mirror image, the paper's overlap-tile
            strategy, for any size.
        upsampling: "transposed" convolution 2×2, or "bilinear", where decoder blocks narrow to half
            the channels before the next upsampling.
        batch_norm: what evaluation normalises with after every 3×3 convolution; False: there is no
            batch norm; True is "running".
        momentum: of the running statistics.
        superpixels: adds a `SuperpixelPool`; needs padding "same".
        dtype: of the computation; None: that of the parameters.
        trunk: whether it gives a `models.trunk.Trunk`, of the image's size, "scored" for one with
            the logits; needs padding "same".

    Raises:
        ValueError: an option is out of range; when traced: a size that the padding does not allow.
    """
    settings = checked_settings(
        momentum,
        "running" if isinstance(batch_norm, bool) else batch_norm,
        dtype,
        num_classes=num_classes,
        width=width,
        depth=depth,
    )
    check_known(get_args(Padding), padding=padding)
    check_known(TRUNK_OPTIONS, trunk=trunk)
    check_known(get_args(Upsampling), upsampling=upsampling)
    if upsampling == "bilinear" and width % 2:
        raise ValueError(f"width={width}: bilinear upsampling halves channels, give an even number")
    if superpixels is not None:
        if padding != "same":
            raise ValueError(f"padding={padding!r} with superpixels: expected 'same'")
        if not 0 <= superpixels.level < depth:
            raise ValueError(f"superpixels.level={superpixels.level}: expected 0 to {depth - 1}")
    if trunk and padding != "same":
        raise ValueError(f"padding={padding!r} of a trunk: expected 'same'")
    normalise = batch_norm is not False
    module = _UNet(
        num_classes, width, depth, padding, upsampling, normalise, superpixels, settings, trunk
    )
    return normalised_network(module, settings)


def valid_input_size(size: int, depth: int = 4) -> int:
    """The smallest side that valid convolutions bring to `size` pixels or more.

    Sides that are halved evenly at every level are 2^depth · n + 4 (2^depth - 1), n being that of
    the coarsest map, and give 2^depth · n - 8·2^depth + 4: 572 gives 388 at depth 4.
    """
    factor = 2**depth
    coarsest = -(-(size + 8 * factor - 4) // factor)
    return factor * coarsest + 4 * (factor - 1)


def _lost(depth: int) -> int:
    return 12 * 2**depth - 8


def _crop(x: Array, height: int, width: int) -> Array:
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]
