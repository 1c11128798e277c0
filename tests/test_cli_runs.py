"""The command on runs: train, evaluate, predict, superpixels with weights, data prepare."""

import json
import shutil

import numpy as np
import pytest
import scipy.io
from command_line import EXPERIMENT, SIZE, TINY, Jaxseg, files, partition, picture, write_data
from PIL import Image

from jaxseg.train.log import read_metrics


@pytest.fixture
def jaxseg(capsys):
    return Jaxseg(capsys)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    """A run of three steps; not to be written to."""
    from jaxseg.cli import main

    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", str(EXPERIMENT), "--data", str(data), "--workdir", str(run), *TINY]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


class TestTrain:
    def train(self, data, run, *options, experiment=EXPERIMENT):
        return ("train", experiment, "--data", data, "--workdir", run, *TINY, *options)

    def test_what_a_run_holds(self, trained):
        names = {p.name for p in trained.iterdir()}
        assert names == {"config.json", "experiment.py", "metrics.jsonl", "checkpoints", "events"}
        config = json.loads((trained / "config.json").read_text())
        assert config["experiment"] == "ssn_bsds500" and config["config"]["width"] == 4
        assert (trained / "experiment.py").read_text() == EXPERIMENT.read_text()
        assert [p.name for p in (trained / "checkpoints").iterdir()] == ["3"]
        assert [line["step"] for line in read_metrics(trained)] == [3]

    def test_a_finished_run_is_left_as_it_is(self, jaxseg, data, run):
        out = jaxseg.succeeds(*self.train(data, run))
        assert "trained to step 3" in out
        assert [line["step"] for line in read_metrics(run)] == [3]

    def test_given_again_it_goes_on(self, jaxseg, data, run):
        # Another order of the arguments, and options that may change.
        options = ("--steps", 5, "--log-every", 1, "--save-every", 2)
        jaxseg.succeeds("train", "--workdir", run, *TINY, *options, "--data", data, EXPERIMENT)
        assert [line["step"] for line in read_metrics(run)] == [3, 4, 5]
        assert [p.name for p in (run / "checkpoints").iterdir()] == ["5"]
        assert json.loads((run / "config.json").read_text())["config"]["steps"] == 5

    def test_goes_on_with_its_own_copy(self, jaxseg, data, run):
        jaxseg.succeeds(*self.train(data, run, "--steps", 4, experiment=run / "experiment.py"))
        assert json.loads((run / "config.json").read_text())["experiment"] == "ssn_bsds500"

    def test_validation_writes_figures_and_pictures(self, jaxseg, data, tmp_path):
        options = ("--validation-split", "test", "--validation-superpixels", 12)
        out = jaxseg.succeeds(*self.train(data, tmp_path / "run", *options))
        assert "asa" in out
        assert read_metrics(tmp_path / "run")[-1]["12/asa"] > 0.5
        pictures = [p.name for p in (tmp_path / "run" / "pictures").iterdir()]
        assert pictures == ["12_0000003.png"]

    def test_another_config_is_refused(self, jaxseg, data, run):
        before = files(run)
        jaxseg.refuses(
            *self.train(data, run, "--width", 5), says=[run, "width was 4, is 5", "--workdir"]
        )
        assert files(run) == before

    def test_another_experiment_is_refused(self, jaxseg, data, run, tmp_path):
        before = files(run)
        other = shutil.copy(EXPERIMENT, tmp_path / "other.py")
        says = [run, "is a run of ssn_bsds500, not of other", "--workdir"]
        jaxseg.refuses(*self.train(data, run, experiment=other), says=says)
        (tmp_path / EXPERIMENT.name).write_text(EXPERIMENT.read_text() + "\n# changed\n")
        command = self.train(data, run, experiment=tmp_path / EXPERIMENT.name)
        jaxseg.refuses(*command, says=[run, "has changed since", "--workdir"])
        assert files(run) == before

    def test_a_run_without_checkpoint_may_begin_again_differently(self, jaxseg, data, tmp_path):
        run = tmp_path / "run"
        too_fast = ("--learning-rate", 1e30, "--log-every", 1)
        command = self.train(data, run, *too_fast)
        jaxseg.refuses(*command, says=["is nan", "no checkpoint", "lower learning rate"])
        jaxseg.succeeds(*self.train(data, run))
        config = json.loads((run / "config.json").read_text())["config"]
        assert config["learning_rate"] == 1e-4
        assert [line["step"] for line in read_metrics(run)] == [3]

    def test_a_folder_of_other_files_is_refused(self, jaxseg, data, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        before = files(tmp_path)
        jaxseg.refuses(*self.train(data, tmp_path), says=[tmp_path, "no run", "--workdir"])
        assert files(tmp_path) == before


class TestEvaluate:
    def test_figures(self, jaxseg, data, run):
        out = jaxseg.succeeds("evaluate", run, "--data", data)
        assert "asa" in out and "12" in out and str(run / "evaluation_test.json") in out
        record = json.loads((run / "evaluation_test.json").read_text())
        assert (record["step"], record["split"]) == (3, "test")
        figures = record["figures"]
        assert figures["12/pairs"] == 2 and 0.5 < figures["12/asa"] <= 1
        assert {p.name for p in run.glob("evaluation*")} == {"evaluation_test.json"}

    def test_splits_joined(self, jaxseg, data, run):
        command = ("evaluate", "--split", "train+test", "--checkpoint", "latest", "--data", data)
        jaxseg.succeeds(*command, run)
        record = json.loads((run / "evaluation_train_test.json").read_text())
        assert record["figures"]["12/pairs"] == 10

    @pytest.mark.parametrize("split", ["nope", "train_split", "train+nope"])
    def test_unknown_split(self, jaxseg, data, run, split):
        before = files(run)
        says = [data, "no split", "train, test"]
        jaxseg.refuses("evaluate", run, "--data", data, "--split", split, says=says)
        assert files(run) == before

    def test_data_without_labels(self, jaxseg, data, run):
        says = [data / "images/test", "unlabelled"]
        command = ("evaluate", run, "--data", data / "images/test", "--split", "all")
        jaxseg.refuses(*command, says=says)

    def test_label_of_another_size(self, jaxseg, run, tmp_path):
        data = write_data(tmp_path / "set")
        label = data / "labels/test/test1.png"
        Image.fromarray(partition((40, 50)).astype(np.uint16)).save(label)
        before = files(tmp_path)
        says = [label, "40x50", "40x56", "export the label"]
        jaxseg.refuses("evaluate", run, "--data", data, says=says)
        assert files(tmp_path) == before


class TestPredict:
    def test_label_map_and_overlay(self, jaxseg, run, data, tmp_path):
        out = tmp_path / "out"
        jaxseg.succeeds("predict", run, data / "images/test", "-o", out)
        stems = ("test0_superpixels", "test1_superpixels")
        names = {f"{stem}{end}.png" for stem in stems for end in ("", "_overlay")}
        assert {p.name for p in out.iterdir()} == names
        labels = np.asarray(Image.open(out / "test0_superpixels.png"))
        assert labels.shape == SIZE and len(np.unique(labels)) > 3

    def test_superpixels_with_its_weights(self, jaxseg, run, data, tmp_path):
        image = data / "images/test/test0.png"
        for weights in (run, "pix"):
            command = ("superpixels", image, "-n", 30, "--weights", weights)
            jaxseg.succeeds(*command, "-o", tmp_path / str(weights == run))
        learned, pix = (
            np.asarray(Image.open(tmp_path / f / "test0.png")) for f in ("True", "False")
        )
        assert 23 <= learned.max() + 1 <= 37
        assert not np.array_equal(learned, pix)

    def test_too_small_for_the_run(self, jaxseg, run, data, tmp_path):
        Image.new("RGB", (3, 3)).save(tmp_path / "dot.png")
        out = tmp_path / "out"
        says = [tmp_path / "dot.png", "3x3", "larger"]
        images = (tmp_path / "dot.png", data / "images/test/test0.png")
        out_text = jaxseg.refuses("predict", run, *images, "-o", out, says=says)
        assert "1 of 2 images" in out_text
        assert {p.name.partition("_")[0] for p in out.iterdir()} == {"test0"}


class TestRunsThatCannotBeRead:
    @pytest.fixture(params=["evaluate", "predict", "superpixels"])
    def command(self, request, data, tmp_path):
        image, out = data / "images/test/test0.png", tmp_path / "out"
        return {
            "evaluate": lambda run: ("evaluate", run, "--data", data),
            "predict": lambda run: ("predict", run, image, "-o", out),
            "superpixels": lambda run: ("superpixels", image, "--weights", run, "-n", 9, "-o", out),
        }[request.param]

    def refused(self, jaxseg, command, run, tmp_path, says):
        before = files(tmp_path)
        jaxseg.refuses(*command(run), says=[run, *says])
        assert files(tmp_path) == before

    def test_missing(self, jaxseg, command, tmp_path):
        self.refused(jaxseg, command, tmp_path / "nope", tmp_path, ["no such run folder; check"])

    def test_not_a_run(self, jaxseg, command, tmp_path):
        self.refused(jaxseg, command, tmp_path, tmp_path, ["not a run folder", "--workdir"])

    def test_damaged_config(self, jaxseg, command, run, tmp_path):
        (run / "config.json").write_text('{"experiment": "ssn_b')
        self.refused(jaxseg, command, run, tmp_path, ["config.json", "damaged; restore it"])

    def test_no_checkpoint_yet(self, jaxseg, command, run, tmp_path):
        shutil.rmtree(run / "checkpoints")
        self.refused(jaxseg, command, run, tmp_path, ["no checkpoint yet; train first"])

    @pytest.mark.parametrize("share", [0, 0.5])
    def test_checkpoint_cut_off(self, jaxseg, command, run, tmp_path, share):
        cut_off(run / "checkpoints/3", share)
        says = ["checkpoints/3", "damaged", "delete that folder and train again"]
        self.refused(jaxseg, command, run, tmp_path, says)


def cut_off(checkpoint, share):
    """Leaves the given share of each of its files of weights."""
    for path in (checkpoint / "variables").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def test_training_does_not_go_on_from_a_checkpoint_cut_off(jaxseg, data, run):
    cut_off(run / "checkpoints/3", 0.5)
    before = files(run / "checkpoints")
    command = ("train", EXPERIMENT, "--data", data, "--workdir", run, *TINY, "--steps", 4)
    jaxseg.refuses(*command, says=[run / "checkpoints/3", "damaged", "delete that folder"])
    assert files(run / "checkpoints") == before
    shutil.rmtree(run / "checkpoints/3")
    jaxseg.succeeds(*command)


class TestPrepare:
    @pytest.fixture
    def release(self, tmp_path):
        root = tmp_path / "BSR"
        for split, count in (("train", 8), ("test", 2)):
            for kind in ("images", "groundTruth"):
                (root / "BSDS500/data" / kind / split).mkdir(parents=True)
            for i in range(count):
                image = root / f"BSDS500/data/images/{split}/{i}.jpg"
                Image.fromarray(picture(i)).save(image)
                cell = {"Segmentation": partition() + 1, "Boundaries": partition() % 2}
                cells = np.array([[cell]], object)
                truth = root / f"BSDS500/data/groundTruth/{split}/{i}.mat"
                scipy.io.savemat(truth, {"groundTruth": cells})
        return root

    def test_then_train_and_evaluate(self, jaxseg, release, tmp_path):
        command = ("data", "prepare", "bsds500", "--source", release, "-o", tmp_path / "sets")
        out = jaxseg.succeeds(*command)
        data, run = out.strip().split("--data ")[1], tmp_path / "run"
        jaxseg.succeeds("train", EXPERIMENT, "--data", data, "--workdir", run, *TINY)
        jaxseg.succeeds("evaluate", run, "--data", data)
        figures = json.loads((run / "evaluation_test.json").read_text())["figures"]
        assert figures["12/pairs"] == 2

    def test_damaged_truth(self, jaxseg, release, tmp_path):
        truth = release / "BSDS500/data/groundTruth/train/5.mat"
        truth.write_bytes(truth.read_bytes()[:200])
        before = files(tmp_path)
        command = ("data", "prepare", "bsds500", "--source", release, "-o", tmp_path / "sets")
        jaxseg.refuses(*command, says=[truth, "no ground truth", "copy the release again"])
        assert files(tmp_path) == before

    def test_unknown_set_and_no_release(self, jaxseg, tmp_path):
        for name, says in (("voc", "there is one for bsds500"), ("bsds500", tmp_path)):
            command = ("data", "prepare", name, "--source", tmp_path, "-o", tmp_path / "out")
            jaxseg.refuses(*command, says=[says])
        assert list(tmp_path.iterdir()) == []
