"""Superpixels for optical flow: SSN trained to keep flow, and beside it other weights.

    jaxseg train experiments/ssn_flow.py --variant small --data BSDS500 --workdir RUN
    jaxseg evaluate RUN --data BSDS500 --split test
    python experiments/ssn_flow.py --variant small --data BSDS500 --runs RUN BSDS_RUN PIX_RUN

Jampani et al., ECCV 2018, section 4: the L1 loss on flow in place of the cross-entropy of
segments; the figure is the end-point error when each pixel takes the mean flow of its superpixel.
The network sees one frame, as `jaxseg predict` does.

`sintel` trains on MPI Sintel (`jaxseg.data.sintel`: the public release; whole scenes are held out
as "test"). `synthetic` and `small` need labelled images alone: their segments are moved
(`jaxseg.data.synthetic_flow`), trained on train+val with a flow for each annotation, measured on
test with one flow an image. The last command measures any runs on the variant's data, at equal
numbers of regions.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

from jaxseg.data import Source
from jaxseg.data.flow import rescale_flow
from jaxseg.data.sintel import TEST_SCENES, SintelSource
from jaxseg.data.synthetic_flow import SyntheticFlowSource
from jaxseg.recipes import superpixel_tasks, superpixels
from jaxseg.train import Experiment
from jaxseg.types import InputError

__all__ = ["VARIANTS", "Config", "build"]


@dataclasses.dataclass(frozen=True)
class Config(superpixels.Config):
    """The numbers of an SSN training on flow.

    Attributes:
        flow: "synthetic", over a folder of labelled images; or "sintel".
        flow_seed: of the synthetic flow; evaluations with another are not comparable.
        passes: of Sintel: clean, final, or both.
        test_scenes: of Sintel, held out as the split "test".
    """

    flow: Literal["synthetic", "sintel"] = "synthetic"
    flow_seed: int = 0
    passes: tuple[Literal["clean", "final"], ...] = ("clean",)
    test_scenes: tuple[str, ...] = TEST_SCENES


_SMALL: dict[str, Any] = {
    "width": 32,
    "batch_size": 4,
    "steps": 300,
    "learning_rate": 2e-3,
    "decay": "cosine",
    "warmup": 50,
    "ema_decay": 0.99,
    "save_every": 100,
}

VARIANTS = {
    "sintel": Config(flow="sintel", train_split="train"),
    "synthetic": Config(),
    # Minutes on two cores; the network of the small variant of ssn_bsds500.
    "small": Config(**_SMALL),
    "sintel_small": Config(flow="sintel", train_split="train", **_SMALL),
    # No network: what the learned features have to beat. Nothing is trained.
    "pix": Config(network="pix", steps=0),
}


def build(config: Config) -> Experiment:
    """The experiment of a config; see `jaxseg.recipes.superpixels.build`.

    Raises:
        InputError: if a number or a word cannot be used.
    """
    if config.flow not in ("synthetic", "sintel"):
        raise InputError(f"flow is {config.flow!r}; choose synthetic or sintel")
    if config.flow_seed < 0:
        raise InputError(f"flow_seed is {config.flow_seed}; give 0 or more")

    def open_sintel(folder: Path, split: str) -> Source:
        return SintelSource(
            folder,
            split,
            passes=config.passes,
            test_scenes=config.test_scenes,
            cache_bytes=superpixels.CACHE_BYTES,
        )

    def open_synthetic(folder: Path, split: str, annotations: str) -> Source:
        source = superpixels.open_labelled(folder, split, annotations=annotations)
        return SyntheticFlowSource(source, seed=config.flow_seed)

    if config.flow == "sintel":
        task = superpixel_tasks.dense(open_sintel, rescale_flow)
    else:
        task = superpixel_tasks.dense(
            functools.partial(open_synthetic, annotations="each"),
            rescale_flow,
            open_test=functools.partial(open_synthetic, annotations="first"),
        )
    return superpixels.build(config, task)


if __name__ == "__main__":
    from jaxseg.recipes.superpixel_table import main

    main(VARIANTS, build, figures=("epe",))
