"""Mask R-CNN with its semi-convolutional stage against the contract of a Method."""

import pytest
from detector_toys import OPTIONS, batch, toy

from jaxseg.methods import mask_rcnn, semiconv
from jaxseg.testing import check_method


@pytest.mark.parametrize("stage", ["mask_rcnn", "semiconv"])
def test_contract(stage):
    if stage == "mask_rcnn":
        method = mask_rcnn.method(toy(embedding=0), **OPTIONS)
    else:
        method = semiconv.stages(toy(), **OPTIONS).semiconv
    data = batch(16, counts=[0, 1, 2, 3] * 4)
    # A pixel of a mask may be a half but for rounding.
    check_method(method, data, unequal_labels=0.001)
