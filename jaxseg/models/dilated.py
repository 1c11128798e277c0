"""The dilated front end and context module (Yu and Koltun, ICLR 2016, arXiv:1511.07122).

After the authors' code: VGG-16 without padding, without its last two poolings, dilated instead, on
an image that is continued by its mirror image; then the context module on the scores; then fixed
bilinear upsampling. The released networks take BGR from 0 to 255 less its mean; here a network
takes what it is given.
"""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.fcn import Padding
from jaxseg.models.network import network
from jaxseg.models.pooling import max_pool_2x2
from jaxseg.models.settings import Dropout, check_known, check_positive
from jaxseg.models.upsampling import fixed_bilinear
from jaxseg.types import Network

Context = Literal["none", "basic", "large"]

MARGIN = 186
"""Pixels by which each border of the image is continued."""
STRIDE = 8

_BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Channels, in widths, and convolutions of each block of VGG-16."""
_LARGE = (2, 2, 4, 8, 16, 32, 32)
"""Channels of the large context module's layers, in classes."""
_NOISE = 0.01


class _Convolutions(nn.Module):
    """VGG-16's, under torchvision's numbers."""

    width: int
    padding: str
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        place = 0
        for i, (factor, count) in enumerate(_BLOCKS):
            for _ in range(count):
                conv = nn.Conv(
                    factor * self.width,
                    (3, 3),
                    padding=self.padding,
                    kernel_dilation=2 if i == 4 else 1,
                    kernel_init=nn.initializers.he_normal(),
                    dtype=self.dtype,
                    name=f"{place}",
                )
                x = nn.relu(conv(x))
                place += 2  # torchvision counts the activations too.
            place += 1
            if i < 3:
                x = max_pool_2x2(x)
        return x


class ContextModule(nn.Module):
    """3×3 convolutions of growing dilation, that begin as the identity; see `context`."""

    num_classes: int
    factors: tuple[int, ...]
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w n"], *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w n"]:
        """Scores to scores."""
        count = len(self.factors)
        for i, factor in enumerate((*self.factors, 1)):
            dilation = 2 ** (i - 1) if 1 <= i < count - 1 else 1
            conv = nn.Conv(
                factor * self.num_classes,
                (3, 3) if i < count else (1, 1),
                padding=dilation if i < count else 0,
                kernel_dilation=dilation,
                kernel_init=identity(self.num_classes),
                dtype=self.dtype,
                name=f"conv{i + 1}",
            )
            x = conv(x) if i == count else nn.relu(conv(x))
        return x


class _Dilated(nn.Module):
    num_classes: int
    factors: tuple[int, ...]
    padding: str
    width: int
    hidden: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], keys=None, *, train=False, mask=None, axis_name=None
    ) -> Float[Array, "b h w n"]:
        height, width = x.shape[1:3]
        margin, padding = (MARGIN, "VALID") if self.padding == "margin" else (0, "SAME")
        pads = [(margin, margin + -n % STRIDE) for n in (height, width)]
        mode = "reflect" if min(height, width) > 1 else "edge"
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode=mode)
        x = _Convolutions(self.width, padding, self.dtype, name="features")(x)
        for name, size in (("fc6", 7), ("fc7", 1)):
            conv = nn.Conv(
                self.hidden,
                (size, size),
                padding=padding,
                kernel_dilation=4 if size > 1 else 1,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                name=name,
            )
            x = Dropout(0.5, name=f"{name}_dropout")(nn.relu(conv(x)), keys)
        final = nn.Conv(
            self.num_classes,
            (1, 1),
            kernel_init=nn.initializers.normal(1e-3),
            dtype=self.dtype,
            name="final",
        )
        y = final(x)
        if self.factors:
            y = ContextModule(self.num_classes, self.factors, self.dtype, name="context")(y)
        first = STRIDE // 2
        y = fixed_bilinear(y, 2 * STRIDE, STRIDE)
        return y[:, first : first + height, first : first + width]


def dilated(
    num_classes: int,
    *,
    context: Context = "basic",
    levels: int = 8,
    padding: Padding = "margin",
    width: int = 64,
    hidden: int = 4096,
    dtype: DTypeLike | None = None,
) -> Network:
    """The front end, and the context module if wanted: an image of any size -> logits of its size.

    A second input, random keys `[B]`, one for each example, turns on dropout (0.5 after fc6 and
    fc7).

    Args:
        num_classes: channels of the output.
        context: "none": the front end alone; otherwise see `context_module`.
        levels: see `context_module`.
        padding: "margin": the image is continued by 186 pixels on every side, as released; "same":
            by convolutions' own reach with zeros, with the same parameters and, for an image of
            160×120, a thirteenth of the pixels.
        width: channels of VGG's first block.
        hidden: channels of fc6 and fc7.
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    check_positive(num_classes=num_classes, width=width, hidden=hidden)
    check_known(get_args(Padding), padding=padding)
    factors = _factors(context, levels)
    return network(_Dilated(num_classes, factors, padding, width, hidden, dtype))


def context_module(
    num_classes: int,
    *,
    context: Context = "basic",
    levels: int = 8,
    dtype: DTypeLike | None = None,
) -> Network:
    """The context module alone: scores `[B, h, w, num_classes]` -> scores of the same shape.

    Args:
        num_classes: channels.
        context: "basic": as many channels in all layers; "large": up to 32 times as many.
        levels: layers of the basic module: 8 dilate by 1, 1, 2, 4, 8, 16 and 1 before a 1×1; each
            more doubles once more (the authors take 10 for Cityscapes).
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    factors = _factors(context, levels)
    if num_classes < 1 or not factors:
        raise ValueError(f"num_classes={num_classes}, context={context!r}: nothing to compute")
    return network(ContextModule(num_classes, factors, dtype))


def identity(num_classes: int, noise: float = _NOISE) -> nn.initializers.Initializer:
    """The paper's initialisation (its equations 4 and 5): every layer passes scores on.

    Channels come in `num_classes` runs, and each passes on the mean over its own run, so that a
    product of such layers is the identity where the first and the last have one channel a class.

    Args:
        num_classes: C of the paper.
        noise: standard deviation of what is not of the identity.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        height, width, before, after = shape
        kernel = noise * jax.random.normal(key, shape, dtype)
        classes = [jnp.arange(n) * num_classes // n for n in (before, after)]
        same = classes[0][:, None] == classes[1][None]
        center = jnp.where(same, num_classes / after, kernel[height // 2, width // 2])
        return kernel.at[height // 2, width // 2].set(center)

    return init


def _factors(context: Context, levels: int) -> tuple[int, ...]:
    check_known(get_args(Context), context=context)
    if levels < 4 or (context != "basic" and levels != 8):
        raise ValueError(f"levels={levels}: expected 4 or more, and 8 unless context is 'basic'")
    return {"none": (), "basic": (1,) * (levels - 1), "large": _LARGE}[context]
