"""What a network gives to heads that are put on it."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Trunk(NamedTuple):
    """A network up to its prediction, which constructors give with `trunk=True`."""

    features: Float[Array, "b h w c"]
    """The last map before the prediction, at the size that the decoder works at."""
    encoded: tuple[Float[Array, "b _ _ _"], ...]
    """The maps of the encoder, from fine to coarse."""
