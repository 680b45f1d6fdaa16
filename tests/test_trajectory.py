"""Whole trainings of ten steps against the original's: losses, weights, features at the end."""

import json
import math

import jax
import numpy as np
import pytest
from golden import checkpoint, find, image, nchw, nhwc, seed_of
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxreid.mesh import AXIS, make_mesh, to_host
from jaxreid.model import make_model
from jaxreid.objectives import make_objective
from jaxreid.optim import make_optimizer, make_schedule
from jaxreid.pytorch import convert
from jaxreid.state import create_state, variables_of
from jaxreid.step import make_encode, make_train_step

pytestmark = pytest.mark.golden
OBJECTIVES = {
    "classmem": {"name": "class_memory"},
    "classmem_chunked": {"name": "class_memory"},
    "pairwise": {"name": "pairwise"},
    "triplet": {"name": "triplet", "margin": 16.0},
}
CHUNK = 5  # classes, of classmem_chunked


def batches(seed, config, pids):
    size = (3, config["H"], config["W"])
    people = image(seed, "train_proto", (config["ncls"], *size)).astype(np.float64)
    for step, labels in enumerate(pids):
        noise = image(seed, f"train_noise/{step}", (config["B"], *size)).astype(np.float64)
        x = (people[labels] + 0.9 * noise).astype(np.float32)
        yield {"image": nhwc(x).astype(np.float64), "label": labels.astype(np.int32)}


def initial(seed, config, golden, variant):
    """Variables as a checkpoint of the original would hold them."""
    names = json.loads((find() / "backbone_names.json").read_text())["resnet18_none"]
    held = checkpoint(seed, names[f"layer3_neck{config['neck']}"])
    start = f"{variant}/matcher_init/"
    held |= {
        "criterion." + key.removeprefix(start): golden[key]
        for key in golden.files
        if key.startswith(start)
    }
    converted = convert(held, "resnet18", input_size=(config["H"], config["W"]))
    assert converted.report.complete
    return converted


# Variant and devices. Chunks of five classes do not divide over devices.
RUNS = [("classmem", 2), ("classmem_chunked", 1), ("pairwise", 2), ("triplet", 4)]


@pytest.mark.parametrize(("variant", "devices"), RUNS)
def test_ten_steps_equal_the_original(golden_dir, variant, devices):
    golden = np.load(golden_dir / "train_qaconv.npz")
    told = json.loads((golden_dir / "train_qaconv.json").read_text())
    seed, config = seed_of(find()), told["config"]
    rule, expected = told["variants"][variant], told[variant]
    converted = initial(seed, config, golden, variant)
    # The images are numbers already: no division by 255.
    card = converted.card | {"std": (1 / 255,) * 3, "freeze_stats": True, "dtype": "float64"}
    chunk = CHUNK if variant == "classmem_chunked" else 0
    card["matcher"] = card["matcher"] | {"statistics_chunk": chunk}
    with jax.enable_x64(True):
        mesh = make_mesh(jax.devices()[: math.gcd(devices, config["B"])])
        tx = make_optimizer(lr=rule["lr"], backbone_lr=0.1 * rule["lr"], clip_norm=rule["clip"])
        objective = make_objective(
            **OBJECTIVES[variant], num_classes=config["ncls"], axis_name=AXIS
        )
        held = config["ncls"] if objective.uses_memory else None
        weights = jax.tree.map(lambda x: x.astype(np.float64), converted.variables)
        alone = make_model(**card)
        state = create_state(alone, tx, num_classes=held, seed=0, mesh=mesh, weights=weights)
        if state.memory is not None:
            memory = state.memory.replace(feature=state.memory.feature.astype(np.float64))
            state = state.replace(memory=memory)
        step = make_train_step(
            mesh,
            state,
            precision="highest",
            model=make_model(**card, axis_name=AXIS),
            objective=objective,
            tx=tx,
            schedule=make_schedule(epochs=1, steps_per_epoch=config["nsteps"]),
        )
        sharding = NamedSharding(mesh, P(AXIS))
        found = []
        for batch in batches(seed, config, golden["pids"]):
            state, metrics = step(state, jax.device_put(batch, sharding))
            found.append({key: float(value) for key, value in metrics.items()})

        for i, metrics in enumerate(found):
            assert metrics["loss"] == pytest.approx(expected["loss"][i], rel=1e-6, abs=1e-12), i
            if i or not held:  # with an empty memory all scores of a row are equal
                assert metrics["accuracy"] == pytest.approx(expected["acc"][i]), i
            norm = np.hypot(expected["grad_norm_model"][i], expected["grad_norm_criterion"][i])
            assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5, abs=1e-12), i

        probe = image(seed, "train_probe", (2, 3, config["H"], config["W"]))
        lone = make_mesh(jax.devices()[:1])
        variables = jax.tree.map(np.asarray, to_host(variables_of(state)))
        feature = make_encode(alone, lone)(variables, nhwc(probe).astype(np.float64))
        np.testing.assert_allclose(nchw(feature), golden[f"{variant}/probe_features"], atol=1e-6)
        params, stats = variables["params"], variables["batch_stats"]["matcher"]
        end = f"{variant}/matcher_final/"
        final = {
            "fc.weight": params["matcher"]["weight"].reshape(1, -1),
            "fc.bias": params["matcher"]["bias"],
            "bn.weight": params["matcher"]["norm_in"]["scale"],
            "logit_bn.weight": params["matcher"]["norm_out"]["scale"],
            "logit_bn.bias": params["matcher"]["norm_out"]["bias"],
            "bn.running_mean": stats["norm_in"]["mean"],
            "bn.running_var": stats["norm_in"]["var"],
            "logit_bn.running_mean": stats["norm_out"]["mean"],
            "logit_bn.running_var": stats["norm_out"]["var"],
        }
        for name, value in final.items():
            np.testing.assert_allclose(
                value, golden[end + name].reshape(value.shape), rtol=1e-5, atol=1e-9, err_msg=name
            )
        for module, name in (
            (params["neck"]["conv"], "neck_conv"),
            (params["backbone"]["conv1"], "base.conv1"),
        ):
            kernel = module["kernel"].transpose(3, 2, 0, 1)
            np.testing.assert_allclose(kernel, golden[f"{variant}/final_{name}.weight"], atol=1e-6)
        if held:
            memory = nchw(state.memory.feature[: config["ncls"]])
            np.testing.assert_allclose(memory, golden[f"{variant}/class_memory_final"], atol=1e-6)
