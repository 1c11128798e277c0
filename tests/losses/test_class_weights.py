"""Weights of classes from counts."""

import numpy as np
import pytest

from jaxseg import losses

RNG = np.random.default_rng(0)
# CamVid's training set: the parts of the labelled pixels, in 1/10000.
CAMVID = np.array([[1754, 2422, 102, 3296, 467, 1012, 122, 117, 611, 67, 30]])


class TestMedianFrequencyWeights:
    def test_equals_a_loop_over_maps(self):
        maps = [RNG.integers(-1, 3, (5, 7)) for _ in range(4)]
        maps[1][maps[1] == 2] = 0
        maps[3][:] = 1
        counts = np.stack([[np.sum(m == c) for c in range(4)] for m in maps])
        for everything in (False, True):
            frequency = []
            for c in range(3):
                holds = [m for m in maps if np.any(m == c)]
                around = sum(m.size if everything else np.sum(m >= 0) for m in holds)
                frequency.append(sum(np.sum(m == c) for m in holds) / around)
            pixels = np.full(4, 35) if everything else None
            got = losses.median_frequency_weights(counts, image_pixels=pixels)
            np.testing.assert_allclose(got[:3], np.median(frequency) / np.array(frequency))
            assert got[3] == 0

    def test_images_of_fewer_pixels_than_labels(self):
        with pytest.raises(ValueError, match="image 1 of 3 pixels has 4"):
            losses.median_frequency_weights(
                np.array([[1, 2], [2, 2]]), image_pixels=np.array([9, 3])
            )


class TestInverseLogWeights:
    def test_gives_the_published_weights_of_camvid(self):
        published = [5.60, 4.30, 33.57, 3.34, 15.49, 8.74, 31.54, 32.01, 12.83, 38.01, 43.91]
        # As exact as parts of four digits determine them.
        np.testing.assert_allclose(losses.inverse_log_weights(CAMVID), published, rtol=3e-3)

    def test_maps_are_summed_and_weights_bounded(self):
        counts = np.array([[90, 0, 0], [0, 10, 0]])
        got = losses.inverse_log_weights(counts, offset=1.1)
        np.testing.assert_allclose(got, [1 / np.log(x) for x in (2.0, 1.2, 1.1)])

    def test_offset_out_of_range(self):
        with pytest.raises(ValueError, match=r"offset=1\.0"):
            losses.inverse_log_weights(CAMVID, offset=1.0)


class TestEffectiveNumberWeights:
    def test_equals_the_sum_of_the_series(self):
        """The effective number (1 - βⁿ) / (1 - β) is 1 + β + … + βⁿ⁻¹."""
        counts, beta = np.array([[3, 0, 20], [4, 0, 480]]), 0.99
        number = np.array([sum(beta**j for j in range(n)) for n in (7, 500)])
        got = losses.effective_number_weights(counts, beta=beta)
        np.testing.assert_allclose(got[[0, 2]], 2 / number / np.sum(1 / number))
        assert got[1] == 0

    def test_goes_from_equal_weights_to_inverse_frequencies(self):
        np.testing.assert_allclose(losses.effective_number_weights(CAMVID, beta=0.0), 1)
        got = losses.effective_number_weights(CAMVID, beta=1 - 1e-12)
        inverse = 1 / CAMVID[0]
        np.testing.assert_allclose(got, inverse / inverse.mean(), rtol=1e-3)

    def test_beta_out_of_range(self):
        for beta in (1.0, -0.1):
            with pytest.raises(ValueError, match="beta="):
                losses.effective_number_weights(CAMVID, beta=beta)


@pytest.mark.parametrize(
    "weights",
    [
        losses.median_frequency_weights,
        losses.inverse_log_weights,
        losses.effective_number_weights,
    ],
)
def test_bad_counts(weights):
    for counts, message in (
        (np.zeros((2, 3), int), "all 0"),
        (np.array([[1, -2]]), "hold -2"),
    ):
        with pytest.raises(ValueError, match=message):
            weights(counts)
