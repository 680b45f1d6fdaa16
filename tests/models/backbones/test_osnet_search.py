"""The super-network of OSNet-AIN's search: the original's numbers, and what it draws."""

import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden import checkpoint, image, nchw, nhwc, normal, param, seed_of
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import AXIS, make_mesh
from jaxreid.models import layers
from jaxreid.models.backbones import make_backbone
from jaxreid.models.backbones.osnet import AIN, BLOCKS, IBN, PLACES, WIDTHS, OmniScaleBlock, OSNet
from jaxreid.models.backbones.osnet_search import FAMILY, SearchBlock, gumbel, shares
from jaxreid.models.model import abstract_variables, init_variables, make_model
from jaxreid.models.necks import make_neck
from jaxreid.ops import convolution
from jaxreid.weights.layouts.osnet import OSNET
from jaxreid.weights.official import from_official, official_shape

NAME = "osnet_search_x1_0"
CELLS = [block.replace("_", ".") for block in BLOCKS]  # as the original calls them
OPS = ("OSBlock", "OSBlockINv1", "OSBlockINv2", "OSBlockINv3")  # of PLACES
# Norm of the difference over norm of the original's; both computed in float64. What is stored as
# float32 is rounded by 6e-8.
TOLERANCE = {np.dtype("float64"): 1e-8, np.dtype("float32"): 1e-6}


def error(ours, theirs):
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) / TOLERANCE[theirs.dtype]


LIKE = "osnet_ain_x1_0"  # whose names are those of the search, but for the candidates


def take(held, path, shape):
    """One of our variables from the original's tensors; what a candidate does not use is 0."""
    if "candidates" not in path:
        return from_official(path, held.pop(OSNET.name(path, LIKE)), shape)
    block, _, *rest = path[1:]
    rest = ["conv3", *rest] if rest[0] == "bn" else rest
    path = ("backbone", block, *rest)
    cell, found = block.replace("_", "."), []
    for number in range(len(PLACES)):
        name = OSNET.name(path, LIKE).replace(cell, f"{cell}.os_block.{number}", 1)
        if name in held:
            assert held[name].shape == official_shape(path, shape[1:])
            found.append(from_official(path, held.pop(name), shape[1:]))
        else:
            assert rest[:2] == ["conv3", "bn"]
            found.append(np.zeros(shape[1:]))
    return np.stack(found)


def of_candidate(block, number):
    """One collection of a candidate's variables, as those of the block that it is."""
    found = jax.tree.map(lambda leaf: leaf[number], dict(block["candidates"]))
    if "bn" in found:  # statistics, without scales
        found["conv3"] = {"bn": found.pop("bn")}
    return found


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def fill(abstract):
    """Variables of some shapes, with which activations stay near 1."""
    rng = np.random.default_rng(0)

    def value(path, leaf):
        if path[-1].key != "kernel":  # among them variances and architecture weights
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        stacked = any(key.key == "candidates" for key in path)
        spread = np.sqrt(2 / np.prod(leaf.shape[stacked:-1]))
        return (spread * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(value, abstract)


@pytest.fixture
def native(monkeypatch):
    """Convolutions as such: XLA compiles them in a third of the time of their form for CPUs."""
    monkeypatch.setattr(convolution, "_native", lambda choice: True)


@pytest.fixture(scope="module")
def original(golden_dir):
    """What the original computed, and its weights as our variables in float64."""
    held = np.load(golden_dir / "osnet_nas.npz")
    meta = json.loads((golden_dir / "osnet_nas.json").read_text())
    seed = seed_of(golden_dir.folder)
    tensors = checkpoint(seed, meta["names"])
    card = {
        "backbone": {"name": NAME},
        "neck": {"name": "linear", "affine": False},
        "matcher": {"name": "embedding"},
        "height": meta["input"]["shape"][2],
        "width": meta["input"]["shape"][3],
        "classes": meta["num_classes"],
    }
    abstract = abstract_variables(make_model(**card))
    variables = traverse_util.unflatten_dict({
        key: take(tensors, key[1:], leaf.shape).astype(np.float64)
        for key, leaf in traverse_util.flatten_dict(abstract).items()
    })  # fmt: skip
    assert all(name.endswith("num_batches_tracked") for name in tensors), tensors.keys()
    made = image(seed, meta["input"]["name"], meta["input"]["shape"])
    return types.SimpleNamespace(
        seed=seed,
        held=held,
        meta=meta,
        card=card,
        variables=variables,
        image=nhwc(made).astype(np.float64),
        uniform=np.stack([held[f"noise/{cell}"] for cell in CELLS]),
        weights=np.array([meta["alpha"][cell] for cell in CELLS]),
    )


def cases(held, mode):
    """(set of architecture weights, temperature, beginning of the keys), from the file's keys."""
    prefixes = {key.rpartition("/")[0] for key in held.files if key.endswith(f"/{mode}/output")}
    for prefix in sorted(prefixes):
        kind, temperature, _ = prefix.split("/")
        yield kind, float(temperature.removeprefix("lmda")), prefix


def weights_of(original, kind):
    weights = original.weights.copy()
    if kind == "with_negative":
        weights[CELLS.index("conv3.0"), 1] = -0.7
        weights[CELLS.index("conv4.1"), 2] = 0
    return weights


def by_cell(held, prefix):
    return np.stack([held[f"{prefix}/{cell}"] for cell in CELLS])


@pytest.mark.golden
@pytest.mark.full
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_super_network_equals_the_original(original, mode, native):
    with jax.enable_x64(True):
        net = make_backbone(NAME, dtype="float64")
        neck = make_neck(**original.card["neck"], dtype="float64")

        @jax.jit
        def run(variables, weights, drawn, direction):
            def project(weights):
                params, stats = variables["params"], variables["batch_stats"]
                blocks = {
                    block: params["backbone"][block] | {"weights": weights[number]}
                    for number, block in enumerate(BLOCKS)
                }
                held = {"params": params["backbone"] | blocks, "batch_stats": stats["backbone"]}
                given = {"train": mode == "train", "mutable": ["batch_stats"]}
                feature, _ = net.apply(held | {"drawn": drawn}, original.image, **given)
                held = {"params": params["neck"], "batch_stats": stats["neck"]}
                output, _ = neck.apply(held, feature, **given)
                if mode == "train":
                    last = params["classifier"]
                    output = output @ last["kernel"] + last["bias"]
                return jnp.sum(output * direction), (output, feature)

            gradient, aux = jax.grad(project, has_aux=True)(weights)
            return *aux, gradient

        found = list(cases(original.held, mode))
        assert {kind for kind, *_ in found} >= {"rule"}
        for kind, temperature, prefix in found:
            expected = original.held[f"{prefix}/output"]
            direction = normal(original.seed, f"nas_R/{mode}", expected.shape).astype(np.float64)
            weights = weights_of(original, kind)
            noise = gumbel(jnp.asarray(original.uniform))
            drawn = {"noise": noise, "temperature": jnp.array(temperature)}
            output, feature, gradient = run(original.variables, weights, drawn, direction)
            assert error(output, expected) < 1, prefix
            assert error(gradient, by_cell(original.held, f"{prefix}/grad_alpha")) < 1, prefix
            share = by_cell(original.held, f"{prefix}/gumbel_softmax")
            # The original's do not quite add up to 1: it adds 1e-12 to their sum.
            np.testing.assert_allclose(shares(weights, noise, temperature), share, atol=1e-11)
            if f"{prefix}/featuremap" in original.held.files:
                assert error(nchw(feature), original.held[f"{prefix}/featuremap"]) < 1, prefix


@pytest.mark.golden
def test_super_network_has_the_size_of_the_original(original):
    assert size(original.variables["params"]) == original.meta["params"]
    assert original.meta["ops"] == list(OPS)


@pytest.mark.golden
def test_candidates_equal_the_originals(original, native):
    held = {op: f"block_out/{op}" for op in OPS if f"block_out/{op}" in original.held.files}
    assert held
    for op, key in held.items():
        expected = original.held[key]
        with jax.enable_x64(True):
            place = PLACES[OPS.index(op)]
            x = jnp.asarray(nhwc(original.held["block_in"]), float)
            block = OmniScaleBlock(
                expected.shape[1], False, None, jnp.float64, False, instance_norm=place
            )
            abstract = jax.eval_shape(block.init, jax.random.key(0), x)
            made = {}
            for (collection, *path), leaf in traverse_util.flatten_dict(abstract).items():
                path = ("backbone", "block", *path)
                name, shape = OSNET.name(path, LIKE), official_shape(path, leaf.shape)
                tensor = from_official(path, param(original.seed, name, shape), leaf.shape)
                made[collection, *path[2:]] = tensor.astype(float)
            y = jax.jit(block.apply)(traverse_util.unflatten_dict(made), x)
        assert error(nchw(y), expected) < 1, op


@pytest.mark.golden
def test_the_best_candidates_make_the_original_child(original, native):
    best = original.weights.argmax(1)
    printed = [line.split("Block=")[1] for line in original.meta["child_printed"].split("\n")[1:-1]]
    assert [OPS[number] for number in best] == printed
    blocks = tuple(PLACES[number] for number in best)

    def child(collection):
        tree = original.variables[collection]["backbone"]
        found = dict(tree)
        for block, number in zip(BLOCKS, best, strict=True):
            found[block] = of_candidate(tree[block], number)
        return found

    variables = {collection: child(collection) for collection in ("params", "batch_stats")}
    others = ("neck", "classifier")
    rest = size([original.variables["params"][part] for part in others])
    assert size(variables["params"]) + rest == original.meta["child_params"]
    with jax.enable_x64(True):
        options = {"stem": "instance", "blocks": blocks, "affine": False}
        feature = jax.jit(OSNet(**options, dtype=jnp.float64).apply)(variables, original.image)
        neck = make_neck(**original.card["neck"], dtype="float64")
        held = {key: original.variables[key]["neck"] for key in ("params", "batch_stats")}
        y = neck.apply(held, feature)
        assert error(y, original.held["child/eval_feature"]) < 1
        # An architecture by name is the same, with scales and biases.
        named = make_backbone("osnet_x1_0", stem="instance", blocks=list(blocks), dtype="float64")
        abstract = jax.eval_shape(named.init, jax.random.key(0), original.image)
        plain, affine = (
            traverse_util.flatten_dict(p) for p in (variables["params"], abstract["params"])
        )
        assert affine.keys() > plain.keys()
        start = {  # a BN before the first update
            path: plain.get(path, np.full(leaf.shape, float(path[-1] == "scale")))
            for path, leaf in affine.items()
        }
        variables["params"] = traverse_util.unflatten_dict(start)
        np.testing.assert_allclose(jax.jit(named.apply)(variables, original.image), feature)


@pytest.mark.golden
def test_temperature_falls_as_the_originals(original):
    draw = jax.jit(make_backbone(NAME).draw)
    expected = original.meta["lmda_by_epoch"]
    key = jax.random.key(0)
    found = [float(draw(epoch, key)["temperature"]) for epoch in range(len(expected))]
    assert found == expected


def test_temperature_falls_as_it_is_told():
    options = {"temperature_factor": 0.25, "temperature_every": 2, "temperature_floor": 0.5}
    net = make_backbone(NAME, temperature=8.0, **options)
    found = [float(net.draw(epoch, jax.random.key(0))["temperature"]) for epoch in range(8)]
    assert found == [8, 8, 2, 2, 0.5, 0.5, 0.5, 0.5]


def test_noise_is_gumbels_and_of_its_step_alone():
    net, seed = make_backbone(NAME), jax.random.key(3)
    draw = jax.jit(net.draw)
    one, other = (draw(step // 10, jax.random.fold_in(seed, step)) for step in (7, 8))
    again = net.draw(0, jax.random.fold_in(seed, 7))
    assert one["noise"].shape == (len(BLOCKS), len(PLACES))
    assert one["temperature"].shape == ()
    np.testing.assert_allclose(one["noise"], again["noise"], rtol=1e-6)
    assert (one["noise"] != other["noise"]).all()
    assert len(np.unique(one["noise"])) == one["noise"].size  # each candidate has its own
    draws = jax.vmap(lambda key: net.draw(0, key)["noise"])(jax.random.split(seed, 4000))
    # Mean and deviation of Gumbel's distribution; five standard errors of 96,000 draws.
    assert float(draws.mean()) == pytest.approx(0.5772, abs=5 * 1.2825 / np.sqrt(draws.size))
    assert float(draws.std()) == pytest.approx(1.2825, rel=0.03)
    assert np.isfinite(gumbel(jnp.array([0.0, np.nextafter(np.float32(1), np.float32(0))]))).all()


@pytest.mark.parametrize("temperature", [10.0, 1.0, 0.1])
def test_weights_that_are_not_positive_give_finite_shares_and_gradients(temperature):
    weights = jnp.array([[-1.0, -2, -0.5, -3], [0, 0, 0, 0], [1, -1, 0, 2]])
    noise = gumbel(jax.random.uniform(jax.random.key(0), weights.shape))
    first = lambda weights: shares(weights, noise, temperature)[..., 0].sum()  # noqa: E731
    share, gradient = shares(weights, noise, temperature), jax.grad(first)(weights)
    assert np.isfinite(gradient).all()
    assert (gradient[:2] == 0).all()
    if temperature >= 1:  # below, one candidate has all
        assert (gradient[2, [0, 3]] != 0).all()
    np.testing.assert_allclose(share.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(share[0], jax.nn.softmax(noise[0] / temperature), rtol=1e-4)


def test_a_block_is_the_mean_of_its_candidates_by_their_shares(native):
    x = np.random.default_rng(1).standard_normal((4, 4, 2, 16), np.float32)
    mode = {"train": False, "axis_name": None, "dtype": jnp.float32, "affine": False}
    block, noise, temperature = SearchBlock(64, **mode), jnp.array([0.3, -1, 2, 0.1]), 2.0
    variables = fill(jax.eval_shape(block.init, jax.random.key(5), x, noise, temperature))
    weights = variables["params"]["weights"]
    y = jax.jit(block.apply)(variables, x, noise, temperature)
    total = 0
    for number, (place, share) in enumerate(
        zip(PLACES, shares(weights, noise, temperature), strict=True)
    ):
        one = OmniScaleBlock(64, **mode, instance_norm=place)
        held = {collection: of_candidate(tree, number) for collection, tree in variables.items()}
        total += share * jax.jit(one.apply)(held, x)
    np.testing.assert_allclose(y, total, rtol=1e-4, atol=1e-5)


def test_four_devices_give_what_one_gives(native):
    net = make_backbone("osnet_search_x0_25")
    x = np.random.default_rng(1).standard_normal((4, 4, 2, 16), np.float32)
    mode = {"features": 64, "train": True, "dtype": jnp.float32, "affine": False}
    alone, spread = SearchBlock(axis_name=None, **mode), SearchBlock(axis_name=AXIS, **mode)
    key = jax.random.key(5)
    variables = fill(jax.eval_shape(alone.init, key, x, jnp.zeros(len(PLACES)), 1.0))

    def forward(block, x):
        drawn = net.draw(0, key)
        drawn["noise"] = drawn["noise"][0]
        return block.apply(variables, x, **drawn, mutable=["batch_stats"])[0]

    y = jax.jit(functools.partial(forward, alone))(x)
    body = functools.partial(forward, spread)
    mesh = make_mesh(jax.devices()[:4])
    ours = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=P(AXIS), out_specs=P(AXIS)))(x)
    # Batch statistics are added up in another order.
    np.testing.assert_allclose(y, ours, atol=1e-5 * np.abs(y).max())


@pytest.mark.full
def test_evaluation_draws_nothing(native):
    net = make_backbone("osnet_search_x0_25")
    x = np.random.default_rng(1).standard_normal((1, 32, 16, 3), np.float32)
    abstract = jax.eval_shape(net.init, jax.random.key(1), x)
    assert abstract.keys() == {"params", "batch_stats"}
    variables = fill(abstract)
    noise = jnp.zeros((len(BLOCKS), len(PLACES)))
    apply = jax.jit(functools.partial(net.apply, train=False))
    y = apply(variables, x)
    assert np.isfinite(y).all()
    drawn = {"noise": noise, "temperature": jnp.array(1.0)}
    np.testing.assert_allclose(y, apply(variables | {"drawn": drawn}, x), rtol=1e-6, atol=1e-6)
    for changed in ({"noise": noise.at[5, 1].set(3)}, {"noise": noise.at[0, 2].set(3)}):
        assert float(jnp.abs(y - apply(variables | {"drawn": drawn | changed}, x)).max()) > 1e-3


@pytest.mark.full
def test_super_networks_hold_all_candidates():
    net = make_backbone("osnet_search_x0_25", dtype="bfloat16")
    x = jax.ShapeDtypeStruct((2, 64, 32, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    for number, block in enumerate(BLOCKS):
        held = variables["params"][block]
        assert held.keys() == {"candidates", "weights"}
        kernel = held["candidates"]["conv3"]["conv"]["kernel"]
        features = net.channels[1 + number // 2]
        assert kernel.shape == (len(PLACES), 1, 1, features // 4, features)
    leaves = {path[-1] for path in traverse_util.flatten_dict(variables["params"])}
    assert leaves == {"kernel", "bias", "weights"}  # no scale: bias is the gates'
    drawn = jax.eval_shape(net.draw, 0, jax.random.key(0))
    y = jax.eval_shape(net.apply, variables | {"drawn": drawn}, x)
    assert (y.shape, y.dtype) == ((2, 4, 2, net.channels[-1]), jnp.bfloat16)
    widths = {name: make_backbone(name).channels for name in FAMILY}
    assert widths == {f"osnet_search_{width}": channels for width, channels in WIDTHS.items()}


def test_the_super_network_starts_as_pytorchs_default(monkeypatch):
    drawn, uniform_init = [], layers.uniform_init

    def recorded(inputs):
        def uniform(key, shape, *dtype):
            drawn.append((inputs, shape))
            return uniform_init(inputs)(key, shape, *dtype)

        return uniform

    def refused(*_):
        raise AssertionError("He's initialisation")

    shape_options = {"height": 32, "width": 16, "classes": 7}
    parts = {"neck": {"name": "linear"}, "matcher": {"name": "embedding"}}
    model = make_model(backbone={"name": "osnet_search_x0_25"}, **parts, **shape_options)
    with monkeypatch.context() as patch:
        patch.setattr(layers, "uniform_init", recorded)
        patch.setattr(layers, "conv_init", refused)
        patch.setattr(layers, "linear_init", refused)
        params = jax.eval_shape(lambda: init_variables(model, 0))["params"]
    shapes = set()
    for path, leaf in traverse_util.flatten_dict(params).items():
        if path[-1] in ("kernel", "bias"):  # those of candidates are stacked
            shapes.add(leaf.shape["candidates" in path :])
    assert {shape for _, shape in drawn} == shapes
    for (inputs, shape), (before, _) in zip(drawn, [(0, ()), *drawn], strict=False):
        # A bias, of gates and linear layers, is drawn after its kernel.
        assert inputs == (np.prod(shape[:-1]) if len(shape) > 1 else before), shape
    # The networks that it finds start as torchreid's.
    found = make_model(backbone={"name": "osnet_ain_x0_25"}, **parts, **shape_options)
    with monkeypatch.context() as patch:
        patch.setattr(layers, "uniform_init", refused)
        jax.eval_shape(lambda: init_variables(found, 0))


def test_options_make_any_architecture():
    given = make_backbone("osnet_x0_25", stem="instance", blocks=list(AIN))
    assert given == make_backbone("osnet_ain_x0_25")
    assert make_backbone("osnet_ain_x0_25", blocks=IBN) == make_backbone("osnet_ibn_x0_25")
    assert make_backbone("osnet_ain_x0_5", stem="batch").blocks == AIN
    hash(given)  # lists in an attribute would not do under jit


def test_options_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="blocks has 5 places; expected 6, one for each of conv"):
        make_backbone("osnet_x1_0", blocks=["none"] * 5)
    with pytest.raises(ValueError, match="place in backbone.blocks 'resdual'; valid: residual, "):
        make_backbone("osnet_x1_0", blocks=[*AIN[:5], "resdual"])
    with pytest.raises(ValueError, match="unknown backbone.stem 'instanse'; valid: instance, "):
        make_backbone("osnet_x1_0", stem="instanse")
    with pytest.raises(ValueError, match="has no option blocks; it has temperature, temp"):
        make_backbone(NAME, blocks=AIN)
    with pytest.raises(ValueError, match="'resnet18' has no option blocks"):
        make_backbone("resnet18", blocks=AIN)
    for option in ("temperature", "temperature_factor", "temperature_floor"):
        with pytest.raises(ValueError, match=r"temperature_floor are .* greater than 0"):
            make_backbone(NAME, **{option: 0.0})
    with pytest.raises(ValueError, match="temperature_factor is 2.0; expected at most 1"):
        make_backbone(NAME, temperature_factor=2.0)
    with pytest.raises(ValueError, match="temperature_every is 0; expected at least 1"):
        make_backbone(NAME, temperature_every=0)
