"""How the layers of a network compute, and what makes them so: shared by all networks."""

import zlib
from typing import Any, Literal, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxseg.models.layers import BatchNorm
from jaxseg.models.network import network
from jaxseg.types import Network

Statistics = Literal["running", "batch"]

SCORES = nn.initializers.lecun_normal()
"""Of the layer that gives the scores: by its inputs, or few classes would begin with large ones."""

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
        padding: int | str | None = None,
        use_bias: bool = False,
        kernel_init: nn.initializers.Initializer = HE_OUT,
    ) -> nn.Conv:
        """A convolution; unless padded otherwise, sides are divided by `stride` and rounded up."""
        return nn.Conv(
            features,
            (size, size),
            strides=stride,
            padding=dilation * (size // 2) if padding is None else padding,
            kernel_dilation=dilation,
            use_bias=use_bias,
            kernel_init=kernel_init,
            dtype=self.settings.dtype,
            conv_general_dilated=_convolve,
            name=name,
        )

    def norm(self, x: Array, name: str, *, epsilon: float = 1e-5) -> Array:
        """Batch normalisation."""
        layer = BatchNorm(self.settings.momentum, epsilon, dtype=self.settings.dtype, name=name)
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
        kept = variables["batch_stats"]
        return outputs, changed.get("batch_stats", kept) if train else kept

    return made._replace(apply=apply)


def checked_settings(
    momentum: float, batch_norm: Statistics, dtype: DTypeLike | None, **numbers: int | float
) -> Settings:
    """The settings, once they and the constructor's other numbers are found to be in range.

    Raises:
        ValueError: a number is not positive, or `batch_norm` is unknown.
    """
    check_positive(**numbers)
    check_known(get_args(Statistics), batch_norm=batch_norm)
    return Settings(momentum, batch_norm, dtype)


def check_positive(**numbers: int | float) -> None:
    """Raises ValueError, which names the option, for a number that is not positive."""
    for name, value in numbers.items():
        if value <= 0:
            raise ValueError(f"{name}={value}: expected more than 0")


def check_known(known: tuple[Any, ...], **options: Any) -> None:
    """Raises ValueError, which names the option, for a value that is none of `known`."""
    for name, value in options.items():
        if value not in known:
            raise ValueError(f"{name}={value!r}: expected one of {known}")


def _convolve(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`jax.lax.conv_general_dilated`; XLA's CPU backend is faster at 1×1 as a product."""
    if kernel.shape[:2] != (1, 1) or options["feature_group_count"] > 1:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    rows, cols = strides
    x = x[:, ::rows, ::cols]
    return jax.lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())), options["precision"])
