"""k-means beside SciPy's, the spectral embedding beside a dense one, and the table end to end."""

import iic_baselines as baselines
import jax
import jax.numpy as jnp
import kmeans
import numpy as np
import pytest
from scipy.cluster import vq

from jaxseg import models
from jaxseg.types import InputError


def blobs(seed, number=300, size=6, offset=0.0):
    """Points about five places that overlap."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(5, size))
    x = places[rng.integers(5, size=number)] + 0.7 * rng.normal(size=(number, size))
    return (x + offset).astype(np.float32)


def inertia(x, found):
    """In float64, from the definition."""
    apart = x.astype(np.float64)[:, None] - found.centers.astype(np.float64)[None]
    squares = np.sum(apart**2, axis=2)
    np.testing.assert_array_equal(found.labels, squares.argmin(axis=1))
    return squares.min(axis=1).sum()


@pytest.mark.parametrize("block", [2**18, 100])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("iterations", [1, 3, 200])
def test_lloyd_from_the_same_centers_is_scipys(monkeypatch, iterations, offset, block):
    monkeypatch.setattr(kmeans, "BLOCK", block)
    x = blobs(0, offset=offset)
    begin = x[:5]
    found = kmeans.lloyd(x, begin, iterations=iterations)
    centers, labels = vq.kmeans2(
        x.astype(np.float64), begin.astype(np.float64), iter=iterations, minit="matrix"
    )
    np.testing.assert_allclose(found.centers, centers, rtol=0, atol=1e-4)
    assert found.inertia == pytest.approx(inertia(x, found), rel=1e-4)
    if iterations == 200:
        np.testing.assert_array_equal(found.labels, labels)
        assert 5 < found.iterations < 200
    else:
        assert found.iterations == iterations


def test_a_center_without_rows_stays():
    x = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    begin = np.array([[0.0], [10.0], [100.0]], np.float32)
    found = kmeans.lloyd(x, begin)
    np.testing.assert_allclose(found.centers, [[0.5], [10.5], [100.0]], atol=1e-5)
    assert found.labels.tolist() == [0, 0, 1, 1] and found.inertia == pytest.approx(1.0)


def test_a_tolerance_stops_earlier():
    x = blobs(1)
    exact, rough = (kmeans.lloyd(x, x[:5], tolerance=t) for t in (0.0, 0.01))
    assert 0 < rough.iterations < exact.iterations
    assert exact.inertia < rough.inertia < 1.1 * exact.inertia


def test_starting_rows_are_drawn_by_squared_distance():
    """The chance of each pair of centers on a line, against its definition."""
    line = np.array([0.0, 1.0, 3.0])
    draws = 4000
    rng = np.random.default_rng(0)
    counts = np.zeros((3, 3))
    for _ in range(draws):
        first, second = kmeans.plus_plus(rng, line[:, None], 2)[:, 0]
        counts[line == first, line == second] += 1
    squares = (line[:, None] - line[None]) ** 2
    chances = squares / squares.sum(axis=1, keepdims=True) / 3
    # Four standard deviations.
    bound = 4 * np.sqrt(chances * (1 - chances) / draws)
    assert np.all(np.abs(counts / draws - chances) <= bound)


def test_fewer_kinds_of_rows_than_clusters():
    x = np.repeat(blobs(2, number=3), 10, axis=0)
    found = kmeans.kmeans(x, 5, starts=2)
    assert len(np.unique(found.labels)) == 3 and found.inertia < 1e-9


def test_the_start_of_least_inertia_is_kept():
    """Eight clusters far apart: a start that puts two centers in one does not get out."""
    rng = np.random.default_rng(0)
    places = 10 * np.stack(np.meshgrid([0, 1, 2, 3], [0, 1]), axis=-1).reshape(8, 2)
    x = (places.repeat(20, axis=0) + rng.normal(size=(160, 2))).astype(np.float32)
    by_starts = [kmeans.kmeans(x, 8, starts=n, seed=3) for n in (1, 4, 16)]
    values = [one.inertia for one in by_starts]
    assert values == sorted(values, reverse=True) and values[0] > 2 * values[-1]
    assert len(np.unique(by_starts[-1].labels.reshape(8, 20), axis=1).T) == 1
    again = kmeans.kmeans(x, 8, starts=16, seed=3)
    np.testing.assert_array_equal(again.labels, by_starts[-1].labels)


@pytest.mark.parametrize(
    ("shape", "options", "says"),
    [
        ((4, 2), {"clusters": 5}, "5 clusters of"),
        ((4, 2), {"clusters": 0}, "0 clusters of"),
        ((4,), {"clusters": 1}, "1 clusters of"),
        ((4, 2), {"clusters": 2, "starts": 0}, "starts=0"),
    ],
)
def test_k_means_refuses(shape, options, says):
    with pytest.raises(ValueError, match=says):
        kmeans.kmeans(np.zeros(shape), **options)


def rings(number=80):
    """Two circles about one centre, which no k-means of places tells apart."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, number, endpoint=False)
    radius = np.where(np.arange(number) % 2, 1.0, 2.0) + 0.03 * rng.normal(size=number)
    return (radius * np.stack([np.cos(angle), np.sin(angle)])).T.astype(np.float32)


@pytest.mark.parametrize("block", [1000, 32])
def test_the_spectral_embedding_is_that_of_a_dense_laplacian(monkeypatch, block):
    monkeypatch.setattr(baselines, "BLOCK", block)
    x, neighbors, size = blobs(3, number=90), 6, 4
    graph = np.zeros((90, 90))
    for i in range(90):
        order = sorted((float(np.sum((x[i] - x[j]) ** 2)), j) for j in range(90) if j != i)
        for _, j in order[:neighbors]:
            graph[i, j] = graph[j, i] = 1
    scale = 1 / np.sqrt(graph.sum(axis=1))
    values, vectors = np.linalg.eigh(np.eye(90) - scale[:, None] * graph * scale[None])
    assert values[size] - values[size - 1] > 1e-3, "the space is well defined"
    found = baselines.spectral_embedding(x, size, neighbors=neighbors, seed=0)
    cosines = np.abs(np.sum(found * vectors[:, :size], axis=0))
    np.testing.assert_allclose(cosines, 1, atol=1e-8)


def test_the_spectral_embedding_tells_rings_apart():
    x, inner = rings(), np.arange(80) % 2

    def right(rows):
        labels = kmeans.kmeans(rows, 2).labels
        return max(np.mean(labels == inner), np.mean(labels != inner))

    assert right(x) < 0.7
    assert right(baselines.spectral_embedding(x, 2, neighbors=4, seed=0)) == 1


def bars(number, seed=0):
    """Images of a bar at one of ten places, and which."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(10, size=number)
    images = rng.integers(0, 30, (number, 28, 28))
    for image, label in zip(images, labels, strict=True):
        image[4:24, 4 + 2 * label : 6 + 2 * label] += 200
    return images.astype(np.uint8), labels.astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write(folder, bars(60), bars(20, seed=1))
    return folder


def write(folder, train, test, **changed):
    arrays = {"train_images": train[0], "train_labels": train[1]}
    arrays |= {"test_images": test[0], "test_labels": test[1]}
    np.savez(folder / "mnist.npz", **arrays | changed)


def test_digits_are_train_and_then_test(folder):
    digits = baselines.open_digits(folder)
    images, labels = bars(20, seed=1)
    np.testing.assert_array_equal(digits.images[60:], images)
    np.testing.assert_array_equal(digits.labels[60:], labels)
    assert digits.images.shape == (80, 28, 28) and digits.labels.dtype == np.int32


def test_the_untrained_features_give_its_answer(folder, monkeypatch):
    """What is clustered is what the head of classes multiplies."""
    seen = []

    def spy(x, seed):
        seen.append(x)
        return np.zeros(len(x), np.int32)

    monkeypatch.setattr(baselines, "k_means", spy)
    options = baselines.Baselines(folder, seed=5)
    digits = baselines.open_digits(folder)
    answer, _ = baselines.random_network(digits, options)
    [features] = seen
    assert features.shape == (80, 1152) and features.min() == 0
    heads = {"main": 10, "features": 1152}
    network = models.iic.net6c(heads, sub_heads=1, widths=(16, 32, 64, 128), kernel_size=3)
    head = network.init(jax.random.key(5), jnp.zeros((1, 24, 24, 1)))["params"]["head_main"]
    logits = features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])[None]
    np.testing.assert_array_equal(answer.clusters, logits.argmax(axis=1))
    assert len(np.unique(answer.clusters)) > 1


def test_the_autoencoder_learns():
    images, _ = bars(40)
    codes, error = baselines.encode(images, seed=0, steps=100, batch_size=16)
    variance = np.var(images / 255, axis=0).mean()
    assert codes.shape == (40, baselines.CODE) and error < 0.5 * variance


def test_the_table_end_to_end(folder, capsys):
    options = ("--data", str(folder), "--subset", "40", "--steps", "2")
    assert baselines.main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(row) for row in cells} == {6}
    by_title = {row[0].split(",")[0].split(":")[0]: row for row in cells[3:]}
    assert [row[5] for row in cells[2:]] == ["26.1", "-", "57.2", "69.6", "81.2"]
    assert [row[1] for row in cells[2:]] == ["80", "80", "80", "40", "80"]
    # Places of bars are far apart: these are exact.
    assert by_title["k-means of pixels"][2:4] == ["100.00", "1.0000"]
    assert all(10 <= float(row[2]) <= 100 and 0 <= float(row[3]) <= 1 for row in cells[2:])


def test_rows_are_chosen(folder, capsys):
    assert baselines.main(["--data", str(folder), "--rows", "kmeans", "kmeans"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[2].startswith("| k-means of pixels | 80 | 100.00 |")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--seed", "-1"), "--seed is -1; give 0 or more"),
        (("--subset", "10"), "--subset is 10; give 11 or more"),
        (("--steps", "0"), "--steps is 0; give 1 or more"),
        (("--rows",), "--rows is empty; choose of random, kmeans, spectral, autoencoder"),
        (("--data", "/nowhere"), "mnist.npz: is no file; give the folder"),
    ],
)
def test_wrong_options_are_told_in_one_line(folder, capsys, options, says):
    assert baselines.main(["--data", str(folder), *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("iic_baselines: ") and says in err


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"train_images": np.zeros((60, 32, 32), np.uint8)}, "cannot be read"),
        ({"train_images": np.zeros((60, 28, 28))}, "float64"),
        ({"train_images": np.zeros((50, 28, 28), np.uint8)}, r"\(70, 28, 28\) and labels \(80,\)"),
        ({"test_labels": np.full(20, 10, np.uint8)}, "labels are 0 to 10"),
    ],
)
def test_other_arrays_are_refused(tmp_path, changed, says):
    write(tmp_path, bars(60), bars(20), **changed)
    with pytest.raises(InputError, match=says):
        baselines.open_digits(tmp_path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "mnist.npz"
    for content in (b"", b"PK\x03\x04 torn", b"text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="fetch it again"):
            baselines.open_digits(tmp_path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="fetch it again"):
        baselines.open_digits(tmp_path)
    np.savez(path, images=np.zeros(3))
    with pytest.raises(InputError, match="train_images"):
        baselines.open_digits(tmp_path)
