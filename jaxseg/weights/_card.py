"""What is known of a file of weights, for programs (`Card`) and for people (`model_card`)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Card(NamedTuple):
    """The header of a file of weights."""

    name: str
    """Such as "ssn-bsds500"."""
    what: str
    """The network in a few words."""
    constructor: str
    """A key of `CONSTRUCTORS`."""
    config: Mapping[str, Any]
    """The fields of the constructor's `Config`, as JSON has them."""
    step: int
    """Of the training."""
    jaxseg: str
    """The version that packed the file."""
    data: str
    """What the weights were trained on."""
    licence: str
    """The terms of use."""


TO_FILL_IN = "(to be filled in)"


def model_card(
    card: Card,
    tensors: Mapping[str, np.ndarray],
    *,
    command: str,
    evaluations: Sequence[tuple[str, str]] = (),
) -> str:
    """The model card in Markdown; what is not known is marked `TO_FILL_IN`.

    Args:
        card: the header of the file.
        tensors: what the file holds, by name.
        command: by which the weights were trained.
        evaluations: (command, table of its figures) of each evaluation of these weights.
    """
    count = sum(math.prod(value.shape) for value in tensors.values())
    figures = "\n\n".join(f"    {head}\n\n{_indented(body)}" for head, body in evaluations)
    return f"""# {card.name}

{card.what or TO_FILL_IN}. {count} numbers in float32, step {card.step}, packed by jaxseg \
{card.jaxseg}.

## Use

    jaxseg.load("{card.name}")(image)

An image is RGB `[H, W, 3]`, uint8 or float in [0, 1]. Where the file does not come with jaxseg,
give its path instead of the name.

## Data

{card.data or TO_FILL_IN}

## Terms

{card.licence or TO_FILL_IN}

## Command

    {command}

## Figures

{figures or TO_FILL_IN}

## To train on

The file holds what predicts: the moving average of the weights, where training kept one. The state
of the training (weights, optimizer, place in the data) is in the run's folder alone; the command
above with that `--workdir` goes on from there.
"""


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
