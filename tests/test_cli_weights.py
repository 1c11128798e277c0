"""`jaxseg weights`: a run packed into a file that predicts the same, its card, and refusals."""

import dataclasses
import json
import shlex
import shutil
import warnings

import numpy as np
import orbax.checkpoint as ocp
import pytest
from command_line import EXPERIMENT, TINY, Jaxseg, files, picture, write_data
from PIL import Image
from safetensors.numpy import load_file

import jaxseg as package
from jaxseg import weights
from jaxseg.commands.train import _parse
from jaxseg.train.run_folder import open_run

FIGURES = {"12/asa": 0.93751, "12/br": 0.5}
SAID = ("--what", "SSN_linear of 8 features", "--data", "six rectangles", "--terms", "CC0-1.0")


@pytest.fixture
def jaxseg(capsys):
    return Jaxseg(capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of three steps with a moving average; not to be written to."""
    from jaxseg.cli import main

    folder = tmp_path_factory.mktemp("trained")
    data, run = write_data(folder / "set"), folder / "run"
    options = ["--data", str(data), "--workdir", str(run), *TINY, "--network", "linear"]
    options += ["--ema-decay", "0.5", "--learning-rate", "0.01"]
    assert main(["train", str(EXPERIMENT), *options]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    """With an evaluation of its step, and one of another step."""
    run = shutil.copytree(trained, tmp_path / "run")
    for split, step in (("test", 3), ("val", 2)):
        record = {"step": step, "split": split, "figures": FIGURES}
        (run / f"evaluation_{split}.json").write_text(json.dumps(record))
    return run


def pack(run, file, *options):
    return ("weights", "pack", run, "--name", "tiny", "-o", file, *options)


class TestPack:
    def test_predicts_as_the_run(self, jaxseg, run, tmp_path):
        file = tmp_path / "tiny.safetensors"
        out = jaxseg.succeeds(*pack(run, file, *SAID))
        assert "step 3" in out and str(file) in out and "tiny.md" in out
        of_run, of_file = package.load(run), package.load(file)
        assert of_file.step == 3
        image = picture(3)
        expected = of_run(image, num_superpixels=20)["superpixels"]
        np.testing.assert_array_equal(of_file(image, num_superpixels=20)["superpixels"], expected)

    def test_holds_the_moving_average(self, jaxseg, run, tmp_path):
        jaxseg.succeeds(*pack(run, tmp_path / "tiny.safetensors", "--step", "latest"))
        found = load_file(tmp_path / "tiny.safetensors")["params/conv/kernel"]
        with warnings.catch_warnings():  # Of orbax, about devices.
            warnings.simplefilter("ignore")
            read = ocp.StandardCheckpointer().restore
            predicts = read(run.absolute() / "checkpoints/3/variables")
            trains = read(run.absolute() / "checkpoints/3/training")
        np.testing.assert_array_equal(found, predicts["params"]["conv"]["kernel"])
        assert not np.array_equal(found, trains["params"]["conv"]["kernel"])

    def test_the_same_bytes_again(self, jaxseg, run, tmp_path):
        for name in "ab":
            jaxseg.succeeds(*pack(run, tmp_path / f"{name}.safetensors", *SAID))
        for ending in (".safetensors", ".md"):
            assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()

    def test_header(self, jaxseg, run, tmp_path):
        jaxseg.succeeds(*pack(run, tmp_path / "x.safetensors", *SAID))
        card = weights.read_card(tmp_path / "x.safetensors")
        assert card[:3] == ("tiny", "SSN_linear of 8 features", "superpixels")
        assert card[4:] == (3, package.__version__, "six rectangles", "CC0-1.0")
        assert card.config == json.loads((run / "config.json").read_text())["config"]

    def test_card(self, jaxseg, run, tmp_path):
        out = jaxseg.succeeds(*pack(run, tmp_path / "x.safetensors", *SAID))
        text = (tmp_path / "x.md").read_text()
        assert "evaluation_val.json: left out, it is of step 2, not 3" in out
        assert "six rectangles" in text and "CC0-1.0" in text
        assert weights.TO_FILL_IN not in text
        assert "0.9375" in text and "--split test" in text and "--split val" not in text

    def test_its_command_trains_the_same(self, jaxseg, run, tmp_path):
        record = json.loads((run / "config.json").read_text())
        changes = {"train_superpixels": [9, 16], "decay": "cosine", "train_split": "a b"}
        record["config"] |= changes
        (run / "config.json").write_text(json.dumps(record))
        jaxseg.succeeds(*pack(run, tmp_path / "x.safetensors"))
        text = (tmp_path / "x.md").read_text()
        (command,) = (line for line in text.splitlines() if "jaxseg train" in line)
        words = [str(EXPERIMENT) if w.endswith(".py") else w for w in shlex.split(command)[2:]]
        _, config = _parse(words)
        assert dataclasses.asdict(config) == dataclasses.asdict(open_run(run)[1])

    def test_what_is_not_said_is_marked(self, jaxseg, trained, tmp_path):
        jaxseg.succeeds(*pack(trained, tmp_path / "x.safetensors"))
        assert (tmp_path / "x.md").read_text().count(weights.TO_FILL_IN) == 4


class TestPackRefuses:
    def refused(self, jaxseg, tmp_path, *command, says):
        before = files(tmp_path)
        jaxseg.refuses(*command, says=says)
        assert files(tmp_path) == before

    def test_what_is_there_already(self, jaxseg, run, tmp_path):
        for name in ("x.safetensors", "y.md"):
            (tmp_path / name).write_text("mine")
            file = (tmp_path / name).with_suffix(".safetensors")
            says = [tmp_path / name, "exists already"]
            self.refused(jaxseg, tmp_path, *pack(run, file), says=says)

    def test_names(self, jaxseg, run, tmp_path):
        says = ["x.npz", "ends in .safetensors"]
        self.refused(jaxseg, tmp_path, *pack(run, tmp_path / "x.npz"), says=says)
        command = pack(run, tmp_path / "x.safetensors", "--name", "../up")
        self.refused(jaxseg, tmp_path, *command, says=["--name '../up'"])
        command = pack(run, tmp_path / "no" / "x.safetensors")
        self.refused(jaxseg, tmp_path, *command, says=["not written", "check the folder"])

    def test_no_run(self, jaxseg, tmp_path):
        file = tmp_path / "x.safetensors"
        self.refused(jaxseg, tmp_path, *pack(tmp_path, file), says=["not a run folder"])
        says = ["no such run folder; check"]
        self.refused(jaxseg, tmp_path, *pack(tmp_path / "no", file), says=says)

    def test_a_network_of_its_own(self, jaxseg, run, tmp_path):
        own = "\n\ndef build(config, inner=build):\n    return inner(config)\n"
        (run / "experiment.py").write_text((run / "experiment.py").read_text() + own)
        says = [run, "a network of its own", "superpixels"]
        self.refused(jaxseg, tmp_path, *pack(run, tmp_path / "x.safetensors"), says=says)

    def test_no_checkpoint(self, jaxseg, run, tmp_path):
        shutil.rmtree(run / "checkpoints")
        command = pack(run, tmp_path / "x.safetensors")
        self.refused(jaxseg, tmp_path, *command, says=["no checkpoint yet"])

    @pytest.mark.parametrize("text", ["{", "[]", '{"step": 3, "split": "test", "figures": 1}'])
    def test_damaged_evaluation(self, jaxseg, run, tmp_path, text):
        (run / "evaluation_test.json").write_text(text)
        command = pack(run, tmp_path / "x.safetensors")
        self.refused(jaxseg, tmp_path, *command, says=["evaluation_test.json", "damaged"])

    def test_options(self, jaxseg):
        jaxseg.refuses("weights", says=["list", "pack", "--help"])
        jaxseg.refuses("weights", "unpack", says=["unpack", "--help"])
        jaxseg.refuses("weights", "pack", "run", says=["--name", "--help"])


class TestListAndShow:
    @pytest.fixture
    def folder(self, jaxseg, trained, tmp_path, monkeypatch):
        folder = tmp_path / "weights"
        folder.mkdir()
        jaxseg.succeeds(*pack(trained, folder / "tiny.safetensors", *SAID))
        monkeypatch.setattr("jaxseg.weights._bundled.FOLDER", folder)
        return folder

    def test_list(self, jaxseg, folder):
        head, row = jaxseg.succeeds("weights", "list").splitlines()
        assert head.split() == ["name", "what", "size", "data", "terms"]
        size = round((folder / "tiny.safetensors").stat().st_size / 1000)
        assert row.split("  ")[0] == "tiny" and f"{size} kB" in row
        assert "SSN_linear of 8 features" in row and row.endswith("CC0-1.0")

    def test_none(self, jaxseg, folder):
        (folder / "tiny.safetensors").unlink()
        assert "no weights come with" in jaxseg.succeeds("weights", "list")

    def test_damaged(self, jaxseg, folder):
        (folder / "tiny.safetensors").write_bytes(b"")
        jaxseg.refuses("weights", "list", says=[folder / "tiny.safetensors", "damaged"])

    def test_show(self, jaxseg, folder, tmp_path):
        card = (folder / "tiny.md").read_text()
        assert jaxseg.succeeds("weights", "show", "tiny") == card
        assert jaxseg.succeeds("weights", "show", folder / "tiny.safetensors") == card
        shutil.copy(folder / "tiny.safetensors", tmp_path / "alone.safetensors")
        alone = jaxseg.succeeds("weights", "show", tmp_path / "alone.safetensors")
        assert "licence: CC0-1.0" in alone and "step: 3" in alone and '"network": "linear"' in alone

    def test_show_refuses(self, jaxseg, folder, trained):
        jaxseg.refuses("weights", "show", "big", says=["big", "there are tiny"])
        jaxseg.refuses("weights", "show", trained, says=[trained, "is a folder", "pack it"])

    def test_other_commands_know_the_name(self, jaxseg, folder, tmp_path):
        Image.fromarray(picture()).save(tmp_path / "image.png")
        command = ("superpixels", tmp_path / "image.png", "-n", 20, "--weights", "tiny")
        jaxseg.succeeds(*command, "-o", tmp_path / "out")
        jaxseg.succeeds("predict", "tiny", tmp_path / "image.png", "-o", tmp_path / "out")
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert {"image.png", "image_superpixels.png"} <= names
