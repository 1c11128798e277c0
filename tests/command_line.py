"""What the tests of the command share: running it, and data of their own."""

import pathlib

import numpy as np
from PIL import Image

from jaxseg.cli import main
from jaxseg.data import write_image, write_labels

EXPERIMENT = pathlib.Path(__file__).parent.parent / "experiments" / "ssn_bsds500.py"
SIZE = (40, 56)
_TINY = {
    "width": 4,
    "num-features": 8,
    "crop-size": 32,
    "steps": 3,
    "batch-size": 8,
    "train-superpixels": 16,
    "train-iters": 2,
    "num-iters": 3,
    "train-split": "train",
    "evaluation-superpixels": 12,
}
TINY = [text for name, value in _TINY.items() for text in (f"--{name}", str(value))]
"""Options of `jaxseg train` for a network that takes no time; a later option overrides."""


class Jaxseg:
    """Runs a command in this process: `status, out, err = jaxseg("superpixels", path)`."""

    def __init__(self, capsys):
        self._capsys = capsys

    def __call__(self, *arguments):
        self._capsys.readouterr()
        status = main([str(a) for a in arguments])
        return status, *self._capsys.readouterr()

    def succeeds(self, *arguments):
        status, out, err = self(*arguments)
        assert (status, err) == (0, "")
        return out

    def refuses(self, *arguments, says):
        """Status 2 and one line, which holds each text of `says`."""
        status, out, err = self(*arguments)
        assert status == 2
        assert_one_line(err, says)
        return out


def assert_one_line(err, says):
    assert err.count("\n") == 1 and err.startswith("jaxseg: "), err
    assert "Traceback" not in err and "Errno" not in err
    for text in says:
        assert str(text) in err, (text, err)


def files(folder):
    """The content of every file below, hidden ones too, so that a test sees what has changed."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def picture(seed=0, size=SIZE):
    """Smooth random colours, uint8 `[H, W, 3]`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def partition(size=SIZE):
    """Six segments."""
    rows, columns = np.indices(size)
    return (rows * 2 // size[0] * 3 + columns * 3 // size[1]).astype(np.int32)


def write_data(folder, splits=(("train", 8), ("test", 2))):
    """A folder of partitions; gives its path."""
    for split, count in splits:
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            write_image(folder / "images" / split / f"{split}{i}.png", picture(i))
            write_labels(folder / "labels" / split / f"{split}{i}.png", partition())
    (folder / "dataset.json").write_text('{"kind": "partition"}')
    return folder
