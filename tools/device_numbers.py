"""Parts of `device_check.py` on numbers: the originals', the definition, and the processor's."""

import json
import types
from collections.abc import Iterator
from typing import Any

import golden as reference
import jax
import jax.numpy as jnp
import numpy as np
from device_common import KINDS, RECIPES, Row, Training, in_parallel, losses_of, maps, reason
from golden import arrays_of, nchw, nhwc

from jaxreid.ops.correlation import best_matches, match_scores


def host(small: bool) -> Iterator[Row]:
    """Describe the devices."""
    for device in jax.devices():
        limit = (device.memory_stats() or {}).get("bytes_limit", 0)
        yield {"what": f"{device.device_kind} {device.id}", "gigabytes": limit / 1e9}


def largest(got: Any, expected: Any) -> float:
    """Return the largest error in units of the largest expected number."""
    got, expected = np.asarray(got, float), np.asarray(expected, float)
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-30))


def golden(small: bool) -> Iterator[Row]:
    """Compare with what the original code computed: matcher, losses, backbones, trainings."""
    for kind, (dtype, precision) in KINDS.items():
        with jax.default_matmul_precision(precision):
            for check in (golden_matcher, golden_memory_loss, golden_losses):
                for name, errors in check(jnp.dtype(dtype)):
                    yield {"what": f"{name}, {kind}"} | errors
    jobs = {
        f"{name}, {kind}": lambda name=name, kind=kind: golden_backbone(name, *KINDS[kind])
        for name in (("resnet18_none",) if small else ("resnet50_b", "osnet_x0_25"))
        for kind in (("float32",) if small else KINDS)
    }
    jobs |= {
        f"six steps of OSNet x0.25, {kind}": lambda kind=kind: golden_training(*KINDS[kind])
        for kind in (("float32",) if small else KINDS)
    }
    for name, result in in_parallel(jobs):
        failed = isinstance(result, Exception)
        yield {"what": name} | ({"failed": reason(result)} if failed else result)


def golden_matcher(dtype: Any) -> Iterator[tuple[str, Row]]:
    """Compare scores and gradients of QAConv."""
    from jaxreid.models.matchers import make_matcher

    arrays = arrays_of(reference.find() / "matcher_real.npz")
    query, gallery = (jnp.asarray(nhwc(arrays[k]), dtype) for k in ("prob", "gal"))
    for head, version in (("v2.1", "HEAD"), ("v1", "v1.2")):
        matcher = make_matcher("qaconv", head=head)
        seed = reference.seed_of(reference.find())
        variables = reference.qaconv_variables(seed, head, *query.shape[1:3], np.float32)

        def total(variables: Any, query: Any, gallery: Any, matcher: Any = matcher) -> Any:
            options = {"train": True, "mutable": ["batch_stats"]}
            scores, _ = matcher.apply(variables, query, gallery, **options)
            return (scores * arrays["R"]).sum()

        expected = arrays[f"{version}/train/grad_param/fc.weight"]
        scores = jax.jit(matcher.apply)(variables, query, gallery)
        gradient = jax.jit(jax.grad(total))(variables, query, gallery)["params"]["weight"]
        yield (
            f"QAConv {head}, the original's",
            {
                "error": largest(scores, arrays[f"{version}/eval/score"]),
                "gradient_error": largest(gradient.reshape(1, -1), expected),
            },
        )


def golden_memory_loss(dtype: Any) -> Iterator[tuple[str, Row]]:
    """Compare five steps of the class memory's loss, and the gradients of the features."""
    from jaxreid.models.matchers import make_matcher
    from jaxreid.training.memory import ClassMemory
    from jaxreid.training.objectives import Batch, make_objective

    folder = reference.find()
    arrays = arrays_of(folder / "loss_class_memory.npz")
    chunks = {key.split("/")[2] for key in arrays if key.startswith("classmem/HEAD/mem")}
    # The largest chunk holds all classes, as here.
    case = "classmem/HEAD/" + max(chunks, key=lambda chunk: int(chunk.removeprefix("mem")))
    targets, features = arrays["targets"].astype(np.int32), nhwc(arrays["features"])
    classes, shape = arrays[f"{case}/step0/valid_class"].size, features.shape[2:]
    matcher = make_matcher("qaconv", head="v2.1")
    variables = reference.qaconv_variables(
        reference.seed_of(folder), "v2.1", *shape[:2], np.float32
    )
    objective = make_objective("class_memory", num_classes=classes)

    @jax.jit
    def step(feature: Any, label: Any, memory: Any, stats: Any) -> Any:
        def loss_fn(feature: Any) -> Any:
            after = {}

            def match(query: Any, gallery: Any, train: bool, mask: Any) -> Any:
                score, updates = matcher.apply(
                    {"params": variables["params"], "batch_stats": stats},
                    query.astype(dtype),
                    gallery.astype(dtype),
                    train=train,
                    mask=mask,
                    mutable=["batch_stats"],
                )
                after.update(updates["batch_stats"])
                return score

            batch = Batch(feature, feature, label, memory)
            loss, _ = objective(types.SimpleNamespace(match=match), batch)
            return loss, after

        (loss, stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(feature)
        return loss, gradient, memory.write(feature, label), stats

    memory, stats, errors = ClassMemory.create(classes, shape), variables["batch_stats"], []
    for i, (feature, label) in enumerate(zip(features, targets, strict=True)):
        loss, gradient, memory, stats = step(feature, label, memory, stats)
        at = f"{case}/step{i}/"
        if i:  # an empty memory has no gradient
            found = largest(nchw(gradient), arrays[at + "grad_feature"])
            errors.append((largest(loss, arrays[at + "loss"].mean()), found))
    loss_error, gradient_error = np.max(errors, axis=0).tolist()
    yield (
        "class memory's loss, the original's",
        {"error": loss_error, "gradient_error": gradient_error},
    )


def golden_losses(dtype: Any) -> Iterator[tuple[str, Row]]:
    """Compare cross entropy and triplets, which are computed in float32 in any case."""
    from jaxreid.ops.metrics import distances
    from jaxreid.training.losses import hardest, triplet_loss
    from jaxreid.training.objectives.softmax import smoothed_cross_entropy

    if dtype != jnp.float32:
        return
    arrays = arrays_of(reference.find() / "loss_torchreid.npz")
    run = jax.jit(jax.value_and_grad(lambda x, y: smoothed_cross_entropy(x, y, 0.1).mean()))
    loss, gradient = run(arrays["ce/logits"].astype(np.float32), arrays["ce/targets"])
    errors = {"error": largest(loss, arrays["ce/smooth1/loss"])}
    errors["gradient_error"] = largest(gradient, arrays["ce/smooth1/grad"])
    yield "cross entropy, torchreid's", errors
    label = arrays["triplet/pk/targets"]
    same = label[:, None] == label

    def mean(x: Any) -> Any:
        alike = -distances(x, x, "euclidean")
        return triplet_loss(*hardest(alike, same, np.zeros_like(same)), 0.3).mean()

    loss, gradient = jax.jit(jax.value_and_grad(mean))(arrays["triplet/pk/inputs"])
    errors = {"error": largest(loss, arrays["triplet/pk/margin0.3/loss"])}
    errors["gradient_error"] = largest(gradient, arrays["triplet/pk/margin0.3/grad"])
    yield "triplets, torchreid's", errors


def golden_backbone(net: str, dtype: str, precision: str) -> Row:
    """Compare the features of a whole converted network on images of its real size."""
    from jaxreid.models.model import make_model
    from jaxreid.weights.pytorch import convert

    folder = reference.find()
    seed = reference.seed_of(folder)
    if net.startswith("osnet"):
        names = json.loads((folder / "osnet_names.json").read_text())[net]
        described = json.loads((folder / "osnet.json").read_text())["eval_input"]
        expected, options, arch = arrays_of(folder / "osnet.npz")[f"{net}/feature"], {}, net
    else:
        held = arrays_of(folder / f"backbone_{net}.npz")
        key = "layer3_neck64"
        names = json.loads((folder / "backbone_names.json").read_text())[net][key]
        described = json.loads((folder / "backbone_checks.json").read_text())["input"]
        depth, ibn = net.split("_")
        arch = depth if ibn == "none" else f"{depth}_ibn_{ibn}"
        expected, options = nhwc(held[key]), {"cut": key[:6], "skip": ("criterion",)}
    size = described["shape"][2:]
    converted = convert(reference.checkpoint(seed, names), arch, input_size=size, **options)
    x = nhwc(reference.image(seed, described["name"], described["shape"]))[: len(expected)]
    model = make_model(**converted.card | {"dtype": dtype})

    def encode(variables: Any, x: Any) -> Any:
        parts = [
            {c: tree.get(name, {}) for c, tree in variables.items()}
            for name in ("backbone", "neck")
        ]
        maps = model.backbone.apply(parts[0], x.astype(dtype))
        return model.neck.apply(parts[1], maps)

    variables = {c: converted.variables[c] for c in ("params", "batch_stats")}
    with jax.default_matmul_precision(precision):
        got = np.asarray(jax.jit(encode)(variables, x), float)
    return {"error": float(np.linalg.norm(got - expected) / np.linalg.norm(expected))}


def golden_training(dtype: str, precision: str) -> Row:
    """Train OSNet x0.25 for six steps, and compare losses and the first gradient with torchreid's.

    Later losses hardly tell precisions apart: Adam divides the gradients of biases before a batch
    normalisation, which are rounding alone, by their own size.
    """
    from jaxreid.mesh import AXIS, make_mesh, to_devices
    from jaxreid.models.model import make_model
    from jaxreid.training.objectives import make_objective
    from jaxreid.training.optim import make_optimizer
    from jaxreid.training.schedules import make_schedule
    from jaxreid.training.state import create_state
    from jaxreid.training.step import make_train_step
    from jaxreid.weights.pytorch import convert

    folder, variant = reference.find(), "osnet_x0_25_softmax_amsgrad"
    seed, arrays = reference.seed_of(folder), arrays_of(folder / "train_osnet.npz")
    meta = json.loads((folder / "train_osnet.json").read_text())
    config, expected = meta["config"], meta[variant]
    size, classes = (config["H"], config["W"]), config["num_classes"]
    names = json.loads((folder / "osnet_names.json").read_text())["osnet_x0_25"]
    held = {}
    for name, shape in names:
        shape = [classes, *shape[1:]] if name.startswith("classifier") else shape
        draw = reference.rng(seed, f"init/{name}").standard_normal
        if len(shape) == 4:
            held[name] = np.sqrt(2 / (shape[0] * shape[2] * shape[3])) * draw(shape)
        elif len(shape) == 2:
            held[name] = 0.01 * draw(shape)
        else:
            held[name] = np.full(shape, float(name.endswith(("weight", "running_var"))))
    weights = {name: value.astype(np.float32) for name, value in held.items()}
    converted = convert(weights, "osnet_x0_25", input_size=size)
    # The images are numbers already: no division by 255.
    card = converted.card | {"mean": (0.0,) * 3, "std": (1 / 255,) * 3, "dtype": dtype}
    rule = expected["optimizer"]
    tx = make_optimizer(
        rule["optim"],
        lr=rule["lr"],
        backbone_lr=rule["lr"],
        weight_decay=rule["weight_decay"],
        betas=(rule["adam_beta1"], rule["adam_beta2"]),
    )
    mesh = make_mesh(jax.devices()[:1])
    state = create_state(
        make_model(**card), tx, num_classes=None, seed=0, mesh=mesh, weights=converted.variables
    )
    step = make_train_step(
        mesh,
        state,
        precision=precision,
        model=make_model(**card, axis_name=AXIS),
        objective=make_objective("softmax", num_classes=classes, axis_name=AXIS),
        tx=tx,
        schedule=make_schedule(epochs=1, steps_per_epoch=100),
    )
    people = reference.image(seed, "os_proto", (classes, 3, *size)).astype(float)
    losses, norms = [], []
    for i, label in enumerate(arrays["pids"]):
        clutter = reference.image(seed, f"os_noise/{i}", (config["B"], 3, *size))
        image = nhwc((people[label] + 0.7 * clutter.astype(float)).astype(np.float32))
        batch = to_devices(mesh, {"image": image, "label": label.astype(np.int32)})
        state, metrics = step(state, batch, 0)
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["grad_norm"]))
    errors = np.abs(np.array(losses) / expected["loss"] - 1)
    return {
        "error_of_first_loss": float(errors[0]),
        "error_of_first_gradient": abs(norms[0] / expected["grad_norm"][0] - 1),
        "largest_error_of_loss": float(errors.max()),
    }


def correctness(small: bool) -> Iterator[Row]:
    """Compare matches and gradients with the definition in float64, on random shapes."""
    count, worst = 2 if small else 20, {}
    for _, errors in in_parallel({i: lambda i=i: errors_of_matches(i) for i in range(count)}):
        if isinstance(errors, Exception):
            yield {"what": "matches", "failed": reason(errors)}
            continue
        worst = {name: max(worst.get(name, 0.0), error) for name, error in errors.items()}
    for name, error in worst.items():
        yield {"what": f"{name}, {count} shapes", "error": error}


def errors_of_matches(case: int) -> dict[str, float]:
    """Return the errors of a random shape by name."""
    generator, errors = np.random.default_rng(case), {}
    q, g, r, s = (int(n) for n in generator.integers(1, [20, 40, 64, 64]))
    d = int(generator.choice([8, 64, 128]))
    query, gallery = maps(q, r, d, 2 * case), maps(g, s, d, 2 * case + 1)
    expected = definition(query, gallery)
    for kind, (dtype, precision) in KINDS.items():
        with jax.default_matmul_precision(precision):
            got = jax.jit(best_matches)(jnp.asarray(query, dtype), jnp.asarray(gallery, dtype))
        pairs = zip(got, expected, strict=True)
        errors[f"matches, {kind}"] = max(largest(a, b) for a, b in pairs)
    weight = generator.standard_normal((q, g, r)).astype(np.float32)

    def weighted(query: Any, gallery: Any, weight: Any) -> Any:
        return (best_matches(query, gallery)[0] * weight).sum()

    with jax.default_matmul_precision("highest"):
        got = jax.jit(jax.grad(weighted))(query, gallery, weight)
    errors["gradient of matches, float32"] = largest(got, gradient_of(query, gallery, weight))
    return errors


def definition(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the best matches [Q, G, r] and [Q, G, s] in float64."""
    correlation = np.einsum("ird,jsd->ijrs", *(np.asarray(x, float) for x in (query, gallery)))
    return correlation.max(3), correlation.max(2)


def gradient_of(query: np.ndarray, gallery: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Compute the gradient of the weighted matches of query positions for the queries."""
    best = np.einsum("ird,jsd->ijrs", query.astype(float), gallery.astype(float)).argmax(3)
    gradient = np.zeros(query.shape)
    for i, j in np.ndindex(len(query), len(gallery)):
        gradient[i] += weight[i, j, :, None] * gallery[j][best[i, j]]
    return gradient


def kernel(small: bool) -> Iterator[Row]:
    """Compare the Pallas kernel with the definition: matches, positions and weighted sums."""
    jobs = {i: lambda i=i: errors_of_kernel(i, small) for i in range(2 if small else 20)}
    for case, row in in_parallel(jobs):
        failed = isinstance(row, Exception)
        yield {"what": f"Pallas, shape {case}", "failed": reason(row)} if failed else row


def errors_of_kernel(case: int, small: bool) -> Row:
    """Return the errors of the kernel on a random shape."""
    generator = np.random.default_rng(case)
    # The first is the real size; others need padding to the tiles of the hardware.
    q, g, r, s, d = 8, 32, 192, 192, 128
    if case or small:
        q, g = (int(n) for n in generator.integers(1, [4, 9] if small else [12, 100]))
        r, s = (int(n) for n in generator.integers(1, [20, 20] if small else [257, 257]))
        d = int(generator.choice([64] if small else [32, 64, 128]))
    query = jnp.asarray(maps(q, r, d, 2 * case), jnp.bfloat16)
    gallery = jnp.asarray(maps(g, s, d, 2 * case + 1), jnp.bfloat16)
    row: Row = {"what": f"Pallas, {q} x {g} maps of {r} and {s} x {d}"}
    expected = definition(query, gallery)
    weights = [generator.standard_normal(n).astype(np.float32) for n in (r, s)]
    try:
        *got, at_gallery, at_query = jax.jit(
            lambda q, g: best_matches(q, g, engine="pallas", positions=True)
        )(query, gallery)
        row["error"] = max(largest(a, b) for a, b in zip(got, expected, strict=True))
        # Ties may be broken either way: what counts is the correlation there.
        correlation = np.einsum("ird,jsd->ijrs", np.float64(query), np.float64(gallery))
        there = np.take_along_axis(correlation, np.asarray(at_gallery, int)[..., None], 3)
        back = np.take_along_axis(correlation, np.asarray(at_query, int)[:, :, None], 2)
        row["error_of_positions"] = max(
            largest(there[..., 0], expected[0]), largest(back[:, :, 0], expected[1])
        )
        sums = jax.jit(lambda q, g, a, b: match_scores(q, g, a, b, engine="pallas"))
        row["error_of_sums"] = largest(
            sums(query, gallery, *weights), expected[0] @ weights[0] + expected[1] @ weights[1]
        )
    except Exception as error:
        row["failed"] = reason(error)
    return row


def trajectories(small: bool) -> Iterator[Row]:
    """Compare ten training steps with those of the processor in float32: the debug recipes."""
    names = RECIPES[:1] if small else RECIPES
    processor = jax.devices("cpu")[0]
    jobs = {
        (name, kind): lambda name=name, kind=kind: losses_of(
            Training(
                name,
                kind or "float32",
                jax.devices()[0] if kind else processor,
                small=True,
            ),
            steps=10,
        )
        for name in names
        for kind in (None, *KINDS)
    }
    found: dict[tuple[str, Any], Any] = {}
    for key, result in in_parallel(jobs):
        found[key] = result
        name = key[0]
        if (name, None) not in found:
            continue
        for kind in [kind for kind in KINDS if (name, kind) in found]:
            row: Row = {"what": f"ten steps of {name}, {kind}"}
            expected, losses = found[name, None], found.pop((name, kind))
            if error := next((x for x in (expected, losses) if isinstance(x, Exception)), None):
                yield row | {"failed": reason(error)}
                continue
            errors = np.abs(np.array(losses) / expected - 1)
            yield row | {
                "error_of_first_loss": float(errors[0]),
                "largest_error_of_loss": float(errors.max()),
                "loss": losses[-1],
            }
