"""`jaxseg demo`: trains on the bundled images and draws what came of it."""

import base64
import dataclasses
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from jaxseg.commands.options import parse, progress
from jaxseg.data.files import write_text


@dataclasses.dataclass(frozen=True)
class Demo:
    """Trains SSN on bundled images (about two minutes), evaluates it, and writes a sheet."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("demo")
    """Where the run and the sheet go; given again, a trained run is only evaluated."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Training steps; the default takes about two minutes on two cores."""


class _Sample(NamedTuple):
    """One test image, cut by every method at about the same number of regions."""

    image: np.ndarray
    annotation: np.ndarray
    regions: dict[str, np.ndarray]


LEARNED, BUNDLED = "SSN, trained here", "SSN, ssn-bsds500"
INPUTS, SLIC = "SSN without network", "scikit-image SLIC"
METHODS = (LEARNED, BUNDLED, INPUTS, SLIC)


def run(argv: Sequence[str]) -> int:
    """Trains, evaluates at three numbers of superpixels, writes `index.html` and its pictures."""
    from jaxseg.commands import demo_experiment
    from jaxseg.commands.superpixels import make_segmenter
    from jaxseg.commands.train import train
    from jaxseg.data import open_data, samples_path, write_image

    options = parse(Demo, argv, "demo")
    config = demo_experiment.VARIANTS["demo"]
    if options.steps is not None:
        config = dataclasses.replace(config, steps=options.steps)
    folder = options.out / "run"
    print(f"training for {config.steps} steps on the bundled images; records in {folder}")
    status = train(Path(demo_experiment.__file__), config, samples_path(), folder)
    if status:
        return status

    source = open_data(samples_path(), "test", as_partition=True)
    segmenters = {
        LEARNED: make_segmenter(str(folder)),
        BUNDLED: make_segmenter("ssn-bsds500"),
        INPUTS: make_segmenter("pix"),
    }
    figures: dict[int, dict[str, dict[str, float]]] = {}
    samples: list[_Sample] = []
    for number in config.evaluation_superpixels:
        cut = [
            _cut(source[i], number, segmenters)
            for i in progress(range(len(source)), f"{number} superpixels", unit="image")
        ]
        figures[number] = {name: _measure(cut, name) for name in METHODS}
        if number == config.evaluation_superpixels[1]:
            samples = cut
    print(_as_text(figures))
    write_text(options.out / "figures.json", json.dumps(figures, indent=2) + "\n")
    sheet, curves = _sheet(samples), _curves(folder, figures)
    photos = _photos(segmenters[BUNDLED])
    write_image(options.out / "sheet.png", sheet)
    write_image(options.out / "photos.png", photos)
    page = options.out / "index.html"
    write_text(page, _page(figures, sheet, photos, curves, config.steps, len(source)))
    print(f"the sheet: {page.absolute()}")
    return 0


def _cut(example: Any, number: int, segmenters: dict[str, Any]) -> _Sample:
    """SLIC is asked for as many regions as the trained network produced."""
    image = example["image"]
    regions = {name: segment(image, number, False) for name, segment in segmenters.items()}
    regions[SLIC] = _slic_with(image, int(regions[LEARNED].max()) + 1)
    return _Sample(image, example["label"], regions)


def _slic_with(image: np.ndarray, count: int) -> np.ndarray:
    """scikit-image's SLIC with the parameter whose result comes nearest to `count` regions."""
    from skimage.segmentation import slic

    low, high, best = 1, 8 * count, None
    while low <= high:
        asked = (low + high) // 2
        labels = slic(image, n_segments=asked, start_label=0)
        produced = len(np.unique(labels))
        if best is None or abs(produced - count) < abs(best[0] - count):
            best = (produced, labels)
        if produced == count:
            break
        low, high = (asked + 1, high) if produced < count else (low, asked - 1)
    assert best is not None
    return best[1]


def _measure(samples: Sequence[_Sample], name: str) -> dict[str, float]:
    from jaxseg.metrics import superpixel

    metric = superpixel()
    sums = None
    for sample in samples:
        batch = {
            "label": sample.annotation[None],
            "weight": np.ones(1, np.float32),
            "size": np.array([sample.annotation.shape], np.int32),
        }
        new = metric.measure({"superpixels": sample.regions[name][None]}, batch)
        sums = new if sums is None else metric.merge(sums, new)
    return metric.compute(sums)


COLUMNS = {"regions": "regions", "asa": "ASA", "br": "boundary recall", "co": "compactness"}
FORMATS = {"regions": ".1f", "asa": ".4f", "br": ".4f", "co": ".4f"}


def _as_text(figures: dict[int, dict[str, dict[str, float]]]) -> str:
    lines = [f"{'asked':>6}  {'method':<22}" + "".join(f"{c:>17}" for c in COLUMNS.values())]
    for number, methods in figures.items():
        for name, values in methods.items():
            cells = "".join(f"{format(values[c], FORMATS[c]):>17}" for c in COLUMNS)
            lines.append(f"{number:>6}  {name:<22}{cells}")
    return "\n".join(lines)


def _sheet(samples: Sequence[_Sample]) -> np.ndarray:
    from jaxseg import viz

    # The images with the most segments show most of a difference.
    chosen = sorted(samples, key=lambda s: -len(np.unique(s.annotation)))[:4]
    rows, captions = [], []
    for sample in chosen:
        brighter = _brighter(sample.image)
        row = [brighter, viz.overlay_boundaries(brighter, sample.annotation)]
        line = ["", f"{len(np.unique(sample.annotation))} segments"]
        for name in (SLIC, LEARNED):
            labels = sample.regions[name]
            row.append(viz.overlay_boundaries(brighter, labels))
            asa = _measure([sample], name)["asa"]
            line.append(f"{len(np.unique(labels))} regions, ASA {asa:.3f}")
        rows.append(row)
        captions.append(line)
    return viz.comparison_sheet(
        rows, ["image", "annotation", SLIC, LEARNED], captions=captions, cell_size=360
    )


def _photos(segment: Any) -> np.ndarray:
    """The bundled photographs, cut coarsely and finely by the bundled weights."""
    from jaxseg import viz
    from jaxseg.data import read_image, samples_path

    rows, captions = [], []
    for path in sorted((samples_path() / "photos").glob("*.png")):
        image = read_image(path)
        coarse, fine = (segment(image, number) for number in (100, 400))
        draw = (viz.overlay_boundaries, viz.mean_color)
        rows.append([picture(image, labels) for labels in (coarse, fine) for picture in draw])
        captions.append([f"{x.max() + 1} regions" for x in (coarse, coarse, fine, fine)])
    titles = ["100 asked", "their mean colours", "400 asked", "their mean colours"]
    return viz.comparison_sheet(rows, titles, captions=captions, cell_size=360)


def _brighter(image: np.ndarray) -> np.ndarray:
    """Stretched for the eye: fluorescence images use the lowest tenth of the range."""
    high = max(float(np.percentile(image, 99.5)), 1.0)
    return np.clip(image.astype(np.float32) * (255 / high), 0, 255).astype(np.uint8)


def _curves(folder: Path, figures: dict[int, dict[str, dict[str, float]]]) -> list[np.ndarray]:
    from jaxseg import viz
    from jaxseg.train.log import read_metrics

    lines = [line for line in read_metrics(folder) if "loss" in line]
    steps = [line["step"] for line in lines]
    loss = viz.curve_plot(
        {"reconstruction loss": (steps, [line["reconstruction"] for line in lines])},
        xlabel="step",
        ylabel="cross-entropy of the annotation",
        title="Training",
    )
    points = {
        name: (
            [figures[n][name]["regions"] for n in figures],
            [figures[n][name]["asa"] for n in figures],
        )
        for name in METHODS
    }
    accuracy = viz.curve_plot(
        points,
        xlabel="regions produced",
        ylabel="achievable segmentation accuracy",
        title="Ten test images",
    )
    return [loss, accuracy]


def _page(
    figures: dict[int, dict[str, dict[str, float]]],
    sheet: np.ndarray,
    photos: np.ndarray,
    curves: Sequence[np.ndarray],
    steps: int,
    images: int,
) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in ("asked", "method", *COLUMNS.values()))
    body = "".join(
        f"<tr{' class=ours' if name == LEARNED else ''}>"
        f"<td>{number}</td><td>{html.escape(name)}</td>"
        + "".join(f"<td>{format(values[c], FORMATS[c])}</td>" for c in COLUMNS)
        + "</tr>"
        for number, methods in figures.items()
        for name, values in methods.items()
    )
    pictures = "".join(f'<img class=curve src="{_inline(curve)}">' for curve in curves)
    return f"""<!doctype html><meta charset=utf-8><title>jaxseg demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1560px; margin: 2rem auto; padding: 0 1rem;
  color: #1c2430 }}
h1 {{ font-size: 1.6rem }} table {{ border-collapse: collapse; margin: 1rem 0 }}
td, th {{ padding: .25rem .9rem; text-align: right; border-bottom: 1px solid #dde2e8 }}
td:nth-child(2), th:nth-child(2) {{ text-align: left }} .ours {{ font-weight: 600 }}
img {{ max-width: 100% }} .curve {{ width: 48%; min-width: 420px }}
</style>
<h1>Superpixels learned in {steps} steps</h1>
<p>A small Superpixel Sampling Network, trained on this machine on 30 fluorescence images of cell
nuclei (CC0), and measured on {images} others. scikit-image's SLIC, as it comes, was asked for the
number of regions that the network produced. {BUNDLED} has the weights that come with jaxseg,
trained on photographs, and has never seen a nucleus. ASA is the share of pixels that the best
labelling of whole regions gets right.</p>
<table><tr>{head}</tr>{body}</table>
{pictures}
<h2>The images with the most nuclei</h2><img src="{_inline(sheet)}">
<h2>Photographs, cut by the weights that come with jaxseg</h2><img src="{_inline(photos)}">
"""


def _inline(picture: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
