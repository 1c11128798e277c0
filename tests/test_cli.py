"""The command: its help, and `jaxseg superpixels` on files of every kind."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.ndimage
from command_line import SIZE, Jaxseg, picture
from PIL import Image

import jaxseg as package
from jaxseg.cli import COMMANDS
from jaxseg.data import samples_path


@pytest.fixture
def jaxseg(capsys):
    return Jaxseg(capsys)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(picture()).save(path)
    return path


def label_map(path):
    with Image.open(path) as file:
        assert file.mode == "I;16"
        return np.asarray(file).astype(np.int32)


def assert_regions(labels, size):
    """Numbered without gaps, and each 4-connected."""
    assert labels.shape == size
    count = labels.max() + 1
    assert set(np.unique(labels)) == set(range(count))
    assert all(scipy.ndimage.label(labels == k)[1] == 1 for k in range(count))
    return count


class TestHelp:
    @pytest.mark.parametrize("word", ["--help", "-h", "help"])
    def test_help_names_every_command(self, jaxseg, word):
        out = jaxseg.succeeds(word)
        assert all(name in out for name in COMMANDS)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_help_of_a_command(self, jaxseg, name):
        assert f"usage: jaxseg {name}" in jaxseg.succeeds(name, "--help")

    def test_version(self, jaxseg):
        assert jaxseg.succeeds("--version") == f"jaxseg {package.__version__}\n"

    def test_no_command_prints_the_help(self, jaxseg):
        status, out, err = jaxseg()
        assert (status, err) == (2, "") and "usage: jaxseg COMMAND" in out

    def test_unknown_command(self, jaxseg):
        jaxseg.refuses("superpixel", says=["'superpixel'", "superpixels, train"])

    @pytest.mark.parametrize(
        "arguments",
        [
            ("superpixels", "-n"),
            ("superpixels", "x.png", "-n", "many"),
            ("superpixels", "x.png", "--nope", "3"),
            ("evaluate",),
            ("predict",),
            ("data", "prepare"),
        ],
    )
    def test_wrong_options(self, jaxseg, arguments):
        status, _, err = jaxseg(*arguments)
        assert status == 2 and err and "Traceback" not in err

    def test_as_a_module(self, tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "jaxseg", "nope"], cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("jaxseg: no command 'nope'")


class TestSuperpixels:
    @pytest.mark.parametrize("number", [1, 6, 60, 560])
    def test_count_within_a_quarter(self, jaxseg, image, tmp_path, number):
        out = tmp_path / "out"
        assert str(out) in jaxseg.succeeds("superpixels", image, "-n", number, "-o", out)
        assert {p.name for p in out.iterdir()} == {"image.png", "image_overlay.png", "image.json"}
        count = assert_regions(label_map(out / "image.png"), SIZE)
        assert abs(count - number) <= number / 4

    @pytest.mark.parametrize("number", [1, 6, 60, 560])
    def test_exact_count(self, jaxseg, image, tmp_path, number):
        jaxseg.succeeds("superpixels", "--exact", "-n", number, image, "--out", tmp_path / "out")
        assert assert_regions(label_map(tmp_path / "out/image.png"), SIZE) == number

    def test_one_colour(self, jaxseg, tmp_path):
        Image.new("RGB", SIZE[::-1], (9, 80, 200)).save(tmp_path / "plain.png")
        jaxseg.succeeds("superpixels", tmp_path / "plain.png", "-n", 20, "-o", tmp_path / "out")
        assert 15 <= assert_regions(label_map(tmp_path / "out/plain.png"), SIZE) <= 25

    @pytest.mark.parametrize("size", [(1, 1), (3, 5), (1, 40)])
    def test_very_small(self, jaxseg, tmp_path, size):
        Image.fromarray(picture(size=size)).save(tmp_path / "small.png")
        number = max(1, size[0] * size[1] // 4)
        command = ("superpixels", "--exact", tmp_path / "small.png", "-n", number)
        jaxseg.succeeds(*command, "-o", tmp_path / "out")
        assert assert_regions(label_map(tmp_path / "out/small.png"), size) == number

    def test_folders_and_files(self, jaxseg, image, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()
        for i, name in enumerate(("a.png", "b.JPG", "c.tif")):
            Image.fromarray(picture(i)).save(folder / name)
        (folder / "notes.txt").write_text("no image")
        (folder / ".hidden.png").write_text("no image")
        out = tmp_path / "out"
        jaxseg.succeeds(
            "superpixels", folder, image, image, "-n", 12, "--statistics", "none", "-o", out
        )
        stems = ("a", "b", "c", "image")
        assert {p.name for p in out.iterdir()} == {
            f"{s}{e}.png" for s in stems for e in ("", "_overlay")
        }
        assert not np.array_equal(label_map(out / "a.png"), label_map(out / "c.png"))

    def test_bundled_photograph(self, jaxseg, tmp_path):
        out = tmp_path / "out"
        jaxseg.succeeds(
            "superpixels", samples_path() / "photos" / "camera.png", "-n", 50, "-o", out
        )
        assert 38 <= assert_regions(label_map(out / "camera.png"), (512, 512)) <= 62

    def test_overlay_differs_from_the_image_on_boundaries_alone(self, jaxseg, image, tmp_path):
        jaxseg.succeeds("superpixels", image, "-n", 12, "-o", tmp_path / "out")
        labels = label_map(tmp_path / "out/image.png")
        drawn = np.asarray(Image.open(tmp_path / "out/image_overlay.png"))
        changed = (drawn != picture()).any(-1)
        near = scipy.ndimage.maximum_filter(labels, 3) != scipy.ndimage.minimum_filter(labels, 3)
        assert changed.any() and not (changed & ~near).any()


class TestStatistics:
    @pytest.fixture
    def segmented(self, jaxseg, image, tmp_path):
        """The label map, and what SciPy says of its regions."""
        for kind in ("json", "csv"):
            out = tmp_path / kind
            jaxseg.succeeds("superpixels", image, "-n", 12, "--statistics", kind, "-o", out)
        return label_map(out / "image.png"), self.expected(label_map(out / "image.png"))

    def expected(self, labels):
        pairs = set()
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            pairs |= set(zip(a.ravel(), b.ravel(), strict=True))
        return [
            {
                "label": k,
                "area": np.sum(labels == k),
                "centroid": scipy.ndimage.center_of_mass(labels == k),
                "bounding_box": [s.start for s in box] + [s.stop for s in box],
                "mean_color": [
                    scipy.ndimage.mean(picture()[..., c].astype(float), labels, k) for c in range(3)
                ],
                "neighbors": sorted({a + b - k for a, b in pairs if k in (a, b) and a != b}),
            }
            for k, box in enumerate(scipy.ndimage.find_objects(labels + 1))
        ]

    def test_json(self, segmented, tmp_path):
        labels, expected = segmented
        record = json.loads((tmp_path / "json/image.json").read_text())
        assert (record["height"], record["width"]) == labels.shape
        assert len(record["regions"]) == len(expected) > 1
        for found, wanted in zip(record["regions"], expected, strict=True):
            assert found.keys() == wanted.keys()
            for name, value in wanted.items():
                np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)

    def test_csv(self, segmented, tmp_path):
        labels, expected = segmented
        text = (tmp_path / "csv/image.csv").read_text()
        rows = list(csv.DictReader(io.StringIO(text)))
        np.testing.assert_array_equal(label_map(tmp_path / "json/image.png"), labels)
        for row, wanted in zip(rows, expected, strict=True):
            assert [int(n) for n in row.pop("neighbors").split()] == wanted.pop("neighbors")
            values = np.concatenate([np.ravel(v) for v in wanted.values()])
            np.testing.assert_allclose([float(v) for v in row.values()], values, atol=6e-4)
        assert text.startswith("label,area,row,column,y0,x0,y1,x1,red,green,blue,neighbors\n")


class TestKindsOfImage:
    """Each must give the label map of the plain RGB image that it shows."""

    def labels(self, jaxseg, folder, save, expected):
        """Both label maps; `save` writes a file, `expected` is uint8 `[H, W, 3]`."""
        (folder / "in").mkdir()
        written = save(folder / "in")
        Image.fromarray(expected).save(folder / "in" / "expected.png")
        jaxseg.succeeds("superpixels", folder / "in", "-n", 20, "-o", folder / "out")
        names = (written.stem, "expected")
        found, wanted = (label_map(folder / "out" / f"{name}.png") for name in names)
        assert_regions(found, expected.shape[:2])
        np.testing.assert_array_equal(found, wanted)

    def test_grey(self, jaxseg, tmp_path):
        grey = picture()[..., 0]

        def save(folder):
            Image.fromarray(grey).save(folder / "grey.png")
            return folder / "grey.png"

        self.labels(jaxseg, tmp_path, save, np.repeat(grey[..., None], 3, -1))

    def test_sixteen_bits(self, jaxseg, tmp_path):
        grey = picture()[..., 0]

        def save(folder):
            Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
            return folder / "deep.png"

        self.labels(jaxseg, tmp_path, save, np.repeat(grey[..., None], 3, -1))

    def test_palette(self, jaxseg, tmp_path):
        quantized = Image.fromarray(picture()).quantize(16)

        def save(folder):
            quantized.save(folder / "palette.gif")
            return folder / "palette.gif"

        self.labels(jaxseg, tmp_path, save, np.asarray(quantized.convert("RGB")))

    def test_transparency_is_dropped(self, jaxseg, tmp_path):
        alpha = np.random.default_rng(0).integers(0, 256, (*SIZE, 1)).astype(np.uint8)

        def save(folder):
            Image.fromarray(np.concatenate([picture(), alpha], -1)).save(folder / "rgba.png")
            return folder / "rgba.png"

        self.labels(jaxseg, tmp_path, save, picture())

    @pytest.mark.parametrize("orientation, turns", [(3, 2), (6, 3), (8, 1)])
    def test_camera_orientation(self, jaxseg, tmp_path, orientation, turns):
        exif = Image.Exif()
        exif[0x0112] = orientation

        def save(folder):
            Image.fromarray(picture()).save(folder / "turned.png", exif=exif)
            return folder / "turned.png"

        self.labels(jaxseg, tmp_path, save, np.ascontiguousarray(np.rot90(picture(), turns)))
