"""Bad input: status 2, one line that names the thing and the mend, and nothing spoilt."""

import shutil

import numpy as np
import pytest
from command_line import EXPERIMENT, TINY, Jaxseg, files, partition, picture, write_data
from PIL import Image


@pytest.fixture
def jaxseg(capsys):
    return Jaxseg(capsys)


@pytest.fixture
def refused(jaxseg, tmp_path):
    """Runs a command that must be refused and must leave every file as it was."""

    def run(*arguments, says):
        before = files(tmp_path)
        out = jaxseg.refuses(*arguments, says=says)
        assert files(tmp_path) == before
        return out

    return run


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.png"
    Image.fromarray(picture()).save(path)
    return path


def not_an_image(folder):
    path = folder / "letter.jpg"
    path.write_text("Dear Sir or Madam")
    return path, "not an image"


def truncated(folder):
    path = folder / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    return path, "damaged"


def empty_file(folder):
    path = folder / "empty.png"
    path.touch()
    return path, "not an image"


def floating_point(folder):
    path = folder / "float.tif"
    Image.fromarray(np.ones((8, 8), np.float32)).save(path)
    return path, "8 or 16 bits"


BAD = [not_an_image, truncated, empty_file, floating_point]


class TestImages:
    def test_missing(self, refused, good, tmp_path):
        path, out = tmp_path / "nope.png", tmp_path / "out"
        refused("superpixels", good, path, "-o", out, says=[path, "no such image; check the path"])
        assert not out.exists()

    def test_none_named(self, refused):
        refused("superpixels", says=["no image is named; give images"])

    @pytest.mark.parametrize("make", BAD)
    def test_unreadable(self, refused, tmp_path, make):
        path, what = make(tmp_path)
        out = refused("superpixels", path, "-n", 4, "-o", tmp_path / "out", says=[path, what, "; "])
        assert "written" not in out

    @pytest.mark.parametrize("make", BAD)
    def test_a_bad_one_among_good_ones(self, jaxseg, tmp_path, make):
        folder = tmp_path / "in"
        folder.mkdir()
        for name in ("a.png", "z.png"):
            Image.fromarray(picture()).save(folder / name)
        path, what = make(folder)
        command = ("superpixels", folder, "-n", 6, "-o", tmp_path / "out", "--statistics", "csv")
        assert "2 of 3 images" in jaxseg.refuses(*command, says=[path, what])
        wanted = {f"{stem}{end}" for stem in "az" for end in (".png", "_overlay.png", ".csv")}
        assert {str(p) for p in files(tmp_path / "out")} == wanted

    def test_empty_folder(self, refused, tmp_path):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "notes.txt").touch()
        refused("superpixels", tmp_path / "in", says=[tmp_path / "in", "no image in this folder"])

    def test_two_of_one_name(self, refused, good, tmp_path):
        (tmp_path / "other").mkdir()
        twin = shutil.copy(good, tmp_path / "other" / "good.bmp")
        refused("superpixels", good, twin, says=[good, twin, "rename"])

    def test_results_never_replace_images(self, refused, jaxseg, good, tmp_path):
        says = [good, "would overwrite an image; choose another -o"]
        refused("superpixels", good, "-n", 6, "-o", tmp_path, says=says)
        second = shutil.copy(good, tmp_path / "good_overlay.png")
        command = ("superpixels", good, second, "-n", 6, "-o", tmp_path / "out")
        jaxseg.refuses(*command, says=[second, f"would overwrite that of {good}"])
        assert len(files(tmp_path / "out")) == 3

    @pytest.mark.parametrize("place", ["file", "file/inside"])
    def test_output_folder_that_cannot_be_made(self, refused, good, tmp_path, place):
        (tmp_path / "file").write_text("in the way")
        out = tmp_path / place
        says = [out, "cannot be made", "choose another -o"]
        refused("superpixels", good, "-o", out, says=says)


class TestNumbers:
    @pytest.mark.parametrize("number", [0, -3])
    def test_too_small(self, refused, good, number):
        refused("superpixels", good, "-n", number, says=[f"-n {number}", "1 superpixel or more"])

    @pytest.mark.parametrize("number", [561, 10**9])
    def test_larger_than_the_image_allows(self, refused, good, tmp_path, number):
        says = [good, number, "1 to 560", "40x56", "choose another -n"]
        refused("superpixels", good, "-n", number, "-o", tmp_path / "out", says=says)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "set")


class TestTraining:
    """What `train` refuses before it has made the run's folder."""

    @pytest.fixture
    def train(self, refused, tmp_path):
        def run(experiment, data, *options, says):
            workdir = tmp_path / "run"
            command = ("train", experiment, "--data", data, "--workdir", workdir, *TINY)
            refused(*command, *options, says=says)
            assert not workdir.exists()

        return run

    def test_no_experiment(self, refused, train, data, tmp_path):
        refused("train", says=["no experiment file", "EXPERIMENT.py"])
        train(tmp_path / "nope.py", data, says=[tmp_path / "nope.py", "no such experiment file"])

    @pytest.mark.parametrize(
        "text, says",
        [
            ("def build(:", ["SyntaxError", "mend the file"]),
            ("import nowhere", ["No module named 'nowhere'", "mend the file"]),
            ("x = 1", ["does not define Config, VARIANTS, build"]),
        ],
    )
    def test_an_experiment_that_cannot_be_run(self, train, data, tmp_path, text, says):
        path = tmp_path / "mine.py"
        path.write_text(text)
        train(path, data, says=[path, *says])

    def test_missing_options(self, jaxseg, data):
        for options in (("--data", data), ("--workdir", "run")):
            status, _, err = jaxseg("train", EXPERIMENT, *options)
            assert (
                status == 2 and "Traceback" not in err and ("--workdir" in err or "--data" in err)
            )

    @pytest.mark.parametrize(
        "options, says",
        [
            (("--variant", "huge"), ["no variant 'huge'", "paper, small, linear, pix"]),
            (("--batch-size", 0), ["batch_size is 0", "1 or more"]),
            (("--steps", -1), ["steps is -1", "0 or more"]),
            (("--seed", -1), ["seed is -1", "give 0 or more"]),
            (("--num-features", 5), ["num_features is 5", "more than 5"]),
            (("--train-superpixels", 10_000), ["train_superpixels", "1 to 256"]),
            (("--train-split", "nope"), ["no split 'nope'", "train, test"]),
            (("--validation-split", "val"), ["no split 'val'", "train, test"]),
            (
                ("--validation-split", "test", "--validation-superpixels", 999),
                ["test0 (40x56) is too small for 999"],
            ),
        ],
    )
    def test_numbers_and_names(self, train, data, options, says):
        train(EXPERIMENT, data, *options, says=says)

    def test_data_missing_or_empty(self, train, data, tmp_path):
        train(EXPERIMENT, tmp_path / "nope", says=[tmp_path / "nope", "no such data", "--data"])
        (tmp_path / "void").mkdir()
        train(EXPERIMENT, tmp_path / "void", says=[tmp_path / "void", "empty", "--data"])
        empty = write_data(tmp_path / "set", splits=(("train", 0), ("test", 1)))
        train(EXPERIMENT, empty, says=[empty / "images/train", "no images"])

    def test_data_without_a_label(self, train, tmp_path):
        data = write_data(tmp_path / "set")
        (data / "labels/train/train3.png").unlink()
        train(EXPERIMENT, data, says=[data / "images/train/train3.png", "no label", "add it"])

    def test_workdir_that_cannot_be_made(self, refused, data, good):
        command = ("train", EXPERIMENT, "--data", data, *TINY, "--workdir")
        refused(*command, good, says=[good, "cannot be made", "--workdir"])
        refused(*command, good / "in", says=[good / "in", "cannot be made", "--workdir"])


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda image, label: truncated_copy(image), ["train3.png", "damaged"]),
        (lambda image, label: smaller(label), ["train3.png", "40x50", "40x56", "export the label"]),
    ],
)
def test_data_that_training_meets_later(jaxseg, tmp_path, spoil, says):
    """The run's folder is there by then; the same command works once the file is mended."""
    data, run = write_data(tmp_path / "set"), tmp_path / "run"
    spoil(data / "images/train/train3.png", data / "labels/train/train3.png")
    command = ("train", EXPERIMENT, "--data", data, "--workdir", run, *TINY)
    before = files(data)
    jaxseg.refuses(*command, says=says)
    assert files(data) == before
    assert not any("tmp" in str(p) or ".part" in str(p) for p in files(run))
    shutil.rmtree(data)
    write_data(data)
    jaxseg.succeeds(*command)


def truncated_copy(path):
    path.write_bytes(path.read_bytes()[:-500])


def smaller(path):
    Image.fromarray(partition((40, 50)).astype(np.uint16)).save(path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("superpixels", "a.png", "-n", "many"), "invalid literal for int() with base 10: 'many'"),
        (("superpixels", "a.png", "--nonsense"), "--nonsense"),
        (("evaluate",), "RUN"),
        (("train", EXPERIMENT, "--data", "somewhere"), "--workdir"),
    ],
    ids=["not a number", "unknown", "missing", "train"],
)
def test_wrong_options_are_told_in_one_line(jaxseg, arguments, says):
    jaxseg.refuses(*arguments, says=[says, "--help"])
