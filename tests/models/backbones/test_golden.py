"""Every backbone against the original's numbers: features, every stage, logits, gradients.

Weights are made by the set's rule under their official names and go through `pytorch.convert`, as a
checkpoint does.
"""

import itertools
import json
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden import checkpoint, find, image, nchw, nhwc, normal, param, seed_of
from selection import deep

from jaxreid.models.backbones import make_backbone
from jaxreid.models.model import make_model
from jaxreid.models.necks import make_neck
from jaxreid.ops.convolution import average_pool, max_pool
from jaxreid.weights.layouts import layout_of
from jaxreid.weights.layouts.qaconv import QACONV
from jaxreid.weights.official import from_official, official_shape
from jaxreid.weights.pytorch import convert

pytestmark = pytest.mark.golden

# Norm of the difference over norm of the original's. The original ran in float64; its own float32
# differs by 1e-7 to 2e-6.
TOLERANCE = {"float32": 1e-4, "float64": 1e-5}


def read(name):
    return json.loads((find() / name).read_text())


RESNETS = tuple(read("backbone_checks.json")["nets"])
OSNETS = tuple(k for k, v in read("osnet.json").items() if isinstance(v, dict) and "trace" in v)
SMALL = tuple(key for key in read("backbone_small.json") if key != "input")


def arch_of(net):
    """resnet50_b -> resnet50_ibn_b."""
    depth, ibn = net.split("_")
    return depth if ibn == "none" else f"{depth}_ibn_{ibn}"


def error(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def pixels(described):
    """The images [B, H, W, 3] that a file of the set describes, remade by the rule."""
    made = image(seed_of(find()), described["name"], described["shape"])
    if crc := described.get("crc32", described.get("crc32_f32")):
        assert zlib.crc32(made.tobytes()) == crc, f"{described['name']} is not what the rule gives"
    return nhwc(made)


def part(variables, name, dtype="float32"):
    held = {
        collection: variables[collection].get(name, {}) for collection in ("params", "batch_stats")
    }
    return jax.tree.map(lambda leaf: leaf.astype(dtype), held)


def check_stage(stage, ours, theirs, tolerance):
    """Compares a feature map [B, h, w, c] with the checksums of the original's."""
    ours = nchw(ours)
    assert list(ours.shape) == theirs["shape"], stage
    found = {"mean": ours.mean(), "std": ours.std(), "absmax": np.abs(ours).max()}
    for key, value in found.items():
        assert value == pytest.approx(theirs[key], abs=tolerance * theirs["absmax"]), (stage, key)
    assert np.linalg.norm(ours) == pytest.approx(theirs["l2"], rel=tolerance), stage
    for key, values in (("first8", ours.ravel()[:8]), ("last8", ours.ravel()[-8:])):
        np.testing.assert_allclose(
            values, theirs[key], atol=tolerance * theirs["absmax"], err_msg=f"{stage} {key}"
        )


def stages(module, variables, x, **options):
    """Output of a module and of every module in it, by name, compiled as one program."""

    def run(variables, x):
        return module.apply(variables, x, capture_intermediates=True, mutable=True, **options)

    y, left = jax.jit(run)(variables, x)
    inner = traverse_util.flatten_dict(left.pop("intermediates"))
    return y, {path[:-1]: value[0] for path, value in inner.items()}, left


@pytest.mark.parametrize(
    ("net", "dtype"),
    deep(
        *itertools.product(RESNETS, TOLERANCE),
        but=[
            ("resnet18_none", "float32"),
            ("resnet50_b", "float64"),
        ],
    ),
)
def test_resnet_equals_the_original_at_every_stage(net, dtype):
    seed, checks = seed_of(find()), read("backbone_checks.json")
    names = read("backbone_names.json")[net]
    held, tolerance = np.load(find() / f"backbone_{net}.npz"), TOLERANCE[dtype]
    with jax.enable_x64(dtype == "float64"):
        x = pixels(checks["input"]).astype(dtype)
        converted = convert(
            checkpoint(seed, names["layer4_neck0"]), arch_of(net), cut="layer4", skip=("criterion",)
        )
        assert converted.report.complete
        backbone = make_backbone(arch_of(net), dtype=dtype)
        _, inner, _ = stages(backbone, part(converted.variables, "backbone", dtype), x)
        inner[("relu",)] = jax.nn.relu(inner[("bn1",)])
        inner[("maxpool",)] = max_pool(inner[("relu",)])
        for key, check in checks["nets"][net].items():
            cut, channels = key.split("_neck")
            blocks = [path[0] for path in inner if len(path) == 1 and path[0].startswith(cut)]
            feature = inner[(max(blocks, key=lambda name: int(name.split("_")[1])),)]
            neck = make_neck("map", channels=int(channels), norm="none", dtype=dtype)
            output, inside, _ = stages(neck, rule_neck(neck, seed, feature, dtype), feature)
            outputs = {"output": output, "neck_conv": inside.get(("conv",))}
            for stage, expected in check["trace"]:
                ours = outputs.get(stage, inner.get((stage.replace(".", "_"),)))
                check_stage(f"{key} {stage}", ours, expected, tolerance)
            flat = nchw(output).ravel()
            at = [min(i * flat.size // 64 + i % 7, flat.size - 1) for i in range(64)]
            np.testing.assert_allclose(flat[at], check["samples64"], atol=tolerance, err_msg=key)
            if key in held.files:
                expected = held[key]
                assert error(nchw(output)[: len(expected)], expected) < tolerance, key


def rule_neck(neck, seed, feature, dtype):
    """Variables of a neck by the rule, from their official names."""
    abstract = jax.eval_shape(neck.init, jax.random.key(0), feature).get("params", {})
    flat = traverse_util.flatten_dict(abstract)
    made = {}
    for key, leaf in flat.items():
        path = ("neck", *key)
        name = QACONV.name(path, "resnet50")
        tensor = param(seed, name, official_shape(path, leaf.shape))
        made[key] = from_official(path, tensor, leaf.shape).astype(dtype)
    return {"params": traverse_util.unflatten_dict(made)}


@pytest.mark.parametrize("net", deep(*RESNETS, but=["resnet18_none", "resnet50_b"]))
def test_every_cut_and_neck_is_read_off_a_checkpoint(net):
    for key, names in read("backbone_names.json")[net].items():
        cut, channels = key.split("_neck")
        converted = convert(
            checkpoint(seed_of(find()), names, empty=True),
            arch_of(net),
            cut=cut,
            skip=("criterion",),
        )
        assert converted.report.complete, (key, converted.report)
        assert converted.card["backbone"]["cut"] == cut
        assert converted.card["neck"]["channels"] == int(channels)


@pytest.mark.parametrize("net", deep(*RESNETS, but=["resnet18_none"]))
def test_a_converted_model_has_the_features_of_the_original(net):
    """The path of the program: checkpoint, conversion, model."""
    seed, shape = seed_of(find()), read("backbone_checks.json")["input"]["shape"]
    held = np.load(find() / f"backbone_{net}.npz")
    key = min(held.files, key=lambda key: (key[:6], held[key].size))  # the cheapest to compile
    names = read("backbone_names.json")[net][key]
    converted = convert(
        checkpoint(seed, names),
        arch_of(net),
        cut=key[:6],
        input_size=shape[2:],
        skip=("criterion",),
    )
    model = make_model(**converted.card)
    x = pixels(read("backbone_checks.json")["input"])[: len(held[key])]
    variables = converted.variables
    y = model.backbone.apply(part(variables, "backbone"), x)
    assert error(nchw(model.neck.apply(part(variables, "neck"), y)), held[key]) < 1e-4


@pytest.mark.parametrize("net", deep(*OSNETS, but=["osnet_ain_x0_25"]))
def test_osnet_equals_the_original_at_every_stage(net):
    check_osnet(net, "float32")


@pytest.mark.full
@pytest.mark.parametrize("net", [n for n in OSNETS if "x0_25" in n])
def test_osnet_equals_the_original_in_float64(net):
    with jax.enable_x64(True):
        check_osnet(net, "float64")


def check_osnet(net, dtype):
    seed, checks, held = seed_of(find()), read("osnet.json"), np.load(find() / "osnet.npz")
    tolerance = TOLERANCE[dtype]
    converted = convert(checkpoint(seed, read("osnet_names.json")[net]), net)
    assert converted.report.complete
    backbone, neck = make_backbone(net, dtype=dtype), make_neck("linear", dtype=dtype)
    variables = converted.variables
    trunk, head = part(variables, "backbone", dtype), part(variables, "neck", dtype)
    classifier = jax.tree.map(lambda x: x.astype(dtype), variables["params"]["classifier"])

    x = pixels(checks["eval_input"]).astype(dtype)
    y, inner, _ = stages(backbone, trunk, x)
    inner[("maxpool",)] = max_pool(inner[("conv1",)])
    for stage, expected in checks[net]["trace"]:
        name = stage.replace(".", "_")
        if transition := re.fullmatch(r"conv([23])_2|pool([23])", name):  # followed by a mean
            ours = average_pool(inner[(f"pool{transition[1] or transition[2]}",)])
        else:
            ours = inner[(name,)]
        check_stage(f"{net} {stage}", ours, expected, tolerance)
    if f"{net}/featuremap" in held.files:
        assert error(nchw(y), held[f"{net}/featuremap"]) < tolerance
    assert error(neck.apply(head, y), held[f"{net}/feature"]) < tolerance

    x = pixels(checks["train_input"]).astype(dtype)
    target = held["train_targets"]

    def loss(params):
        y, left = backbone.apply(
            trunk | {"params": params["backbone"]}, x, train=True, mutable=["batch_stats"]
        )
        y, more = neck.apply(
            head | {"params": params["neck"]}, y, train=True, mutable=["batch_stats"]
        )
        logit = y @ params["classifier"]["kernel"] + params["classifier"]["bias"]
        # Label smoothing of 0.1, as the original's training.
        share = 0.9 * jax.nn.one_hot(target, logit.shape[1]) + 0.1 / logit.shape[1]
        value = -jnp.mean(jnp.sum(share * jax.nn.log_softmax(logit), -1))
        return value, (y, logit, {"backbone": left["batch_stats"], "neck": more["batch_stats"]})

    params = {"backbone": trunk["params"], "neck": head["params"], "classifier": classifier}
    if dtype == "float32":
        value, (y, logit, after) = jax.jit(loss)(params)
        gradient = None
    else:
        (value, (y, logit, after)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            params
        )
    # Batch statistics of few small images amplify rounding: the original's own float32 differs by
    # up to 6e-5.
    tolerance = {"float32": 2e-4, "float64": 1e-5}[dtype]
    assert error(logit, held[f"{net}/train_logits"]) < tolerance
    assert float(value) == pytest.approx(checks[net]["train_loss_ls0.1"], rel=tolerance)
    if f"{net}/train_triplet_features" in held.files:
        assert error(y, held[f"{net}/train_triplet_features"]) < tolerance
    by_name = lambda tree: official(net, tree)  # noqa: E731
    if gradient is not None and "train_param_grads" in checks[net]:
        check_summaries(by_name(gradient), checks[net]["train_param_grads"])
    if dtype == "float64":
        check_running(by_name(after), checks[net]["train_running_after"])


def official(arch, tree, layout=None):
    """Leaves of a tree of variables in PyTorch's layout, by official name."""
    found = {}
    for path, leaf in traverse_util.flatten_dict(tree).items():
        leaf = np.asarray(leaf)
        if path[-1] == "kernel":
            leaf = leaf.transpose((3, 2, 0, 1) if leaf.ndim == 4 else (1, 0))
        found[(layout or layout_of((), arch)).name(path, arch)] = leaf
    return found


def check_running(ours, theirs):
    """Running statistics by official name against norm and first values of the original's."""
    theirs = dict(theirs)
    assert ours
    for name, stats in ours.items():  # the original has more: layers after the cut
        expected = theirs[name]
        assert np.linalg.norm(stats) == pytest.approx(expected["l2"], rel=1e-5), name
        scale = np.abs(expected["first4"]).max()
        np.testing.assert_allclose(stats[:4], expected["first4"], atol=1e-5 * scale, err_msg=name)


def check_summaries(ours, theirs):
    """Gradients by official name against norm, sum and first values of the original's."""
    compared = 0
    largest = max(expected["l2"] for _, expected in theirs)
    for name, expected in theirs:
        if name not in ours:
            continue
        scale = max(expected["l2"], 1e-9 * largest)  # true zeros are compared with the others
        assert np.linalg.norm(ours[name]) == pytest.approx(expected["l2"], abs=1e-5 * scale), name
        assert ours[name].sum() == pytest.approx(
            expected["sum"], abs=1e-5 * scale * np.sqrt(ours[name].size)
        ), name
        first = ours[name].ravel()[:4]
        np.testing.assert_allclose(first, expected["first4"], atol=1e-5 * scale, err_msg=name)
        compared += 1
    assert compared == len(ours)


@pytest.mark.parametrize(
    ("net", "mode"),
    deep(*itertools.product(SMALL, ("eval", "train")), but=[("resnet18_none", "train")]),
)
def test_resnet_gradients_and_statistics_equal_the_original(net, mode):
    seed, checks, held = (
        seed_of(find()),
        read("backbone_small.json"),
        np.load(find() / "backbone_small.npz"),
    )
    arch = arch_of(net)
    with jax.enable_x64(True):
        x = jnp.asarray(pixels(checks["input"]), float)
        names = read("backbone_names.json")[net]["layer3_neck64"]
        converted = convert(checkpoint(seed, names), arch, skip=("criterion",))
        parts = {
            "backbone": make_backbone(arch, cut="layer3", dtype="float64"),
            "neck": make_neck("map", channels=64, norm="none", dtype="float64"),
        }
        held_parts = {name: part(converted.variables, name, "float64") for name in parts}
        params = {name: variables["params"] for name, variables in held_parts.items()}
        direction = nhwc(normal(seed, "backbone_small_R", held[f"{net}/eval_out"].shape))

        def project(params, x, train):
            left = {}
            for name, module in parts.items():
                variables = held_parts[name] | {"params": params[name]}
                x, updates = module.apply(variables, x, train=train, mutable=["batch_stats"])
                left[name] = updates.get("batch_stats", {})
            return jnp.sum(x * direction), (x, left)

        grads = jax.jit(
            jax.value_and_grad(
                lambda p, x, train=mode == "train": project(p, x, train), (0, 1), has_aux=True
            )
        )
        (_, (out, left)), (grad, grad_input) = grads(params, x)
        assert error(nchw(out), held[f"{net}/{mode}_out"]) < 1e-5
        if f"{net}/{mode}_grad_input" in held.files:
            assert error(nchw(grad_input), held[f"{net}/{mode}_grad_input"]) < 1e-5
        if f"{mode}_param_grads" in checks[net]:
            check_summaries(official(arch, grad, QACONV), checks[net][f"{mode}_param_grads"])
        stats = official(arch, left, QACONV)
        if mode == "train":
            check_running(stats, checks[net]["train_running_stats"])
