"""Beside PyTorch: a Mask R-CNN with torchvision's names gives the same with the same weights."""

import importlib.util
import pathlib
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import resnet as resnet_module
from jaxseg.models.mask_rcnn import mask_rcnn
from jaxseg.models.mask_rcnn_weights import encoder_from_torchvision, from_torchvision
from jaxseg.models.weights import MismatchError

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
PEERS = pathlib.Path(__file__).parents[2] / "experiments" / "benchmarks" / "torch_networks.py"

CLASSES, WIDTH, FEATURES, HIDDEN = 4, 4, 6, 10
BLOCKS = (1, 2, 1, 1)


class PlainPyramid(nn.Module):
    """torchvision's `FeaturePyramidNetwork` with `LastLevelMaxPool`, as the paper says it."""

    def __init__(self, layer):
        super().__init__()
        self.inner_blocks = nn.ModuleList(
            layer(nn.Conv2d(4 * WIDTH * 2**i, FEATURES, 1)) for i in range(4)
        )
        self.layer_blocks = nn.ModuleList(
            layer(nn.Conv2d(FEATURES, FEATURES, 3, 1, 1)) for _ in range(4)
        )

    def forward(self, stages):
        lateral = [block(x) for block, x in zip(self.inner_blocks, stages, strict=True)]
        for i in (2, 1, 0):
            above = F.interpolate(lateral[i + 1], size=lateral[i].shape[-2:], mode="nearest")
            lateral[i] = lateral[i] + above
        maps = [block(x) for block, x in zip(self.layer_blocks, lateral, strict=True)]
        return [*maps, F.max_pool2d(maps[-1], 1, 2, 0)]


def named(**parts):
    return nn.ModuleDict(parts)


def peer(peers, *, released):
    """Its modules; `released`: under the names of the files, else of newer versions."""

    def layer(conv):
        return conv if released else nn.Sequential(conv)

    def conv3():
        return nn.Conv2d(FEATURES, FEATURES, 3, 1, 1)

    numbers = range(4)
    masks = (
        [(f"mask_fcn{i + 1}", conv3()) for i in numbers]
        if released
        else [(f"{i}", nn.Sequential(conv3(), nn.ReLU())) for i in numbers]
    )
    rpn_conv = conv3() if released else nn.Sequential(nn.Sequential(conv3(), nn.ReLU()))
    outputs = CLASSES + 1
    return named(
        backbone=named(body=peers.ResNet50(width=WIDTH, blocks=BLOCKS), fpn=PlainPyramid(layer)),
        rpn=named(
            head=named(
                conv=rpn_conv,
                cls_logits=nn.Conv2d(FEATURES, 3, 1),
                bbox_pred=nn.Conv2d(FEATURES, 12, 1),
            )
        ),
        roi_heads=named(
            box_head=named(fc6=nn.Linear(49 * FEATURES, HIDDEN), fc7=nn.Linear(HIDDEN, HIDDEN)),
            box_predictor=named(
                cls_score=nn.Linear(HIDDEN, outputs), bbox_pred=nn.Linear(HIDDEN, 4 * outputs)
            ),
            mask_head=nn.Sequential(OrderedDict(masks)),
            mask_predictor=named(
                conv5_mask=nn.ConvTranspose2d(FEATURES, FEATURES, 2, 2),
                mask_fcn_logits=nn.Conv2d(FEATURES, outputs, 1),
            ),
        ),
    )


def randomised(module):
    torch.manual_seed(0)
    for name, value in module.state_dict().items():
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.uniform_(0.5, 1.5)
        elif value.ndim <= 1 and value.is_floating_point():
            value.normal_(0, 0.3)
    return module.eval()


def proposals(head, maps):
    """Permuted as torchvision does: cells first, then their anchors; (dx, dy, dw, dh)."""
    logits, deltas = [], []
    for x in maps:
        y = F.relu(head["conv"](x))
        for outputs, size, layer in ((logits, 1, "cls_logits"), (deltas, 4, "bbox_pred")):
            z = head[layer](y)
            batch, _, height, width = z.shape
            z = z.view(batch, -1, size, height, width).permute(0, 3, 4, 1, 2)
            outputs.append(z.reshape(batch, -1, size))
    return torch.cat(logits, 1)[..., 0], torch.cat(deltas, 1)


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("torch_networks", PEERS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def networks(monkeypatch):
    monkeypatch.setitem(resnet_module.BLOCKS, 50, BLOCKS)
    return mask_rcnn(CLASSES, width=WIDTH, features=FEATURES, hidden=HIDDEN)


def drawn(like, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), like)


def variables_like(networks):
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(networks.pyramid.init, jax.random.key(0), image)


def state_of(module):
    return {name: value.numpy() for name, value in module.state_dict().items()}


def nchw(x):
    return torch.tensor(np.asarray(x)).movedim(-1, -3)


def assert_near(ours, theirs):
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())


def test_every_part_equals_torchs(peers, networks):
    module = randomised(peer(peers, released=False))
    found = from_torchvision(state_of(module), variables_like(networks))
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(2, 45, 70, 3)), jnp.float32)
    small, large = (
        jnp.asarray(rng.normal(size=(2, 3, n, n, FEATURES)), jnp.float32) for n in (7, 14)
    )

    @jax.jit
    def run(variables):
        maps = networks.pyramid.apply(variables, image)[0]
        return (
            maps,
            networks.propose.apply(variables, maps)[0],
            networks.classify.apply(variables, small)[0],
            networks.segment.apply(variables, large)[0],
        )

    maps, (logits, deltas), (scores, moves), masks = run(found)
    swapped = [1, 0, 3, 2]
    with torch.inference_mode():
        theirs = module["backbone"]["fpn"](module["backbone"]["body"](nchw(image))[1:])
        for a, b in zip(maps, theirs, strict=True):
            assert_near(a, b.movedim(1, -1))
        their_logits, their_deltas = proposals(module["rpn"]["head"], theirs)
        assert_near(logits, their_logits)
        assert_near(deltas, their_deltas[..., swapped])

        heads = module["roi_heads"]
        x = nchw(small).flatten(0, 1).flatten(1)
        x = F.relu(heads["box_head"]["fc7"](F.relu(heads["box_head"]["fc6"](x))))
        assert_near(scores, heads["box_predictor"]["cls_score"](x).view(2, 3, -1))
        boxes = heads["box_predictor"]["bbox_pred"](x).view(2, 3, CLASSES + 1, 4)
        assert_near(moves, boxes[:, :, 1:, swapped])

        x = F.relu(heads["mask_predictor"]["conv5_mask"](heads["mask_head"](nchw(large)[0])))
        x = heads["mask_predictor"]["mask_fcn_logits"](x)[:, 1:]
        assert_near(masks[0], x.movedim(1, -1))


def test_names_of_the_released_files(peers, networks):
    new, old = (randomised(peer(peers, released=released)) for released in (False, True))
    old.load_state_dict(dict(zip(old.state_dict(), new.state_dict().values(), strict=True)))
    assert {"backbone.fpn.inner_blocks.0.weight", "roi_heads.mask_head.mask_fcn4.bias"} <= set(
        old.state_dict()
    )
    like = variables_like(networks)
    found = [from_torchvision(state_of(module), like) for module in (new, old)]
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_an_epsilon_goes_into_the_variances(peers, networks):
    state, like = state_of(randomised(peer(peers, released=True))), variables_like(networks)
    plain = from_torchvision(state, like)["batch_stats"]["pyramid"]["encoder"]["bn1"]
    moved = from_torchvision(state, like, epsilon=0.0)["batch_stats"]["pyramid"]["encoder"]["bn1"]
    exact = state["backbone.body.bn1.running_var"].astype(float)
    np.testing.assert_array_equal(plain["var"], exact)
    np.testing.assert_allclose(moved["var"] + 1e-5, exact, rtol=1e-6)
    np.testing.assert_array_equal(plain["mean"], moved["mean"])


def test_other_classes_keep_their_predictors_and_embeddings(peers, monkeypatch):
    monkeypatch.setitem(resnet_module.BLOCKS, 50, BLOCKS)
    other = mask_rcnn(2, width=WIDTH, features=FEATURES, hidden=HIDDEN, embedding=3)
    own = drawn(variables_like(other))
    state = state_of(randomised(peer(peers, released=True)))
    with pytest.raises(MismatchError, match=r"misshapen: .*cls_score"):
        from_torchvision(state, own, source="a.pth")
    found = from_torchvision(state, own, predictors=False)["params"]
    kept = [("classify", "score"), ("classify", "deltas"), ("segment", "score"), ("embed", "conv1")]
    for part, layer in kept:
        jax.tree.map(np.testing.assert_array_equal, found[part][layer], own["params"][part][layer])
    for part, layer in (("classify", "fc7"), ("segment", "rise"), ("propose", "score")):
        assert np.all(found[part][layer]["kernel"] != own["params"][part][layer]["kernel"])


def test_missing_and_unexpected_tensors_are_named(peers, networks):
    state, like = state_of(randomised(peer(peers, released=True))), variables_like(networks)
    del state["rpn.head.conv.bias"]
    state["roi_heads.keypoint_head.0.weight"] = np.zeros((1, 1, 1, 1), np.float32)
    with pytest.raises(MismatchError) as caught:
        from_torchvision(state, like, source="a.pth")
    assert caught.value.faults == {
        "missing": ["params/propose/conv/bias"],
        "unexpected": ["roi_heads.keypoint_head.0.weight"],
    }


def test_encoders_alone(peers, networks):
    own = drawn(variables_like(networks))
    module = randomised(peers.ResNet50(width=WIDTH, blocks=BLOCKS))
    state = {**state_of(module), "fc.weight": np.zeros((1000, 4), np.float32)}
    found = encoder_from_torchvision(state, own)
    encoder = found["params"]["pyramid"].pop("encoder")
    own["params"]["pyramid"].pop("encoder")
    np.testing.assert_array_equal(
        encoder["conv1"]["kernel"], state["conv1.weight"].transpose(2, 3, 1, 0)
    )
    var = found["batch_stats"]["pyramid"]["encoder"]["layer4"]["0"]["bn3"]["var"]
    np.testing.assert_array_equal(var, state["layer4.0.bn3.running_var"])
    jax.tree.map(np.testing.assert_array_equal, found["params"], own["params"])
