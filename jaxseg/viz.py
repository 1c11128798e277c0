"""Pictures of segmentations: outlines, classes with a legend, colour maps, sheets, curves.

Everything takes and gives NumPy arrays on the host. Images are `[H, W]`, `[H, W, 1]` or
`[H, W, 3]`, uint8 or float in [0, 1]; what comes back is uint8 RGB `[H, W, 3]`. Pixels of label -1
belong to no region.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import ArrayLike

_INK = (38, 40, 44)
_QUIET = (112, 116, 122)
# Okabe and Ito's palette for the colour-blind, the palest two left out; marks differ as well.
_CURVES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vP"


def _rgb(image: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"image of shape {image.shape}: expected [H, W], [H, W, 1] or [H, W, 3]")
    if np.issubdtype(image.dtype, np.floating):
        image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    elif image.dtype == np.bool_:
        image = image.astype(np.uint8) * 255
    elif image.dtype != np.uint8:
        raise ValueError(f"image of type {image.dtype}: expected uint8, or float in [0, 1]")
    return np.broadcast_to(image, (*image.shape[:2], 3)).copy()


def boundaries(labels: Int[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Marks thin outlines: pixels whose right or lower neighbour has another label."""
    marked = np.zeros(labels.shape, bool)
    marked[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    marked[:-1] |= labels[:-1] != labels[1:]
    return marked


def overlay_boundaries(
    image: np.ndarray,
    labels: Int[np.ndarray, "h w"],
    *,
    color: tuple[int, int, int] = (255, 221, 0),
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the outlines of regions, one pixel wide, over an image.

    Args:
        image: as in the module's documentation.
        labels: regions or classes.
        color: red, green, blue, 0..255.

    Returns:
        The picture.
    """
    picture = _rgb(image)
    picture[boundaries(labels)] = color
    return picture


def mean_color(image: np.ndarray, labels: Int[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Paints every region in its mean colour; pixels of label -1 keep their own."""
    picture = _rgb(image)
    inside = labels >= 0
    _, index = np.unique(labels[inside], return_inverse=True)
    values = picture[inside].astype(np.float64)
    sums = np.stack([np.bincount(index, values[:, c]) for c in range(3)], axis=1)
    means = sums / np.bincount(index)[:, None]
    picture[inside] = np.round(means[index]).astype(np.uint8)
    return picture


def colorize(
    labels: Int[np.ndarray, "h w"], *, colors: UInt8[np.ndarray, "n 3"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Gives each label a colour that depends on its number alone; -1 is black.

    Args:
        labels: regions or classes.
        colors: the colour of each class. By default hues go round by the golden ratio, in three
            turns of saturation and brightness, so that near numbers have unlike colours.

    Returns:
        The picture.

    Raises:
        ValueError: a label beyond the end of `colors`.
    """
    ids, index = np.unique(labels, return_inverse=True)
    if colors is None:
        table = _distinct_colors(ids)
    else:
        if ids[-1] >= len(colors):
            raise ValueError(f"label {ids[-1]} has none of the {len(colors)} colors")
        table = colors[ids]
    table[ids < 0] = 0
    return table[index.reshape(labels.shape)]


def _distinct_colors(ids: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3"]:
    hue = np.mod(0.58 + ids * 0.6180339887498949, 1.0)
    turn = np.mod(ids, 3)
    saturation = np.array([0.60, 0.42, 0.70])[turn]
    value = np.array([0.90, 0.74, 0.95])[turn]
    # HSV: each channel falls from `value` by how far its own sector lies from the hue.
    sector = np.mod(np.array([5.0, 3.0, 1.0]) + 6.0 * hue[:, None], 6.0)
    fall = np.clip(np.minimum(sector, 4.0 - sector), 0.0, 1.0)
    return np.round(255 * value[:, None] * (1 - saturation[:, None] * fall)).astype(np.uint8)


def overlay_classes(
    image: np.ndarray,
    classes: Int[np.ndarray, "h w"],
    *,
    colors: UInt8[np.ndarray, "n 3"] | None = None,
    names: Sequence[str] = (),
    alpha: float = 0.5,
) -> UInt8[np.ndarray, "height width 3"]:
    """Tints an image by class, with a legend of the classes that occur below it.

    Args:
        image: as in the module's documentation.
        classes: -1 leaves the image as it is.
        colors: the colour of each class; by default those of `colorize`.
        names: of the classes, for the legend; without them, and where every class is -1, there is
            none. Its text grows with the image, from 12 pixels on.
        alpha: how much the colours cover, 0..1.

    Returns:
        The picture. The image lies in its upper left corner, unscaled; it is as wide as the image,
        or as the longest name asks where the image is narrower.

    Raises:
        ValueError: image and classes differ in size, alpha is out of range, or a class is beyond
            the end of `colors` or `names`.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: expected 0 to 1")
    picture = _rgb(image)
    if picture.shape[:2] != classes.shape:
        raise ValueError(f"image {picture.shape[:2]} and classes {classes.shape} differ in size")
    inside = classes >= 0
    told = classes[inside]
    present = np.unique(told)
    tints = np.zeros((0, 3), np.uint8)
    if present.size:
        tints = colorize(present[None], colors=colors)[0]
    mixed = (
        picture[inside] * np.float32(1 - alpha)
        + (tints * np.float32(alpha))[np.searchsorted(present, told)]
    )
    picture[inside] = np.round(mixed).astype(np.uint8)
    if not names or not present.size:
        return picture
    if present[-1] >= len(names):
        raise ValueError(f"class {present[-1]} has none of the {len(names)} names")
    height, width = classes.shape
    key = legend(
        [names[number] for number in present],
        tints,
        width=width,
        text_size=max(12.0, max(height, width) / 40),
    )
    sheet = np.full((height + key.shape[0], key.shape[1], 3), 255, np.uint8)
    sheet[:height, :width] = picture
    sheet[height:] = key
    return sheet


def overlay_masks(
    image: np.ndarray,
    masks: Bool[np.ndarray, "n h w"],
    *,
    alpha: float = 0.45,
) -> UInt8[np.ndarray, "h w 3"]:
    """Tints an image by objects that may overlap, each outlined.

    Args:
        image: as in the module's documentation.
        masks: of the objects; mask i has colour i + 1 of `colorize`. Where several overlap their
            colours are mixed, and all outlines are seen. Empty masks take a colour and draw
            nothing.
        alpha: how much the colours cover inside of the outlines, 0..1.

    Returns:
        The picture.

    Raises:
        ValueError: image and masks differ in size, or alpha is out of range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: expected 0 to 1")
    picture = _rgb(image)
    if picture.shape[:2] != masks.shape[1:]:
        raise ValueError(f"image {picture.shape[:2]} and masks {masks.shape[1:]} differ in size")
    colors = _distinct_colors(np.arange(1, len(masks) + 1))
    total = np.zeros(picture.shape, np.float32)
    count = np.zeros((*picture.shape[:2], 1), np.float32)
    for mask, color in zip(masks, colors, strict=True):
        total[mask] += color
        count[mask] += 1
    tints = total / np.maximum(count, 1)
    mixed = np.where(count > 0, picture * (1 - alpha) + tints * alpha, picture)
    picture = np.round(mixed).astype(np.uint8)
    for mask, color in zip(masks, colors, strict=True):
        inner = np.pad(mask, 1)
        inner = inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        picture[mask & ~inner] = color
    return picture


def legend(
    names: Sequence[str],
    colors: UInt8[np.ndarray, "n 3"] | None = None,
    *,
    width: int | None = None,
    text_size: float = 14.0,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws a box of its colour and the name of each class, on white, row by row.

    No name is ever cut. The letters are those of DejaVu Sans: European scripts and more, without
    Chinese, Japanese and Korean.

    Args:
        names: one or more.
        colors: one for each; by default those of `colorize` for 0, 1, …
        width: of the picture, in pixels; it holds as many columns as fit, and is wider only where
            one does not. By default there is one column, as wide as it needs to be.
        text_size: height of the letters from foot to head, in pixels.

    Returns:
        The picture.

    Raises:
        ValueError: there is no name, or not as many colours as names.
    """
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    if not names:
        raise ValueError("names is empty: expected one or more")
    if colors is None:
        colors = _distinct_colors(np.arange(len(names)))
    if len(colors) != len(names):
        raise ValueError(f"{len(colors)} colors for {len(names)} names")
    # Pillow's own letters have no accents.
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", text_size)
    lines = [" ".join(name.split()) for name in names]
    box, row, margin = round(text_size), round(1.65 * text_size), round(0.6 * text_size)
    indent, gap = round(1.5 * text_size), round(1.4 * text_size)
    column = indent + max(math.ceil(font.getlength(line)) for line in lines)
    fitting = 1 if width is None else (width - 2 * margin + gap) // (column + gap)
    rows = math.ceil(len(lines) / min(max(fitting, 1), len(lines)))
    columns = math.ceil(len(lines) / rows)
    whole = max(width or 0, columns * (column + gap) - gap + 2 * margin)
    pitch = (whole - 2 * margin + gap) // columns
    sheet = Image.new("RGB", (whole, rows * row + 2 * margin), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (line, color) in enumerate(zip(lines, colors.tolist(), strict=True)):
        x = margin + place % columns * pitch
        y = margin + place // columns * row + row // 2
        top = y - box // 2
        draw.rectangle((x, top, x + box - 1, top + box - 1), tuple(color), _QUIET)
        draw.text((x + indent, y), line, font=font, fill=_INK, anchor="lm")
    return np.asarray(sheet)


def show_confidence(confidence: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Paints a confidence by viridis, whose lightness rises evenly: violet is 0, yellow 1.

    Args:
        confidence: 0..1; what is beyond takes the colour of the end, and NaN is black.

    Returns:
        The picture.
    """
    from matplotlib import colormaps

    return colormaps["viridis"](confidence.astype(np.float64), bytes=True)[..., :3]


def comparison_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    *,
    captions: Sequence[Sequence[str]] | None = None,
    cell_size: int = 320,
) -> UInt8[np.ndarray, "h w 3"]:
    """Lays pictures out in a table on white, scaled to cells of one width.

    Args:
        rows: the pictures, row by row, images as in the module's documentation.
        titles: one per column, above it.
        captions: a line below each picture, the shape of `rows`; "" for none.
        cell_size: width of a cell and greatest height of a picture, in pixels.

    Returns:
        The sheet.

    Raises:
        ValueError: a row or its captions are not as many as the titles.
    """
    from PIL import Image, ImageDraw, ImageFont

    if captions is not None and len(captions) != len(rows):
        raise ValueError(f"{len(captions)} rows of captions for {len(rows)} rows of pictures")
    for line in (*rows, *(captions or ())):
        if len(line) != len(titles):
            raise ValueError(f"a row of {len(line)} for {len(titles)} titles")
    gap = max(cell_size // 24, 6)
    title_size, caption_size = max(cell_size / 18, 11), max(cell_size / 22, 10)
    title_font = ImageFont.load_default(title_size)
    caption_font = ImageFont.load_default(caption_size)
    head, foot = int(1.9 * title_size), int(1.9 * caption_size) if captions else 0

    table = [[_fit(_rgb(picture), cell_size) for picture in row] for row in rows]
    heights = [max((picture.height for picture in row), default=0) for row in table]
    width = gap + len(titles) * (cell_size + gap)
    sheet = Image.new("RGB", (width, head + gap + sum(h + foot + gap for h in heights)), "white")
    draw = ImageDraw.Draw(sheet)
    left = [gap + column * (cell_size + gap) for column in range(len(titles))]

    def write(text: str, x: int, y: int, font: Any, fill: tuple[int, int, int]) -> None:
        text = _shorten(text, lambda part: draw.textlength(part, font=font) <= cell_size)
        draw.text((x + cell_size / 2, y), text, font=font, fill=fill, anchor="mm")

    for x, title in zip(left, titles, strict=True):
        write(title, x, (gap + head) // 2, title_font, _INK)
    y = head + gap // 2
    for number, (row, height) in enumerate(zip(table, heights, strict=True)):
        for column, picture in enumerate(row):
            inset = (cell_size - picture.width) // 2, (height - picture.height) // 2
            sheet.paste(picture, (left[column] + inset[0], y + inset[1]))
            if captions is not None:
                text = captions[number][column]
                write(text, left[column], y + height + foot // 2, caption_font, _QUIET)
        y += height + foot + gap
    return np.asarray(sheet)


def _fit(picture: UInt8[np.ndarray, "h w 3"], size: int):
    from PIL import Image

    image = Image.fromarray(picture)
    scale = size / max(image.size)
    shape = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return image.resize(shape, smooth)


def _shorten(text: str, fits) -> str:
    if fits(text):
        return text
    while text and not fits(text + "…"):
        text = text[:-1]
    return text + "…"


class Panel(NamedTuple):
    """One of the plots of `curve_panels`; the fields are those of `curve_plot`."""

    series: Mapping[str, tuple[ArrayLike, ArrayLike]]
    xlabel: str
    ylabel: str
    log_x: bool = False
    """Whether x is on a logarithmic axis."""


def curve_plot(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
) -> UInt8[np.ndarray, "h w 3"]:
    """Plots curves, 960×600 pixels, in colours and marks that the colour-blind can tell apart.

    Args:
        series: name to (x, y), two arrays or lists of one length; not-finite points leave gaps.
        xlabel: what x is, with its unit.
        ylabel: what y is, with its unit.
        title: above the plot.

    Returns:
        The picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _draw_curves(axes, Panel(series, xlabel, ylabel), title)
    if series:
        axes.legend(frameon=False, fontsize=9)
    return _render(figure)


def curve_panels(panels: Sequence[Panel]) -> UInt8[np.ndarray, "h w 3"]:
    """Plots curves side by side, with one legend below; large enough to be shown at half size.

    Args:
        panels: one at least; a name has one colour in all of them.

    Returns:
        The picture, 750 pixels wide for each panel and 870 high.

    Raises:
        ValueError: there is no panel.
    """
    from matplotlib.figure import Figure

    if not panels:
        raise ValueError("panels is empty: expected one or more")
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    figure = Figure(figsize=(5.0 * len(panels), 5.8), dpi=150, layout="constrained")
    handles: dict[str, Any] = {}
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        handles |= _draw_curves(axes, panel, names=names, size=14.0)
    if names:
        figure.legend(
            [handles[name] for name in names],
            names,
            loc="outside lower center",
            ncols=min(len(names), 1 + len(panels)),
            frameon=False,
            fontsize=14,
        )
    return _render(figure)


def _draw_curves(
    axes: Any, panel: Panel, title: str = "", *, names: Sequence[str] = (), size: float = 10.0
) -> dict[str, Any]:
    """Draws on axes; the place of a curve's name among `names` chooses its colour."""
    lines = {}
    for name, (x, y) in panel.series.items():
        number = list(names or panel.series).index(name)
        color = _CURVES[number % len(_CURVES)]
        sparse = np.size(x) <= 30
        marker = _MARKERS[number % len(_MARKERS)] if sparse else None
        dashes = "-" if number < len(_CURVES) else "--"
        thick = 1.8 if sparse else 1.1
        lines[name] = axes.plot(
            x, y, dashes, color=color, marker=marker, ms=size / 2, lw=thick, label=name
        )[0]
    axes.set_xlabel(panel.xlabel, fontsize=size)
    axes.set_ylabel(panel.ylabel, fontsize=size)
    if title:
        axes.set_title(title, loc="left", fontsize=1.2 * size, fontweight="bold")
    if panel.log_x:
        _log_axis(axes, [[], *(x for x, _ in panel.series.values())])
    axes.grid(color="#e3e5e8", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9a9ea5")
    axes.tick_params(color="#9a9ea5", labelsize=0.9 * size)
    return lines


def _log_axis(axes: Any, values: Sequence[ArrayLike]) -> None:
    """Marks 1, 2 and 5 of each decade by plain numbers."""
    axes.set_xscale("log")
    axes.minorticks_off()
    finite = [float(x) for x in np.concatenate([np.ravel(x) for x in values]) if np.isfinite(x)]
    low, high = min(finite, default=1.0), max(finite, default=1.0)
    marks = [m * 10.0**e for e in range(-9, 10) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks])


def _render(figure: Any) -> UInt8[np.ndarray, "h w 3"]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
