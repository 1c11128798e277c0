"""Superpixels at equal numbers of regions: trained networks beside SLIC, SEEDS and LSC.

    python experiments/compare_superpixels.py --data BSDS500 -o DIR [--methods M ...]

A method is one of

    slic              jaxseg's SLIC
    skimage           scikit-image's
    skimage-default   scikit-image's with its own rule of connectivity, which merges whatever is
                      below half the mean size
    seeds, lsc        OpenCV's (pip install opencv-contrib-python-headless)
    pix               SSN without a network

or a run's folder, or the name of weights that come with jaxseg; NAME=RUN gives a name of one's
own. All but skimage-default are made connected by the rule of SSN's authors; SEEDS, whose grid is
coarser than what it is asked for, by that for the number it made. LSC gets what OpenCV advises, Lab
colours blurred by 3x3; SEEDS what did best on images of val: RGB, blocks from about 4 pixels, each
level iterated twice.

Every method and number is measured once: DIR/rows.jsonl keeps it, and the same command after a kill
goes on. DIR then gets table.md, which is printed too, and curves.png. Accuracy is interpolated
linearly in the logarithm of the mean number of regions produced.
"""

import dataclasses
import importlib.metadata
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import superpixel_curves as curves
import tyro

from jaxseg import __version__, data, viz
from jaxseg.data.files import write_text
from jaxseg.ops.connectivity import enforce_connectivity, official_sizes
from jaxseg.ops.slic import slic
from jaxseg.predictor import Predictor, load
from jaxseg.recipes.superpixels import Config, build
from jaxseg.types import InputError


@dataclasses.dataclass(frozen=True)
class Compare:
    """Options."""

    data: Path
    """A folder of segmentations."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder of the rows, the table and the picture."""
    methods: tuple[str, ...] = ("pix", "slic", "skimage", "skimage-default", "seeds", "lsc")
    """What to compare, in the order of the table; see above."""
    split: str = "test"
    """Which part of the data."""
    requested: tuple[int, ...] = (50, 100, 150, 200, 300, 400, 500, 600, 800, 1000)
    """Numbers of superpixels that are asked for."""
    at: tuple[int, ...] = (100, 200, 400, 800)
    """Numbers of regions produced at which the curves are read."""
    limit: int = 0
    """The first images alone, for a quick check; 0: all."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measures what is missing, prints the tables, draws the curves; returns the exit status."""
    options = tyro.cli(Compare, args=argv, description=__doc__)
    try:
        return compare(options)
    except InputError as error:
        print(f"compare_superpixels: {error}", file=sys.stderr)
        return 2


def compare(options: Compare) -> int:
    """The work of `main`.

    Raises:
        InputError: an option or a file cannot be used.
    """
    curves.check_counts("--requested", options.requested)
    curves.check_counts("--at", options.at)
    segmenters = find_segmenters(options.methods)
    pairs = curves.open_pairs(options.data, options.split, options.limit)
    rows = curves.Rows(options.out / "rows.jsonl")
    measured: dict[str, list[curves.Row]] = {}
    for segmenter in segmenters:
        measured[segmenter.name] = [
            rows.measured(pairs, segmenter, number) for number in sorted(set(options.requested))
        ]
    about = curves.about(pairs, next(iter(measured.values()))[0])
    text = f"{about}\n\n{tables(measured, options.at)}\n"
    print(f"\n{text}")
    write_text(options.out / "table.md", text)
    data.write_image(options.out / "curves.png", picture(measured))
    print(f"written to {options.out}")
    return 0


def tables(measured: Mapping[str, Sequence[curves.Row]], at: Sequence[int]) -> str:
    """Figures at equal numbers of regions, then the rows as measured; in markdown."""
    parts = [
        "At equal numbers of regions produced: achievable segmentation accuracy (ASA), boundary "
        "recall and precision (BR, BP; one-sided maps, r = 1), undersegmentation error (UE; "
        "Neubert and Protzel) and compactness (CO)."
    ]
    found = {name: curves.curve(rows) for name, rows in measured.items()}
    for figure, name in curves.FIGURES.items():
        lines = [
            [method, *(curves.cell(curves.read(points, figure, n)) for n in at)]
            for method, points in found.items()
        ]
        parts.append(curves.markdown([name, *map(str, at)], lines))
    parts.append(
        "As measured; BR and BP also by the maps of Stutz et al.; CPU-s: for segmenting an image."
    )
    columns = ("asa", "br", "bp", "br_stutz", "bp_stutz", "ue_np", "co")
    lines = [
        [
            method,
            str(row.requested),
            curves.cell(row.figures["regions"], 0),
            *(curves.cell(row.figures[name], 4 if name == "asa" else 3) for name in columns),
            f"{row.cpu_seconds:.3f}",
        ]
        for method, rows in measured.items()
        for row in rows
    ]
    head = ["method", "asked", "regions", "ASA", "BR", "BP", "BR Stutz", "BP Stutz", "UE", "CO"]
    parts.append(curves.markdown([*head, "CPU-s"], lines))
    return "\n\n".join(parts)


def picture(measured: Mapping[str, Sequence[curves.Row]]) -> np.ndarray:
    """ASA and BR over the regions produced, and BP over BR."""
    found = {name: curves.curve(rows) for name, rows in measured.items()}

    def panel(x: str, y: str, xlabel: str, ylabel: str) -> viz.Panel:
        series = {name: (points[x], points[y]) for name, points in found.items()}
        return viz.Panel(series, xlabel, ylabel, log_x=x == "regions")

    return viz.curve_panels(
        [
            panel("regions", "asa", "regions produced", "achievable segmentation accuracy"),
            panel("regions", "br", "regions produced", "boundary recall"),
            panel("br", "bp", "boundary recall", "boundary precision"),
        ]
    )


def find_segmenters(methods: Sequence[str]) -> list[curves.Segmenter]:
    """What the options name; a peer without its library is told in a line and left out.

    Raises:
        InputError: there is no such method, run or weights, or two have one name.
    """
    segmenters = []
    for method in methods:
        if method not in PEERS:
            segmenters.append(_trained(method))
            continue
        try:
            segmenters.append(PEERS[method]())
        except ImportError as error:
            print(f"{method}: skipped, {error}; pip install jaxseg[bench]")
    names = [segmenter.name for segmenter in segmenters]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two methods are called {min(twice)}; name one by NAME=RUN")
    if not segmenters:
        raise InputError("--methods leaves nothing to compare; name at least one")
    return segmenters


def connected(labels: np.ndarray, number: int) -> np.ndarray:
    """By the rule of SSN's authors for a number of superpixels."""
    smallest, largest = official_sizes(labels.shape, number)
    return enforce_connectivity(labels, min_size=smallest, max_size=largest)


def _trained(method: str) -> curves.Segmenter:
    name, equals, path = method.rpartition("=")
    try:
        predictor = load(path)
    except InputError as error:
        if equals or Path(path).exists():
            raise
        raise InputError(f"{error}; what needs no weights: {', '.join(PEERS)}") from error
    return curves.predicting(
        name if equals else Path(path).name.removesuffix(".safetensors"), predictor
    )


def _pix() -> curves.Segmenter:
    return curves.predicting("SSN_pix", Predictor(build(Config(network="pix", steps=0)), {}, {}))


def _slic() -> curves.Segmenter:
    compiled = jax.jit(slic, static_argnums=1)

    def segment(image: np.ndarray, number: int) -> np.ndarray:
        labels = compiled(image / np.float32(255), number)
        return connected(np.asarray(labels), number)

    return curves.Segmenter("jaxseg SLIC", f"jaxseg {__version__}", segment)


SKIMAGE = f"scikit-image {importlib.metadata.version('scikit-image')}"


def _skimage() -> curves.Segmenter:
    from skimage.segmentation import slic as skimage_slic

    def segment(image: np.ndarray, number: int) -> np.ndarray:
        labels = skimage_slic(image, n_segments=number, start_label=0, enforce_connectivity=False)
        return connected(labels.astype(np.int32), number)

    return curves.Segmenter("scikit-image SLIC", SKIMAGE, segment)


def _skimage_default() -> curves.Segmenter:
    from skimage.segmentation import slic as skimage_slic

    def segment(image: np.ndarray, number: int) -> np.ndarray:
        return skimage_slic(image, n_segments=number, start_label=0)

    return curves.Segmenter("scikit-image SLIC, own rule", SKIMAGE, segment)


def _seeds() -> curves.Segmenter:
    import cv2
    from cv2 import ximgproc

    def segment(image: np.ndarray, number: int) -> np.ndarray:
        height, width = image.shape[:2]
        levels = max(2, 1 + round(math.log2(math.sqrt(height * width / number) / 4)))
        seeds = ximgproc.createSuperpixelSEEDS(width, height, 3, number, levels, double_step=True)
        seeds.iterate(image, 10)
        return connected(seeds.getLabels(), seeds.getNumberOfSuperpixels())

    return curves.Segmenter("SEEDS", f"OpenCV {cv2.__version__}, RGB, 10 double steps", segment)


def _lsc() -> curves.Segmenter:
    import cv2
    from cv2 import ximgproc

    def segment(image: np.ndarray, number: int) -> np.ndarray:
        side = max(1, round(math.sqrt(image.shape[0] * image.shape[1] / number)))
        lab = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), (3, 3), 0)
        lsc = ximgproc.createSuperpixelLSC(lab, side)
        lsc.iterate(10)
        return connected(lsc.getLabels(), number)

    return curves.Segmenter("LSC", f"OpenCV {cv2.__version__}, blurred Lab, 10 steps", segment)


PEERS: dict[str, Callable[[], curves.Segmenter]] = {
    "pix": _pix,
    "slic": _slic,
    "skimage": _skimage,
    "skimage-default": _skimage_default,
    "seeds": _seeds,
    "lsc": _lsc,
}
"""What makes each; raises ImportError where its library is missing."""


if __name__ == "__main__":
    sys.exit(main())
