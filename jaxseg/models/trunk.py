"""What a network gives to heads that are put on it."""

from typing import Literal, NamedTuple

from jaxtyping import Array, Float

TRUNK_OPTIONS = (False, True, "scored")
TrunkOption = bool | Literal["scored"]
"""Whether a constructor's network gives a `Trunk`; "scored": one with the scores."""


class Trunk(NamedTuple):
    """A network up to its prediction, which constructors give with `trunk=True` or "scored"."""

    features: Float[Array, "b h w c"]
    """The last map before the prediction, at the size that the decoder works at."""
    encoded: tuple[Float[Array, "b _ _ _"], ...]
    """The maps of the encoder, from fine to coarse."""
    scores: Float[Array, "b oh ow n"] | None = None
    """What the network gives without `trunk`; None: it was not asked for, and has no variables."""
