"""ResNet (He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385), and what its relatives share.

Blocks are post-activated and stride in their 3×3 convolution, as in torchvision, whose names the
parameters have: `layer1.0.conv1.weight` is at layer1/0/conv1/kernel.
"""

import zlib
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.layers import BatchNorm, max_pool_3x3
from jaxseg.models.network import network
from jaxseg.types import Network

Statistics = Literal["running", "batch"]
Features = tuple[Array, ...]
"""Five maps, at strides 2, 4, 8, 16 and 32, but none coarser than the encoder's output stride."""

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks in each stage, by depth; from 50 on they are bottlenecks."""

HE_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He's initialisation by the number of outputs, that of torchvision."""


class Settings(NamedTuple):
    """How all layers of a network compute."""

    momentum: float = 0.9
    """Of the running statistics."""
    batch_norm: Statistics = "running"
    """What evaluation normalises with: the running statistics, or those of its own batch."""
    dtype: DTypeLike | None = None
    """Of the computation; None: that of the parameters."""


class Layers(NamedTuple):
    """Makes the layers of one call of a network."""

    settings: Settings
    train: bool
    mask: Array | None
    """`[B]`, which examples count in batch statistics."""
    axis_name: str | None
    keys: Array | None = None
    """`[B]` random keys, one for each example; None: no dropout."""

    def conv(
        self,
        features: int,
        size: int = 1,
        *,
        name: str,
        stride: int = 1,
        dilation: int = 1,
        use_bias: bool = False,
        kernel_init: nn.initializers.Initializer = HE_OUT,
    ) -> nn.Conv:
        """A convolution that keeps the size, or divides it by `stride` and rounds up."""
        return nn.Conv(
            features,
            (size, size),
            strides=stride,
            padding=dilation * (size // 2),
            kernel_dilation=dilation,
            use_bias=use_bias,
            kernel_init=kernel_init,
            dtype=self.settings.dtype,
            conv_general_dilated=_convolve,
            name=name,
        )

    def norm(self, x: Array, name: str) -> Array:
        """Batch normalisation."""
        layer = BatchNorm(self.settings.momentum, dtype=self.settings.dtype, name=name)
        own = self.train or self.settings.batch_norm == "batch"
        return layer(x, train=own, mask=self.mask, axis_name=self.axis_name)

    def dropout(self, x: Array, rate: float, name: str, *, channels: bool = False) -> Array:
        """Sets a part `rate` of x, or of its channels, to 0, drawn for each example by its key."""
        return Dropout(rate, channels, name=name)(x, self.keys)


class Dropout(nn.Module):
    """Dropout whose draws depend on the example's key and the layer's place alone."""

    rate: float
    channels: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], keys: Array | None) -> Float[Array, "b h w c"]:
        """Drops; the identity where `keys` is None."""
        if keys is None:
            return x
        place = zlib.crc32("/".join(self.path).encode())
        shape = (1, 1, x.shape[-1]) if self.channels else x.shape[1:]

        def draw(key: Array) -> Array:
            return jax.random.bernoulli(jax.random.fold_in(key, place), 1 - self.rate, shape)

        return jnp.where(jax.vmap(draw)(keys), x / (1 - self.rate), jnp.zeros((), x.dtype))


def normalised_network(module: nn.Module, settings: Settings) -> Network:
    """`network(module)`, where a call outside of training may use its batch's statistics."""
    made = network(module)
    if settings.batch_norm == "running":
        return made

    def apply(variables: Any, /, *inputs: Array, train: bool = False, **options: Any) -> Any:
        outputs, changed = module.apply(
            variables,
            *inputs,
            train=train,
            **{"mask": None, "axis_name": None, **options},
            mutable=["batch_stats"],
        )
        return outputs, changed["batch_stats"] if train else variables["batch_stats"]

    return made._replace(apply=apply)


def checked_settings(
    momentum: float, batch_norm: Statistics, dtype: DTypeLike | None, **numbers: int | float
) -> Settings:
    """The settings, once they and the constructor's other numbers are found to be in range.

    Raises:
        ValueError: a number is not positive, or `batch_norm` is unknown.
    """
    for name, value in numbers.items():
        if value <= 0:
            raise ValueError(f"{name}={value}: expected more than 0")
    if batch_norm not in get_args(Statistics):
        raise ValueError(f"batch_norm={batch_norm!r}: expected one of {get_args(Statistics)}")
    return Settings(momentum, batch_norm, dtype)


def check_output_stride(output_stride: int, known: tuple[int, ...] = (8, 16, 32)) -> None:
    """Raises ValueError for an output stride that is not known."""
    if output_stride not in known:
        raise ValueError(f"output_stride={output_stride}: expected one of {known}")


class _Downsample(nn.Module):
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        return layers.norm(layers.conv(self.features, stride=self.stride, name="0")(x), "1")


class _Block(nn.Module):
    """Two 3×3 convolutions, or a 3×3 between two 1×1, and the shortcut."""

    width: int
    bottleneck: bool
    stride: int
    dilation: int

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        last = self.width * (4 if self.bottleneck else 1)
        sizes = (1, 3, 1) if self.bottleneck else (3, 3)
        y = x
        for i, size in enumerate(sizes, 1):
            conv = layers.conv(
                last if i == len(sizes) else self.width,
                size,
                stride=self.stride if i == sizes.index(3) + 1 else 1,
                dilation=self.dilation if size == 3 else 1,
                name=f"conv{i}",
            )
            y = layers.norm(conv(nn.relu(y) if i > 1 else y), f"bn{i}")
        if self.stride > 1 or x.shape[-1] != last:
            x = _Downsample(last, self.stride, name="downsample")(x, layers)
        return nn.relu(x + y)


class _Stage(nn.Module):
    width: int
    bottleneck: bool
    stride: int
    dilations: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, layers: Layers) -> Array:
        for i, dilation in enumerate(self.dilations):
            stride = self.stride if i == 0 else 1
            x = _Block(self.width, self.bottleneck, stride, dilation, name=f"{i}")(x, layers)
        return x


class ResNet(nn.Module):
    """The trunk; see `resnet`."""

    depth: int
    width: int = 64
    output_stride: int = 32
    deep_stem: bool = False
    multi_grid: tuple[int, int, int] = (1, 1, 1)
    settings: Settings = Settings()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train=False, mask=None, axis_name=None
    ) -> Features:
        """The stem's map and those of the four stages."""
        layers = Layers(self.settings, train, mask, axis_name)
        stem = ((1, 3, 2), (1, 3, 1), (2, 3, 1)) if self.deep_stem else ((1, 7, 2),)
        for i, (factor, size, stride) in enumerate(stem, 1):
            x = layers.conv(factor * self.width, size, stride=stride, name=f"conv{i}")(x)
            x = nn.relu(layers.norm(x, f"bn{i}"))
        maps = [x]
        x = max_pool_ceil(x)
        reached, dilation = 4, 1
        for i, blocks in enumerate(BLOCKS[self.depth]):
            stride = 1 if i == 0 else 2
            if reached * stride > self.output_stride:
                stride, dilation = 1, 2 * dilation
            reached *= stride
            grid = self.multi_grid if i == 3 else ()
            dilations = [dilation * m for m in (*grid, *[1] * blocks)[:blocks]]
            stage = _Stage(
                self.width * 2**i, self.depth >= 50, stride, tuple(dilations), name=f"layer{i + 1}"
            )
            x = stage(x, layers)
            maps.append(x)
        return tuple(maps)


def resnet(
    depth: int,
    *,
    width: int = 64,
    output_stride: int = 32,
    deep_stem: bool = False,
    multi_grid: tuple[int, int, int] = (1, 1, 1),
    momentum: float = 0.9,
    batch_norm: Statistics = "running",
    dtype: DTypeLike | None = None,
) -> Network:
    """ResNet's trunk: an image of any size and number of channels -> `Features`.

    The maps have `width` channels (twice as many with a deep stem) and then 1, 2, 4 and 8 times
    `width`, four times that in bottlenecks; sides are divided by the stride and rounded up.

    Args:
        depth: 18, 34, 50 or 101.
        width: channels of the stem and of the first stage.
        output_stride: 8, 16 or 32; stages beyond it keep the size and double the dilation of all
            of their 3×3 convolutions (the first one's too, as in the released code of PSPNet and in
            the ports of DeepLabv3+; torchvision leaves that one as it was).
        deep_stem: three 3×3 convolutions instead of one 7×7 (PSPNet).
        multi_grid: factors on the dilations of the last stage's first blocks (DeepLabv3).
        momentum: of the running statistics.
        batch_norm: what evaluation normalises with.
        dtype: of the computation; None: that of the parameters.

    Raises:
        ValueError: an option is out of range.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth={depth}: expected one of {tuple(BLOCKS)}")
    check_output_stride(output_stride)
    settings = checked_settings(momentum, batch_norm, dtype, width=width)
    module = ResNet(depth, width, output_stride, deep_stem, multi_grid, settings)
    return normalised_network(module, settings)


def max_pool_ceil(x: Float[Array, "b h w c"]) -> Float[Array, "b oh ow c"]:
    """Max pooling 3×3 with stride 2 and padding 1 to sides that are halved and rounded up."""
    height, width = x.shape[1:3]
    return max_pool_3x3(x)[:, : -(-height // 2), : -(-width // 2)]


def _convolve(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated`; XLA's CPU backend is faster at 1×1 as a product."""
    if kernel.shape[:2] != (1, 1) or options["feature_group_count"] > 1:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    rows, cols = strides
    x = x[:, ::rows, ::cols]
    return jax.lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())), options["precision"])
