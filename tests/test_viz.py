import numpy as np
import pytest
from skimage import data
from skimage.color import rgb2lab
from skimage.segmentation import slic

from jaxseg import viz


def regions(image):
    return slic(image, 40, start_label=0, channel_axis=-1 if image.ndim == 3 else None)


@pytest.fixture(scope="module")
def cat():
    return data.chelsea()[50:170, 100:260]


def test_boundaries():
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 1]])
    expected = [[0, 1, 0], [1, 1, 0], [0, 1, 0]]
    np.testing.assert_array_equal(viz.boundaries(labels), np.array(expected, bool))


@pytest.mark.parametrize("kind", ["uint8", "float", "grey", "grey channel", "bool"])
def test_overlay_keeps_the_rest_of_the_image(cat, kind):
    labels = regions(cat)
    image = {
        "uint8": cat,
        "float": (cat / 255).astype(np.float32),
        "grey": cat[..., 0],
        "grey channel": cat[..., :1],
        "bool": cat[..., 0] > 100,
    }[kind]
    plain = {
        "grey": np.repeat(cat[..., :1], 3, 2),
        "grey channel": np.repeat(cat[..., :1], 3, 2),
        "bool": np.repeat((cat[..., :1] > 100) * np.uint8(255), 3, 2),
    }.get(kind, cat)
    before = image.copy()
    picture = viz.overlay_boundaries(image, labels, color=(1, 2, 3))
    marked = viz.boundaries(labels)
    np.testing.assert_array_equal(picture[~marked], plain[~marked])
    assert np.all(picture[marked] == (1, 2, 3))
    np.testing.assert_array_equal(image, before)


def test_mean_color_equals_a_loop(cat):
    labels = regions(cat) * 3 - 3
    labels[labels < 0] = -1
    picture = viz.mean_color(cat, labels)
    np.testing.assert_array_equal(picture[labels == -1], cat[labels == -1])
    for region in np.unique(labels[labels >= 0]):
        mean = cat[labels == region].mean(0)
        assert np.all(np.abs(picture[labels == region] - mean) <= 0.5 + 1e-9)


def test_colorize_is_stable_and_distinct():
    ids = np.arange(-1, 63).reshape(8, 8)
    picture = viz.colorize(ids)
    colors = picture.reshape(-1, 3).astype(int)
    assert colors[0].tolist() == [0, 0, 0]
    assert len(np.unique(colors, axis=0)) == 64
    assert np.abs(np.diff(colors[1:], axis=0)).sum(1).min() > 100
    np.testing.assert_array_equal(viz.colorize(ids[3:5]), picture[3:5])


def test_colorize_with_a_palette():
    palette = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    picture = viz.colorize(np.array([[1, -1], [0, 1]]), colors=palette)
    assert picture.tolist() == [[[4, 5, 6], [0, 0, 0]], [[1, 2, 3], [4, 5, 6]]]
    assert palette.tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(ValueError, match="label 2 has none of the 2"):
        viz.colorize(np.array([[2]]), colors=palette)


def test_comparison_sheet(cat):
    red = np.zeros((50, 100, 3), np.uint8)
    red[..., 0] = 255
    rows = [[cat, red], [cat[..., 0], np.ones((90, 30), np.float32) * 0.5]]
    plain = viz.comparison_sheet(rows, ["image", "a title that is far too long " * 9], cell_size=96)
    captioned = viz.comparison_sheet(
        rows, ["image", "other"], captions=[["", "12 regions"], ["", ""]], cell_size=96
    )
    assert plain.dtype == np.uint8 and plain.shape[2] == 3
    assert captioned.shape[0] > plain.shape[0] and captioned.shape[1] == plain.shape[1]
    # Every picture is there whole: twice-as-wide red is 96×48 in its cell.
    assert np.all(plain == (255, 0, 0), axis=-1).sum() == 96 * 48
    assert np.all(plain == (128, 128, 128), axis=-1).sum() >= 96 * 32
    assert np.all(plain[[0, -1]] == 255) and np.all(plain[:, [0, -1]] == 255)
    rewritten = viz.comparison_sheet(
        rows, ["image", "other"], captions=[["", "13 regions"], ["", ""]], cell_size=96
    )
    assert np.any(rewritten != captioned)


def test_bad_pictures(cat):
    with pytest.raises(ValueError, match="a row of 1 for 2 titles"):
        viz.comparison_sheet([[cat]], ["a", "b"])
    with pytest.raises(ValueError, match="1 rows of captions for 2"):
        viz.comparison_sheet([[cat], [cat]], ["a"], captions=[["x"]])
    with pytest.raises(ValueError, match=r"shape \(120, 160, 2\)"):
        viz.overlay_boundaries(cat[..., :2], regions(cat))
    with pytest.raises(ValueError, match="type int64"):
        viz.mean_color(cat.astype(np.int64), regions(cat))


def test_curve_plot():
    series = {"a": ([1, 2, 3], [0.1, np.nan, 0.3]), "b": (np.array([1, 2]), np.array([0.2, 0.1]))}
    picture = viz.curve_plot(series, xlabel="regions", ylabel="ASA", title="curves")
    assert picture.shape == (600, 960, 3) and picture.dtype == np.uint8
    assert np.all(picture[0, 0] == 255)

    def painted(color):
        return np.all(picture == color, axis=-1).sum()

    assert painted((0x00, 0x72, 0xB2)) > 100 and painted((0xD5, 0x5E, 0x00)) > 500
    empty = viz.curve_plot({}, xlabel="x", ylabel="y")
    assert np.any(empty != 255)


CLASS_COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)


def test_overlay_classes_mixes_image_and_color(cat):
    classes = regions(cat) % 4 - 1
    before = cat.copy()
    picture = viz.overlay_classes(cat, classes, colors=CLASS_COLORS, alpha=0.25)
    assert picture.shape == cat.shape and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[classes == -1], cat[classes == -1])
    for number, color in enumerate(CLASS_COLORS[:3]):
        mixed = 0.75 * cat[classes == number] + 0.25 * color
        assert np.all(np.abs(picture[classes == number] - mixed) <= 0.5 + 1e-4)
    np.testing.assert_array_equal(cat, before)
    whole = viz.overlay_classes(cat[..., 0], classes, alpha=1.0)
    np.testing.assert_array_equal(whole[classes >= 0], viz.colorize(classes)[classes >= 0])
    clear = viz.overlay_classes((cat / 255).astype(np.float32), classes, alpha=0.0)
    np.testing.assert_array_equal(clear, cat)


def boxes(key, color):
    return np.all(key == color, axis=-1).sum()


def test_the_legend_below_an_overlay_has_the_classes_that_occur(cat):
    classes = regions(cat) % 2 * 2 - 1  # -1 and 1
    names = ["sky", "road", "car", "tree"]
    picture = viz.overlay_classes(cat, classes, colors=CLASS_COLORS, names=names, alpha=0.5)
    height, width = classes.shape
    key = picture[height:]
    np.testing.assert_array_equal(
        picture[:height], viz.overlay_classes(cat, classes, colors=CLASS_COLORS)
    )
    assert picture.shape[1] == width and len(key) > 12
    assert [boxes(key, color) > 50 for color in CLASS_COLORS] == [False, True, False, False]
    unlabelled = viz.overlay_classes(cat, np.full_like(classes, -1), names=names)
    np.testing.assert_array_equal(unlabelled, cat)


@pytest.mark.parametrize("size", [(1, 1), (20, 16), (300, 30)])
def test_a_legend_is_never_cut(size):
    """The names under a narrow image are those of a legend as wide as it needs to be."""
    names = ["a class of a very long name", "b", "c", "d"]
    classes = np.zeros(size, np.int32)
    picture = viz.overlay_classes(
        np.zeros(size, np.uint8), classes, names=names, colors=CLASS_COLORS
    )
    key = viz.legend(names[:1], CLASS_COLORS[:1], text_size=12.0)
    np.testing.assert_array_equal(picture[size[0] :], key)
    assert key.shape[1] > size[1]
    np.testing.assert_array_equal(
        picture[: size[0], : size[1]], [[[128, 0, 0]] * size[1]] * size[0]
    )
    assert np.all(picture[: size[0], size[1] :] == 255)


def test_a_legend_fills_the_width_and_keeps_a_margin():
    names = [f"class {number}" for number in range(11)]
    tall = viz.legend(names)
    previous = tall.shape[0] + 1
    for width in (tall.shape[1], 200, 400, 2000):
        key = viz.legend(names, width=width)
        assert key.shape[1] == width and key.shape[0] < previous
        previous = key.shape[0]
        inked = np.any(key != 255, axis=-1)
        assert not inked[:5].any() and not inked[-5:].any()
        assert not inked[:, :5].any() and not inked[:, -5:].any()
        # Inside its outline a box is one colour, that of the class in any map.
        for color in viz.colorize(np.arange(11)[None])[0]:
            assert boxes(key, color) == 12 * 12
    assert np.array_equal(viz.legend(names, width=1), tall)
    large = viz.legend(names, text_size=56.0)
    assert abs(large.shape[0] - 4 * tall.shape[0]) <= 4 * 12


def test_a_legend_writes_the_letters_of_each_name():
    def written(name):
        return viz.legend([name], CLASS_COLORS[:1], width=150)

    assert np.array_equal(written("forêt  de\npins"), written("forêt de pins"))
    pictures = [written(name).tobytes() for name in ("é", "è", "ł", "ж", "λ", "e", "")]
    assert len(set(pictures)) == 7


def test_show_confidence_rises_in_lightness(cat):
    levels = np.linspace(0, 1, 64, dtype=np.float32)[None]
    picture = viz.show_confidence(levels)
    assert picture.shape == (1, 64, 3) and picture.dtype == np.uint8
    lightness = rgb2lab(picture)[0, :, 0]
    steps = np.diff(lightness)
    assert np.all(steps > 0) and steps.max() < 2.5 * steps.mean()
    odd = viz.show_confidence(np.array([[-1, 2, np.nan]]))
    np.testing.assert_array_equal(odd[0, :2], picture[0, [0, -1]])
    assert odd[0, 2].tolist() == [0, 0, 0]


def test_bad_classes(cat):
    classes = regions(cat) % 3
    for make, message in (
        (lambda: viz.overlay_classes(cat, classes[1:]), "differ in size"),
        (lambda: viz.overlay_classes(cat, classes, alpha=1.5), "alpha=1.5"),
        (lambda: viz.overlay_classes(cat, classes, names=("a", "b")), "class 2 has none of the 2"),
        (lambda: viz.overlay_classes(cat, classes, colors=CLASS_COLORS[:2]), "label 2 has none"),
        (lambda: viz.legend([]), "names is empty"),
        (lambda: viz.legend(["a"], CLASS_COLORS), "4 colors for 1 names"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
