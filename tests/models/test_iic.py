import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models import iic, weights
from jaxseg.models import resnet as resnet_module

HEADS = {"main": 3, "over": 7}
SMALL = {
    "net5g": lambda **o: iic.net5g(HEADS, sub_heads=2, width=4, **o),
    "net6c": lambda **o: iic.net6c(HEADS, sub_heads=2, widths=(4, 6, 8, 5), **o),
    "net10a": lambda **o: iic.net10a(HEADS, sub_heads=2, width=4, **o),
}
SHAPES = {"net5g": (3, 32, 32, 2), "net6c": (3, 24, 24, 1), "net10a": (2, 20, 26, 5)}


@pytest.fixture
def short(monkeypatch):
    """Few blocks, for what needs no more."""
    monkeypatch.setitem(resnet_module.BLOCKS, 34, (1, 2, 1, 1))


def drawn(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def shapes_of(net, shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), x)


# The originals, written down anew in PyTorch; heads are (outputs, sub-heads) by name.


def torch_net(torch, kind, channels, heads, *, blocks=(3, 4, 6, 3), tracked=True, **sizes):
    nn = torch.nn

    def norm(features):
        return nn.BatchNorm2d(features, track_running_stats=tracked)

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = norm(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = norm(outputs)
            if stride > 1 or inputs != outputs:
                conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.downsample = nn.Sequential(conv, norm(outputs))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))

    class Residual(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False), norm(width)
            inputs = width
            for i, count in enumerate(blocks):
                outputs, stage = width * 2**i, []
                for j in range(count):
                    stage.append(Block(inputs, outputs, 2 if i and not j else 1))
                    inputs = outputs
                setattr(self, f"layer{i + 1}", nn.Sequential(*stage))

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            x = nn.functional.max_pool2d(x, 2, 2, padding=1)
            for i in range(4):
                x = getattr(self, f"layer{i + 1}")(x)
            assert x.shape[-1] in (3, 5, 7)  # the sizes that the original pools by
            return nn.functional.avg_pool2d(x, x.shape[-1], 1).flatten(1)

    class Plain(nn.Module):
        def __init__(self, plan, size):
            super().__init__()
            self.steps, inputs, place = [], channels, 0
            for step in plan:
                if step == "M":
                    self.steps.append(nn.MaxPool2d(2, 2))
                    continue
                place += 1
                outputs, dilation, padding = step
                conv = nn.Conv2d(
                    inputs, outputs, size, padding=padding, dilation=dilation, bias=False
                )
                setattr(self, f"conv{place}", conv)
                setattr(self, f"bn{place}", norm(outputs))
                self.steps += [conv, getattr(self, f"bn{place}"), torch.relu]
                inputs = outputs

        def forward(self, x):
            for step in self.steps:
                x = step(x)
            return x.flatten(1) if kind == "net6c" else x

    if kind == "net5g":
        width = sizes.get("width", 64)
        trunk, features = Residual(width), 8 * width
    elif kind == "net6c":
        a, b, c, d = sizes.get("widths", (64, 128, 256, 512))
        trunk = Plain(((a, 1, 2), "M", (b, 1, 2), "M", (c, 1, 2), "M", (d, 1, 2)), 5)
        features = d * 9
    else:
        w, p = sizes.get("width", 64), sizes.get("padding", 1)
        trunk = Plain(
            (
                (w, 1, 1),
                (2 * w, 1, 1),
                "M",
                (4 * w, 1, 1),
                (4 * w, 1, 1),
                (8 * w, 2, p),
                (8 * w, 2, p),
            ),
            3,
        )
        features = 8 * w

    def head(outputs):
        if kind != "net10a":
            return nn.Linear(features, outputs)
        return nn.Conv2d(features, outputs, 1, padding=sizes.get("margin", 1), bias=False)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = trunk
            self.heads = nn.ModuleDict(
                {
                    name: nn.ModuleList([head(outputs) for _ in range(count)])
                    for name, (outputs, count) in heads.items()
                }
            )

        def forward(self, x):
            features = self.trunk(x)
            return {
                name: torch.stack([head(features) for head in sub_heads], 1)
                for name, sub_heads in self.heads.items()
            }

    return Whole()


def randomised(torch, module):
    """With drawn statistics, scales and biases, which begin at 0 and 1."""
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            if part.track_running_stats:
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, 0, 0.3)
    return module.eval()


def to_ours(module, shapes, kind):
    """The module's tensors as our variables: sub-heads are one kernel, rows of pixels its order."""
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    tensors = {name: value for name, value in state.items() if name.startswith("trunk.")}
    for name, sub_heads in module.heads.items():
        for leaf in ("weight", "bias"):
            each = [state.get(f"heads.{name}.{i}.{leaf}") for i in range(len(sub_heads))]
            if each[0] is None:
                continue
            whole = np.concatenate(each)
            if leaf == "weight" and kind == "net6c":
                whole = whole.reshape(len(whole), -1, 3, 3).transpose(0, 2, 3, 1)
            tensors[f"head_{name}.{leaf}"] = (
                whole.reshape(len(whole), -1) if leaf == "weight" else whole
            )
    if module.trunk.bn1.track_running_stats:
        return weights.to_variables(tensors, shapes)
    params = weights.to_variables(tensors, {"params": shapes["params"]})
    unused = jax.tree.map(lambda s: np.full(s.shape, np.nan, s.dtype), shapes["batch_stats"])
    return {**params, "batch_stats": unused}


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def test_parameter_counts_are_the_originals():
    torch = pytest.importorskip("torch")
    # torchvision's ResNet-34, but for a stem of 3×3 instead of 7×7 on 2 channels instead of 3.
    resnet34 = 21_284_672 - 64 * (3 * 49 - 2 * 9)
    pairs = ((1, 64), (64, 128), (128, 256), (256, 512))
    five = sum(25 * a * b + 2 * b for a, b in pairs)
    pairs = ((5, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512))
    three = sum(9 * a * b + 2 * b for a, b in pairs)
    cases = (  # of STL-10, MNIST and COCO-3 in the paper
        ("net5g", (1, 64, 64, 2), {"A": 70, "B": 10}, 5, {}, resnet34),
        ("net6c", (1, 24, 24, 1), {"A": 50, "B": 10}, 5, {}, five),
        ("net10a", (1, 128, 128, 5), {"A": 15, "B": 3}, 1, {"faithful": True}, three),
    )
    for kind, shape, heads, sub_heads, options, trunk in cases:
        net = getattr(iic, kind)(heads, sub_heads=sub_heads, **options)
        params = shapes_of(net, shape)["params"]
        with torch.device("meta"):
            module = torch_net(
                torch, kind, shape[-1], {name: (k, sub_heads) for name, k in heads.items()}
            )
        assert count(params) == sum(p.numel() for p in module.parameters())
        assert count(params["trunk"]) == trunk


def both(torch, kind, shape, options, **torch_options):
    """Our logits and PyTorch's, `[..., S, K]`, by the head's name."""
    sizes = {"net5g": {"width": 4}, "net6c": {"widths": (4, 6, 8, 5)}, "net10a": {"width": 4}}[kind]
    heads = {name: (outputs, 2) for name, outputs in HEADS.items()}
    torch.manual_seed(0)
    module = randomised(torch, torch_net(torch, kind, shape[-1], heads, **sizes, **torch_options))
    net = SMALL[kind](**options)
    found = to_ours(module, shapes_of(net, shape), kind)
    x = drawn(shape)
    ours, _ = jax.jit(net.apply)(found, x)
    with torch.inference_mode():
        theirs = module(torch.tensor(np.asarray(x)).permute(0, 3, 1, 2))
    last = {name: torch.movedim(y, (1, 2), (-2, -1)).numpy() for name, y in theirs.items()}
    return ours, last, theirs


@pytest.mark.parametrize("kind", SMALL)
def test_logits_are_those_of_the_original(kind, short):
    torch = pytest.importorskip("torch")
    options = {"faithful": True} if kind == "net10a" else {}
    ours, theirs, raw = both(torch, kind, SHAPES[kind], options, blocks=(1, 2, 1, 1))
    for name, outputs in HEADS.items():
        assert ours[name].shape[-2:] == (2, outputs)
        scale = np.abs(theirs[name]).max()
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-5 * scale)
    if kind != "net10a":
        return
    # The released heads end in a softmax and an interpolation to the input's size.
    size = SHAPES[kind][1:3]
    assert ours["main"].shape == (2, size[0] // 2 - 2, size[1] // 2 - 2, 2, 3)
    assert not np.asarray(ours["main"])[:, 0].any()
    for name in HEADS:
        soft = torch.softmax(raw[name][:, 1], dim=1)
        wide = torch.nn.functional.interpolate(soft, size=size, mode="bilinear")
        got = iic.upsample_probabilities(jax.nn.softmax(ours[name]), size, faithful=True)
        np.testing.assert_allclose(got[..., 1, :], wide.permute(0, 2, 3, 1), atol=1e-5)


def test_evaluation_with_the_statistics_of_the_batch():
    torch = pytest.importorskip("torch")
    shape = SHAPES["net6c"]
    ours, theirs, _ = both(torch, "net6c", shape, {"batch_norm": "batch"}, tracked=False)
    for name in HEADS:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-5 * np.abs(theirs[name]).max())


def test_net10a_keeps_size_and_place_unless_faithful():
    torch = pytest.importorskip("torch")
    shape = SHAPES["net10a"]
    ours, theirs, _ = both(torch, "net10a", shape, {}, padding=2, margin=0)
    assert ours["over"].shape == (2, 10, 13, 2, 7)
    np.testing.assert_allclose(
        ours["over"], theirs["over"], atol=2e-5 * np.abs(theirs["over"]).max()
    )
    # Away from borders the released form says the same, a cell too early and beside a border.
    released, *_ = both(torch, "net10a", shape, {"faithful": True})
    np.testing.assert_allclose(
        released["over"][:, 2:-2, 2:-2],
        ours["over"][:, 3:-3, 3:-3],
        atol=2e-5 * np.abs(theirs["over"]).max(),
    )
    assert jax.eval_shape(
        lambda v: SMALL["net10a"]().apply(v, jnp.zeros((1, 7, 12, 5)))[0]["main"],
        shapes_of(SMALL["net10a"](), (1, 8, 8, 5)),
    ).shape == (1, 4, 6, 2, 3)


@pytest.mark.parametrize("size", [(8, 12), (7, 11)])
def test_upsampled_probabilities_stay_probabilities_in_their_place(size):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), (2, 4, 6, 3)).astype(np.float32)
    got = np.asarray(jax.jit(iic.upsample_probabilities, static_argnums=1)(probabilities, size))
    assert got.shape == (2, *size, 3, 4) and got.min() >= 0
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-6)
    # Pixels 1 and 2 lie a quarter beside the centres of cells 0 and 1, at (0 + 1) / 2 and 2.5.
    row = got[:, 1, 1]
    cells = probabilities[:, :2, :2].astype(float)
    mix = np.array([0.75, 0.25])
    np.testing.assert_allclose(row, np.einsum("y,x,byxsk->bsk", mix, mix, cells), atol=1e-6)
    with pytest.raises(ValueError, match="expected its half"):
        iic.upsample_probabilities(jnp.asarray(probabilities), (10, 12))


def test_initial_values():
    params = jax.jit(iic.net6c({"a": 40, "b": 20}, widths=(8, 64)).init)(
        jax.random.key(0), jnp.zeros((1, 12, 12, 3))
    )["params"]
    assert params["head_a"]["kernel"].shape == (36 * 64, 5 * 40)
    for name in ("head_a", "head_b"):
        assert np.std(params[name]["kernel"]) == pytest.approx(0.01, rel=0.02)
        assert not np.asarray(params[name]["bias"]).any()
    assert np.std(params["trunk"]["conv2"]["kernel"]) == pytest.approx((2 / 200) ** 0.5, rel=0.03)
    maps = jax.jit(iic.net10a({"a": 64}, width=8).init)(jax.random.key(0), jnp.zeros((1, 2, 2, 3)))[
        "params"
    ]
    assert np.std(maps["head_a"]["kernel"]) == pytest.approx((2 / 64) ** 0.5, rel=0.05)
    assert list(maps["head_a"]) == ["kernel"]


def test_a_program_computes_the_heads_that_it_reads():
    shape = (4, 8, 8, 1)
    heads = {"main": 3, "over": 500}
    nets = [iic.net6c(h, sub_heads=2, widths=(2,)) for h in (heads, {"main": 3})]

    def flops(net, name):
        found = shapes_of(net, shape)
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        lowered = jax.jit(lambda v, x: net.apply(v, x)[0][name]).lower(found, x)
        return lowered.compile().cost_analysis()["flops"]

    two, one = nets
    assert flops(two, "main") == flops(one, "main")
    assert flops(two, "over") > flops(two, "main") + 2 * 4 * 128 * 900


@pytest.mark.parametrize("kind", SMALL)
def test_any_channels_in_bfloat16(kind):
    for channels in (1, 6):
        net = SMALL[kind](dtype=jnp.bfloat16)
        shape = (*SHAPES[kind][:3], channels)
        found = shapes_of(net, shape)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
        x = jax.ShapeDtypeStruct(shape, jnp.float32)
        logits, stats = jax.eval_shape(lambda v, x, net=net: net.apply(v, x, train=True), found, x)
        assert {y.dtype for y in jax.tree.leaves((logits, stats))} == {jnp.dtype("float32")}
        assert jax.tree.structure(stats) == jax.tree.structure(found["batch_stats"])


def test_bfloat16_is_near_and_padding_changes_nothing():
    x = drawn(SHAPES["net6c"])
    wide, narrow = (SMALL["net6c"](dtype=dtype) for dtype in (None, jnp.bfloat16))
    found = jax.jit(wide.init)(jax.random.key(0), x)

    @jax.jit
    def run(found, x, mask):
        outputs = [net.apply(found, x, train=True, mask=mask)[0]["over"] for net in (wide, narrow)]
        slope = jax.grad(lambda x: jnp.sum(wide.apply(found, x, train=True)[0]["main"] ** 2))(x)
        return *outputs, slope

    mask = jnp.asarray([True, True, False])
    exact, near, slope = map(np.asarray, run(found, x, mask))
    error = np.abs(near - exact)
    assert 0 < error.max() < 0.1 * np.abs(exact).max()
    assert np.isfinite(slope).all() and slope.any()
    other, *_ = run(found, x.at[2].set(9.0), mask)
    np.testing.assert_allclose(other[:2], exact[:2], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: iic.net5g({}), "heads="),
        (lambda: iic.net5g({"a": 0}), r"heads\['a'\]=0"),
        (lambda: iic.net5g(HEADS, width=0), "width=0"),
        (lambda: iic.net6c(HEADS, sub_heads=0), "sub_heads=0"),
        (lambda: iic.net6c(HEADS, widths=()), "widths="),
        (lambda: iic.net6c(HEADS, widths=(3, -1)), r"widths\[1\]=-1"),
        (lambda: iic.net6c(HEADS, kernel_size=4), "kernel_size=4"),
        (lambda: shapes_of(iic.net10a(HEADS, faithful=True), (1, 8, 20, 3)), "side of 8 pixels"),
    ],
)
def test_bad_options(make, named):
    with pytest.raises(ValueError, match=named):
        make()
