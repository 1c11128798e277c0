"""What `jaxseg predict` writes of instances: masks, scores, and a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxseg.data.files import write_text
from jaxseg.data.rle import encode_rle

if TYPE_CHECKING:
    import numpy as np

    from jaxseg.commands.options import Results


def write_instances(
    results: "Results",
    path: Path,
    image: "np.ndarray",
    prediction: "dict[str, Any]",
    names: Sequence[str],
) -> None:
    """Writes the objects of an image.

    `ID_instances.json` lists them by falling score. As in COCO's annotations are `bbox` (x, y,
    width, height), `area`, and `segmentation`, the mask as compressed run lengths; `score` is that
    of its results. Not COCO's: `id` is the object's place in the masks, from 1; `category_id` is
    the place of its class, from 0, and `category` the name; the image is named by `file_name`, and
    there is no `image_id`.

    `ID_instances.png` is a label map of 16 bits, object i + 1 at place i, where none overlap; where
    some do, `ID_masks.png` holds one mask below the other, as data sets with `stacked_masks` do.
    `ID_instances_overlay.png` shows them.

    Args:
        results: claims the files.
        path: of the image.
        image: `[H, W, 3]`.
        prediction: `masks` `[N, H, W]`, `scores`, `kinds` and `boxes`; with `instances` `[H, W]`,
            i + 1 where mask i is, as masks that do not overlap have it, that makes the label map.
        names: of the categories; none: their numbers alone.
    """
    import numpy as np

    from jaxseg import data, viz

    there = (prediction["kinds"] >= 0) & prediction["masks"].any(axis=(1, 2))
    chosen = np.flatnonzero(there)
    chosen = chosen[np.argsort(-prediction["scores"][chosen], kind="stable")]
    found = {n: prediction[n][chosen] for n in ("masks", "scores", "kinds", "boxes")}
    masks = found["masks"]
    labels = _labels(prediction, chosen)
    picture = "_masks.png" if labels is None else "_instances.png"
    table, drawn, overlay = results.claim(
        path, "_instances.json", picture, "_instances_overlay.png"
    )
    write_text(table, json.dumps(_listed(found, names, path.name)) + "\n")
    if labels is not None:
        data.write_labels(drawn, labels)
    else:
        stacked = masks.reshape(-1, masks.shape[2]).astype(np.uint8) * 255
        data.write_image(drawn, stacked[..., None])
    data.write_image(overlay, viz.overlay_masks(image, masks))


def _labels(prediction: "dict[str, Any]", chosen: "np.ndarray") -> "np.ndarray | None":
    """A label map of the chosen masks, numbered from 1 in their order; None where some overlap."""
    import numpy as np

    masks = prediction["masks"]
    numbers = np.arange(1, len(chosen) + 1, dtype=np.int32)
    if "instances" in prediction:
        # There the object at place i is i + 1.
        place = np.zeros(len(masks) + 1, np.int32)
        place[chosen + 1] = numbers
        return np.asarray(place[prediction["instances"]])
    labels = np.zeros(masks.shape[1:], np.int32)
    for i, number in zip(chosen, numbers, strict=True):
        if labels[masks[i]].any():
            return None
        labels[masks[i]] = number
    return labels


def _listed(
    found: "dict[str, np.ndarray]", names: Sequence[str], file_name: str
) -> list[dict[str, Any]]:
    entries = []
    for i, (mask, score, kind, box) in enumerate(zip(*found.values(), strict=True)):
        y0, x0, y1, x1 = (round(float(side), 2) for side in box)
        entry = {
            "id": i + 1,
            "file_name": file_name,
            "category_id": int(kind),
            "category": names[int(kind)] if names else str(int(kind)),
            "score": round(float(score), 5),
            "bbox": [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
            "area": int(mask.sum()),
            "segmentation": {"size": list(mask.shape), "counts": encode_rle(mask)},
        }
        entries.append(entry)
    return entries
