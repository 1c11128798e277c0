"""Cases of boxes, suppression, RoIAlign and pasting, for `test_contracts`."""

import numpy as np

RNG = np.random.default_rng(0)
NUMBER = np.float32(0.3)  # a traced scalar
SIZE = np.array([13, 17], np.int32)


def boxes(count, reach=16.0):
    points = np.sort(RNG.uniform(-2, reach, (count, 2, 2)), axis=1)
    return points.reshape(count, 4).astype(np.float32)


BOXES, OTHERS = boxes(5), boxes(3)
WEIGHTS = np.array([10, 10, 5, 5], np.float32)
DELTAS = RNG.normal(0, 0.5, (5, 4)).astype(np.float32)
DELTAS[0, 2] = 7
VALID = np.array([True, False, True, True, True])
GROUPS = np.array([0, 1, 0, 1, 0], np.int32)
SCORES = np.array([0.1, 0.2, 0.4, 0.3, 0.2], np.float32)
FEATURES = RNG.standard_normal((5, 6, 2)).astype(np.float32)
MASKS = RNG.random((5, 3, 4)).astype(np.float32)
LABELS = np.array([1, 0, -1, 0, 1, 1, 0], np.int32)
LEVELS = np.zeros(5, np.int32)
POOLED = {"output_size": 2, "strides": (4,)}
SHAPES = {"feature_shapes": ((2, 3), (1, 2)), "strides": (4, 8)}

CASES = {  # name -> (arguments, options, gradient)
    "ops.boxes.box_area": [((BOXES,), {}, "exact")],
    "ops.boxes.box_iou": [((BOXES, OTHERS), {}, "exact")],
    "ops.boxes.clip_boxes": [((BOXES, SIZE), {}, "exact")],
    "ops.boxes.encode_boxes": [((BOXES, boxes(5)), {"weights": WEIGHTS}, "exact")],
    "ops.boxes.decode_boxes": [
        ((DELTAS, BOXES), {"weights": WEIGHTS, "max_log_scale": 1.3}, "exact"),
    ],
    "ops.boxes.pyramid_anchors": [
        ((np.array([8, 16], np.float32),), {**SHAPES, "ratios": (0.5, 2.0), "offset": 0.5}, "exact")
    ],
    "ops.boxes.match_boxes": [
        ((OTHERS, BOXES, VALID), {"positive_iou": 0.5, "negative_iou": 0.2}, "none"),
        (
            (OTHERS, BOXES, VALID),
            {"positive_iou": 2 * NUMBER, "negative_iou": NUMBER, "low_quality": True},
            "none",
        ),
    ],
    # The key is made of the first number.
    "ops.boxes.sample_matches": [
        ((np.uint32(3), LABELS), {"num_samples": 4, "positive_fraction": 0.5}, "none")
    ],
    "ops.nms.nms": [
        (
            (BOXES, SCORES),
            {"iou_threshold": NUMBER, "max_outputs": 6, "valid": VALID, "groups": GROUPS},
            "none",
        ),
    ],
    "ops.roi_align.box_levels": [
        (
            (20 * BOXES,),
            {"strides": (4, 8, 16), "canonical_size": 100.0, "canonical_level": 3},
            "none",
        )
    ],
    "ops.roi_align.roi_align": [
        ((FEATURES, BOXES), {**POOLED, "sampling_ratio": 1}, "exact"),
        (
            (FEATURES, BOXES),
            {
                **POOLED,
                "sampling_ratio": 1,
                "implementation": "separable",
                "levels": LEVELS,
                "chunk_size": 3,
            },
            "exact",
        ),
    ],
    "ops.paste.paste_masks": [((MASKS, BOXES), {"shape": (6, 7)}, "exact")],
}
