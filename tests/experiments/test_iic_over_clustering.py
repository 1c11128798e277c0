"""Clusters named by few labels beside plain loops, pictures of known clusters, toy runs."""

import json
import types

import iic_over_clustering as over
import iic_pictures as pictures
import iic_runs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import Jaxseg

from jaxseg import metrics
from jaxseg.data import MemorySource, eval_batches, read_image, write_image, write_labels
from jaxseg.predictor import Predictor
from jaxseg.recipes import iic_images, iic_pixels
from jaxseg.train import Evaluation
from jaxseg.train.run_folder import create_run, load_experiment
from jaxseg.types import Method

CLUSTERS, CLASSES, SUB_HEADS = 7, 3, 2
NAMES = ("sky", "house", "road")


def told_run(config, information=(0.0, 1.0)):
    """A run whose network is not needed."""
    state = {"information": {config.predicts: jnp.asarray(information)}}
    return iic_runs.Run("run", config, types.SimpleNamespace(params={}, model_state=state))


def told_row(clusters, sub_heads, labels, metric, **more):
    """An evaluation whose predictions are known, of images that hold their number."""
    answers = {"clusters": clusters, "sub_heads": sub_heads, **more}
    answers = {name: jnp.asarray(value) for name, value in answers.items()}

    def predict(params, state, batch):
        number = batch["image"].reshape(len(batch["image"]), -1)[:, 0].astype(int)
        return {name: value[number] for name, value in answers.items()}

    images = np.zeros((len(labels), *(labels.shape[1:] or (4, 4)), 3), np.uint8)
    images += np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    source = MemorySource(
        [{"image": x, "label": label} for x, label in zip(images, labels, strict=True)]
    )
    method = Method(None, None, predict)
    return Evaluation(method, metric, eval_batches(source, batch_size=4))


def split(seed, number, *shape):
    """Clusters that know something of the labels; some labels are -1, the last image has none."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, CLASSES, (number, *shape)).astype(np.int32)
    labels[-1] = -1
    noise = rng.integers(0, CLUSTERS, (number, SUB_HEADS, *shape))
    right = labels[:, None] + CLASSES * (noise % 2)
    heads = np.where(rng.random(noise.shape) < 0.7, right, noise).clip(0, CLUSTERS - 1)
    heads = heads.astype(np.int32)
    return heads[:, 1], heads, labels


def metric():
    return metrics.cluster_heads(CLUSTERS, CLASSES, matching="many_to_one", names=NAMES)


def by_loop(known, measured):
    """Accuracy of clusters named by the majority, the first of equals."""
    votes = [[0] * CLASSES for _ in range(CLUSTERS)]
    for clusters, labels in known:
        for k, c in zip(clusters.ravel(), labels.ravel(), strict=True):
            if c >= 0:
                votes[k][c] += 1
    names = [max(range(CLASSES), key=lambda c, v=v: (v[c], -c)) for v in votes]
    hits = [
        names[k] == c
        for clusters, labels in measured
        for k, c in zip(clusters.ravel(), labels.ravel(), strict=True)
        if c >= 0
    ]
    return 100 * np.mean(hits), sum(not any(v) for v in votes)


@pytest.mark.parametrize("shape", [(), (3, 5)])
def test_clusters_are_named_by_the_images_that_were_drawn(shape):
    mapping, score = split(0, 42, *shape), split(1, 40, *shape)
    run = told_run(iic_pixels.Config(predicts="over", over_clusters=CLUSTERS))
    known, measured = (over.counts_of(run, told_row(*x, metric())) for x in (mapping, score))
    with_label = [i for i in range(42) if (mapping[2][i] >= 0).any()]
    assert known.images == len(with_label) < 42
    shares = (1.0, 0.5, 0.1, 0.01)
    cells = over.cells_of(known, measured, over.OverClustering((), "", "", "", shares, 3, 4))
    expected = []
    for draw in range(3):
        order = np.random.default_rng((4, draw)).permutation(len(with_label))
        # All are all of them, however they are drawn.
        for share in shares[draw > 0 :]:
            number = max(1, round(share * len(with_label)))
            drawn = [with_label[i] for i in order[:number]]
            each = [
                by_loop(
                    [(mapping[1][i, s], mapping[2][i]) for i in drawn],
                    [(score[1][i, s], score[2][i]) for i in range(40)],
                )
                for s in range(SUB_HEADS)
            ]
            mean = np.mean([value for value, _ in each])
            expected.append((share, each[1][0], mean, each[1][1]))
    np.testing.assert_allclose(cells, expected, rtol=1e-12)
    assert cells[0].accuracy > 50 and len({cell.accuracy for cell in cells}) > 4


def test_all_labels_are_the_mapping_of_the_metric():
    mapping, score = split(2, 12, 4, 4), split(3, 10, 4, 4)
    run = told_run(iic_pixels.Config(predicts="over", over_clusters=CLUSTERS))
    known, measured = (over.counts_of(run, told_row(*x, metric())) for x in (mapping, score))
    options = over.OverClustering((), "", shares=(1.0,))
    [cell] = over.cells_of(known, measured, options)
    taken = metrics.match(known.tables()[0], "many_to_one")
    fixed = metrics.clustering(CLUSTERS, CLASSES, mapping=taken)
    batch = {"label": score[2], "weight": np.ones(10)}
    figures = fixed.compute(fixed.measure({"clusters": score[0]}, batch))
    assert cell.accuracy == pytest.approx(100 * figures["accuracy"])


def test_tables_are_over_draws_and_runs():
    cells = [over.Cell(1.0, 90, 1, 0), over.Cell(0.1, 50, 2, 3), over.Cell(0.1, 54, 3, 4)]
    results = {10: cells, 50: [over.Cell(1.0, 95, 0, 0), over.Cell(0.1, 70, 0, 0)]}
    assert over.table(results, (1.0, 0.1), lambda cell: cell.accuracy).splitlines() == [
        "| clusters | 100 % | 10 % |",
        "| ---: | ---: | ---: |",
        "| 10 | 90.00 | 52.00 ± 2.83 |",
        "| 50 | 95.00 | 70.00 |",
    ]


def grouped_sheet(monkeypatch, row, run, count):
    """What `scenes` lays out."""
    seen = {}

    def spy(rows, titles, *, captions, cell_size):
        seen.update(rows=rows, titles=titles, captions=captions)
        return np.zeros((10, 400, 3), np.uint8)

    monkeypatch.setattr(pictures.viz, "comparison_sheet", spy)
    assert pictures.scenes(run, row, count, maps_only=True).shape[1:] == (400, 3)
    (line,) = seen["rows"]
    flat = {tuple(color) for part in line for color in part.reshape(-1, 3)}
    # The groups' colours, and nothing of the photographs.
    assert len(line) == count and flat <= set(run.config.class_colors)
    assert pictures.scenes(run, row, count).shape[1:] == (400, 3)
    return seen


@pytest.mark.parametrize("head", ["main", "over"])
def test_clusters_are_painted_as_the_groups_they_are_taken_for(monkeypatch, head):
    labels = np.random.default_rng(0).integers(0, CLASSES, (9, 6, 8)).astype(np.int32)
    labels[0, 0, 0] = -1
    number = CLASSES if head == "main" else 2 * CLASSES
    clusters = (number - 1 - np.maximum(labels, 0)).astype(np.int32)
    if head == "over":
        clusters -= CLASSES * (np.arange(8)[None, None] % 2).astype(np.int32)
    clusters[3, 2, 2] = (clusters[3, 2, 2] + 1) % CLASSES
    matching = "hungarian" if head == "main" else "many_to_one"
    counted = metrics.cluster_heads(number, CLASSES, matching=matching, names=NAMES)
    config = iic_pixels.Config(
        predicts=head, over_clusters=2 * CLASSES, class_colors=((1, 2, 3), (9, 0, 9), (50, 60, 70))
    )
    row = told_row(clusters, clusters[:, None], labels, counted)
    seen = grouped_sheet(monkeypatch, row, told_run(config), 4)
    own = head == "over"
    assert len(seen["titles"]) == 3 + own and seen["titles"][-2:] == [
        "clusters as groups",
        "labels",
    ]
    assert [line[0] for line in seen["captions"]] == ["0", "3", "5", "8"]
    assert [line[-2] for line in seen["captions"]] == ["100.0 % right", "97.9 % right"] + [
        "100.0 % right"
    ] * 2
    for number, line in zip((0, 3, 5, 8), seen["rows"], strict=True):
        assert len(line) == 3 + own and np.all(line[0] == number)
        differ = np.any(line[-2] != line[-1], axis=-1)
        expected = np.zeros((6, 8), bool)
        # A pixel without a label is left as it is; one of image 3 is wrong.
        expected[{0: (0, 0), 3: (2, 2)}.get(number, ([], []))] = True
        np.testing.assert_array_equal(differ, expected)


def test_the_joint_is_that_of_the_chosen_sub_head():
    rng = np.random.default_rng(0)
    x, y = (rng.dirichlet(np.ones(4), (10, 2, 2)[:n]) for n in (2, 3))
    x, y = x.astype(np.float32), y.astype(np.float32).swapaxes(1, 2)
    row = told_row(
        np.zeros(10, np.int32), np.zeros((10, 2), np.int32), np.zeros(10, np.int32),
        metrics.view_information(4), probabilities=x, view_probabilities=y,
    )  # fmt: skip
    joint = pictures.joint_of(told_run(iic_images.Config()), row)
    expected = np.zeros((4, 4))
    for i in range(10):
        for view in range(2):
            expected += np.outer(x[i, 1], y[i, view, 1]) / 20
    np.testing.assert_allclose(joint, (expected + expected.T) / 2, atol=1e-6)


def test_the_first_examples_of_each_cluster(monkeypatch):
    labels = np.array([0, 1, 2, 1, 1, 0, 2, 2, -1], np.int32)
    clusters = np.array([3, 0, 1, 0, 0, 3, 1, 0, 3], np.int32)
    seen = {}

    def spy(rows, titles, *, captions, cell_size):
        seen.update(rows=rows, captions=captions)
        return np.zeros((10, 400, 3), np.uint8)

    monkeypatch.setattr(pictures.viz, "comparison_sheet", spy)
    counted = metrics.cluster_heads(4, 3, names=NAMES)
    row = told_row(clusters, clusters[:, None], labels, counted)
    _, order = pictures.examples(told_run(iic_images.Config(num_clusters=4)), row, 3)
    assert order.tolist() == [3, 0, 1, 2]
    assert [line[0] for line in seen["captions"]] == [
        "cluster 3: taken for sky, 100.0 % of 2",
        "cluster 0: taken for house, 75.0 % of 4",
        "cluster 1: taken for road, 100.0 % of 2",
        "cluster 2: empty",
    ]
    numbers = [[int(n) for n in line[0][0, ::6, 0]] for line in seen["rows"]]
    assert numbers == [[0, 5, 8], [1, 3, 4], [2, 6, 255], [255, 255, 255]]


def test_the_information_of_the_heat_map_is_the_metrics(monkeypatch):
    said = {}
    monkeypatch.setattr(
        pictures.viz, "comparison_sheet", lambda rows, titles, **rest: said.update(rest, rows=rows)
    )
    rng = np.random.default_rng(0)
    joint = rng.random((5, 5)) * (rng.random((5, 5)) < 0.7)
    joint = (joint + joint.T) / (2 * joint.sum())
    pictures.heat_map(joint, size=50)
    counted = metrics.view_information(5)
    figures = counted.compute({"joint": joint[None], "counts": np.ones((1, 5), np.int64)})
    [[text]], [[picture]] = said["captions"], said["rows"]
    assert text == f"I = {figures['information']:.3f} of at most 1.609 nats"
    row, col = np.unravel_index(joint.argmax(), joint.shape)
    assert picture.shape == (50, 50, 3)
    assert np.all(picture[10 * row : 10 * row + 10, 10 * col : 10 * col + 10] == (253, 231, 36))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Grey images with a bar at one of ten places."""
    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    arrays = {}
    for name, number in (("train", 40), ("test", 24)):
        labels = rng.integers(10, size=number)
        images = rng.integers(0, 30, (number, 12, 12))
        for image, label in zip(images, labels, strict=True):
            image[2:10, 1 + label] += 200
        arrays |= {f"{name}_images": images.astype(np.uint8), f"{name}_labels": labels}
    np.savez(folder / "mnist.npz", **arrays)
    (folder / "experiment.py").write_text(
        "from jaxseg.recipes.iic_images import Config, build\n"
        "VARIANTS = {'tiny': Config(predicts='over', over_clusters=12, sub_heads=2, widths=(2,),"
        " kernel_size=3, size=8, side=8, sides=(8,), image_side=12, batch_size=8, repeats=1,"
        " steps=1, warmup=0, watched=8)}\n"
    )
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Images of three bands."""
    folder = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    for name, number in (("train", 8), ("test", 3)):
        for i in range(number):
            label = np.arange(12)[:, None].repeat(16, axis=1) // 4 + 1
            image = (60 * label[..., None] + rng.integers(0, 20, (12, 16, 3))).astype(np.uint8)
            for kind, array in (("images", image), ("labels", label.astype(np.int32))):
                path = folder / kind / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                (write_image if kind == "images" else write_labels)(path, array)
    record = {"kind": "classes", "classes": {"1": "up", "2": "middle", "3": "down"}, "ignore": 0}
    (folder / "dataset.json").write_text(json.dumps(record))
    (folder / "experiment.py").write_text(
        "from jaxseg.recipes.iic_pixels import Config, build\n"
        "VARIANTS = {'tiny': Config(predicts='over', over_clusters=5, width=1, crop=(8, 8),"
        " displacement=1, batch_size=8, steps=1, warmup=0, watched=3, eval_batch=8,"
        " train_split='train')}\n"
    )
    return folder


def trained(folder, capsys):
    """A run of one step."""
    run = folder / "run"
    assert (
        Jaxseg(capsys)("train", folder / "experiment.py", "--data", folder, "--workdir", run)[0]
        == 0
    )
    return run


def untrained(folder, monkeypatch):
    """A run whose network is as it is initialised."""
    run, file = folder / "run", load_experiment(folder / "experiment.py")
    config = file.VARIANTS["tiny"]
    create_run(run, folder / "experiment.py", config)
    experiment = file.build(config)
    variables = jax.jit(experiment.method().init)(jax.random.key(0), experiment.example)
    monkeypatch.setattr(iic_runs.jaxseg, "load", lambda path: Predictor(experiment, *variables))
    return run


@pytest.mark.parametrize("name", ["digits", "scenes"])
def test_runs_end_to_end(name, request, tmp_path, capsys, monkeypatch):
    folder = request.getfixturevalue(name)
    run = trained(folder, capsys) if name == "digits" else untrained(folder, monkeypatch)
    curves, sheet = tmp_path / "curves.png", tmp_path / "sheet.png"
    told = ("--runs", str(run), "--data", str(folder), "--draws", "2")
    capsys.readouterr()
    assert over.main((*told, "--curves", str(curves))) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    clusters, tables = (12, 3) if name == "digits" else (5, 2)
    assert [row.split(" |")[0] for row in rows[2::3]] == [f"| {clusters}"] * tables
    assert rows[0] == "| clusters | 100 % | 50 % | 25 % | 10 % | 1 % |"
    values = [float(cell.split()[0]) for cell in rows[2].strip("| ").split(" | ")[1:]]
    assert all(0 <= value <= 100 for value in values) and max(values) > 10
    assert read_image(curves).shape == (870, 1500, 3)
    told = ("--run", str(run), "--data", str(folder), "--images", "2")
    assert pictures.main((*told, "-o", str(sheet))) == 0
    assert len(np.unique(read_image(sheet).reshape(-1, 3), axis=0)) > 20
    assert over.main(("--runs", str(run), str(run), "--data", str(folder))) == 2
    assert "of the clusters and seed of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--runs",), "--runs is empty; give one or more folders"),
        (("--shares", "0", "1"), "--shares is 0 1; give numbers above 0, up to 1"),
        (("--shares",), "--shares is empty; give"),
        (("--draws", "0"), "--draws is 0; give 1 or more"),
        (("--seed", "-1"), "--seed is -1; give 0 or more"),
        ((), "/nowhere: no such run folder"),
    ],
)
def test_wrong_options_are_told_in_one_line(capsys, given, says):
    assert over.main(("--runs", "/nowhere", "--data", "/", *given)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("iic_over_clustering: ") and says in err


@pytest.mark.parametrize(
    ("given", "says"),
    [(("--images", "-1"), "--images is -1; give"), ((), "/nowhere: no such run folder")],
)
def test_pictures_refuse(capsys, given, says):
    assert pictures.main(("--run", "/nowhere", "--data", "/", "-o", "x.png", *given)) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("iic_pictures: ") and says in err


def test_a_run_by_the_main_head_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(over, "open_iic", lambda folder: told_run(iic_images.Config()))
    assert over.main(("--runs", "run", "--data", "/")) == 2
    assert 'predicts by "main"; give runs of the variant "semi"' in capsys.readouterr().err
