"""Training step, encoding and scoring of a recipe, compiled for a topology from shapes alone."""

import importlib.metadata
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import jaxreid
from jaxreid.evaluation.compiled import make_encode, make_score
from jaxreid.mesh import AXIS, compile_for, make_mesh, shardings
from jaxreid.models.model import feature_shape
from jaxreid.names import check_name
from jaxreid.planning.chips import Chip, Topology, devices_of
from jaxreid.planning.hlo import Program
from jaxreid.training.state import TrainState, check_memory, state_specs, variables_of
from jaxreid.training.task import Task, make_task

# Settings of `make_task`.
TASK = (
    "precision",
    "remat",
    "ema",
    "model",
    "objective",
    "epochs",
    "freeze_epochs",
    "optim",
    "schedule",
)
PROGRAMS = ("train", "encode", "score")
# Products of bfloat16 that one of float32 takes, by precision.
PASSES = {"f32 highest": 6, "f32 high": 3}
# Effort of the TPU compiler to make programs fast.
EFFORTS = {"low": -1.0, "full": 0.0}


def plan_recipe(
    config: Mapping[str, Any],
    topology: Topology,
    *,
    identities: int,
    images: int,
    batch_per_chip: int | None = None,
    effort: str = "low",
    programs: Sequence[str] = PROGRAMS,
) -> dict[str, Any]:
    """Compile a recipe for a topology and return what it costs there; all numbers are per device.

    Args:
        config: settings of a recipe (`settings.resolved`).
        topology: devices, prepared by `chips.prepare`.
        identities: training identities.
        images: training images, for the steps per epoch.
        batch_per_chip: images per device and step; None keeps `batch_size`, rounded up to a
            multiple of the devices.
        effort: "low", or "full" for the programs that a training compiles, which takes several
            times as long.
        programs: which of `PROGRAMS` to compile.

    Returns:
        "programs": memory, operations, traffic, collectives and estimated time of "train",
        "encode" and "score"; "arguments": placement of the arguments of "train"; sizes, notes and
        versions.

    Raises:
        ValueError: a setting is invalid or does not fit the number of devices.
    """
    mesh = make_mesh(devices_of(topology))
    notes: list[str] = []
    batch_size = config["batch_size"]
    if batch_per_chip:
        batch_size = batch_per_chip * mesh.size
    batch_size = _rounded(batch_size, mesh, "batch_size", notes)
    plan: dict[str, Any] = {
        "topology": str(topology),
        "chips": topology.chips,
        "devices": mesh.size,
        "batch_size": batch_size,
        "published_batch_size": config["batch_size"],
        "identities": identities,
        "effort": effort if topology.chip else "full",
        "versions": _versions(topology),
        "notes": notes,
    }
    rounded = {
        name: _rounded(config["eval"][name], mesh, f"eval.{name}", notes)
        for name in ("batch_size", "gallery_tile")
    }
    config = {**config, "batch_size": batch_size, "eval": {**config["eval"], **rounded}}
    with compile_for(topology.platform):
        settings = {name: config[name] for name in TASK}
        steps = max(1, images // batch_size)
        task = make_task(mesh, num_classes=identities, steps_per_epoch=steps, **settings)
        made = _programs(task, config)
        costs = {}
        for name in programs:
            function, arguments, count = made[check_name(name, PROGRAMS, "program")]
            compiled, costs[name] = _compile(function, arguments, topology, effort)
            if compiled is None:
                continue
            program = Program(compiled.as_text())
            costs[name] |= measure(compiled, program, _groups(name, arguments), topology, mesh.size)
            if "seconds" in costs[name]:
                costs[name]["per_second"] = count / costs[name]["seconds"]["total"]
            if name == "train":
                placed = {"arguments": _placements(compiled, _groups(name, arguments))}
                memory = task.abstract.memory
                if memory is not None and mesh.size > 1:
                    whole = program.arrays_like(memory.feature.shape)[:5]
                    placed["arrays_of_the_whole_memory"] = whole
                plan |= placed
    return plan | {"programs": costs}


def _programs(task: Task, config: Mapping[str, Any]) -> dict[str, tuple[Any, tuple[Any, ...], int]]:
    """Return by name function, abstract arguments, and the images or pairs of one call."""
    model, mesh = task.model, task.mesh
    check_memory(task.abstract, mesh)
    settings = config["eval"]
    precision = {"precision": settings["precision"]}

    def sharded(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return _placed(jax.ShapeDtypeStruct(shape, dtype), mesh, P(AXIS))

    def images(count: int) -> jax.ShapeDtypeStruct:
        return sharded((count, model.height, model.width, 3), jnp.uint8)

    state = _placed(task.abstract, mesh, state_specs(task.abstract))
    count = config["batch_size"]
    batch = {"image": images(count), "label": sharded((count,), jnp.int32)}
    seed = _placed(jax.ShapeDtypeStruct((), jnp.int32), mesh, P())
    variables = variables_of(state)
    encoded = settings["batch_size"]
    rows, columns = settings["query_tile"], settings["gallery_tile"]
    shape, dtype = feature_shape(model, variables), jnp.dtype(settings["dtype"])
    query = _placed(jax.ShapeDtypeStruct((rows, *shape), dtype), mesh, P())
    gallery = sharded((columns, *shape), dtype)
    encode = make_encode(model, mesh, flip=settings["flip"], **precision)
    score = make_score(model, mesh, **precision)
    return {
        "train": (task.make_step(), (state, batch, seed), count),
        "encode": (encode, (variables, images(encoded)), encoded),
        "score": (score, (variables, query, gallery), rows * columns),
    }


def measure(
    compiled: Any,
    program: Program,
    groups: Mapping[str, Any],
    topology: Topology,
    devices: int,
) -> dict[str, Any]:
    """Return the costs of a compiled program on one device.

    In its memory, "padding" is that of the arguments' layouts, less what the program does not use.

    Args:
        compiled: the compiled function.
        program: its parsed text.
        groups: its arguments by name, as trees of shapes with shardings.
        topology: devices.
        devices: their number.
    """
    sizes = compiled.memory_analysis()
    memory = {name: _bytes_per_device(tree) for name, tree in groups.items()}
    memory["padding"] = sizes.argument_size_in_bytes - sum(memory.values())
    memory["results"] = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    memory["temporaries"] = sizes.temp_size_in_bytes
    memory["code"] = sizes.generated_code_size_in_bytes
    memory["total"] = sum(memory.values())
    flops = program.product_flops()
    collectives = program.collectives(devices)
    xla = compiled.cost_analysis() or {}
    cost = {
        "memory": memory,
        "flops": sum(flops.values()),
        "flops_by_type": flops,
        "hbm_bytes": program.traffic(),
        "collectives": {c.kind: {"count": c.count, "bytes": c.nbytes} for c in collectives},
        "xla": {key: xla.get(key) for key in ("flops", "bytes accessed")},
    }
    if topology.chip:
        cost["fits"] = memory["total"] <= topology.chip.hbm_gib * 2**30 / topology.chip.devices
        cost["seconds"] = roofline(cost, topology.chip)
    return cost


def roofline(cost: Mapping[str, Any], chip: Chip) -> dict[str, float]:
    """Return the seconds of a program at the peak rates of the chip.

    Products and traffic of HBM overlap completely, collectives not at all, and nothing waits. A
    product of float32 at "highest" precision takes six products of bfloat16, at "high" three.
    """
    work = sum(PASSES.get(kind, 1) * count for kind, count in cost["flops_by_type"].items())
    sent = sum(one["bytes"] for one in cost["collectives"].values())
    seconds = {
        "products": work / (chip.tflops * 1e12 / chip.devices),
        "hbm": cost["hbm_bytes"] / (chip.hbm_gbs * 1e9 / chip.devices),
        "interconnect": sent / (chip.ici_gbs * 1e9 / chip.devices),
    }
    total = max(seconds["products"], seconds["hbm"]) + seconds["interconnect"]
    return seconds | {"total": total}


def _compile(
    function: Any, arguments: tuple[Any, ...], topology: Topology, effort: str
) -> tuple[Any, dict[str, Any]]:
    """Return the compiled function, or None if it does not fit, and the start of its costs."""
    options = {"exec_time_optimization_effort": EFFORTS[effort]} if topology.chip else None
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, {"fits": False} | out_of_memory(str(error))
    return compiled, {"compile_seconds": round(time.perf_counter() - start, 1)}


def out_of_memory(message: str) -> dict[str, Any]:
    """Return the figures of the compiler's message about a program that does not fit."""
    size = r"\(?([\d.]+)([KMGT]?)\)?"
    sentence = rf"[^\n]*(?:Used|temporaries) {size} (?:of|exceeds available HBM) {size}[^\n]*"
    figures = re.search(sentence, message)
    cost: dict[str, Any] = {"message": (figures[0] if figures else message).strip()[:300]}
    if figures:
        used, available = (
            int(float(number) * 1024 ** " KMGT".index(unit or " "))
            for number, unit in (figures.groups()[:2], figures.groups()[2:])
        )
        cost["memory"] = {"total": used, "available": available}
    return cost


def _groups(name: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Name the arguments of a program, in their order."""
    if name == "train":
        state: TrainState = arguments[0]
        return {
            "parameters": state.params,
            "optimizer": state.opt_state,
            "batch statistics": state.batch_stats,
            "class memory": state.memory,
            **({} if state.average is None else {"average": state.average}),
            "step and history": (state.step, state.history, arguments[2]),
            "batch": arguments[1],
        }
    variables, *rest = arguments
    groups = {"parameters": variables["params"], "batch statistics": variables["batch_stats"]}
    names = ["batch"] if name == "encode" else ["queries", "gallery"]
    return groups | dict(zip(names, rest, strict=True))


def _placements(compiled: Any, groups: Mapping[str, Any]) -> dict[str, Any]:
    """Return by group how the compiled step holds its arguments."""
    held = _groups("train", compiled.input_shardings[0])
    placements = {}
    for name, tree in groups.items():
        placed = jax.tree.leaves(held[name])
        leaves = jax.tree.leaves(tree)
        replicated = [one.is_fully_replicated for one in placed]
        placements[name] = {
            "leaves": len(leaves),
            "bytes": sum(_nbytes(leaf.shape, leaf.dtype) for leaf in leaves),
            "bytes_per_device": _bytes_per_device(tree),
            "placement": "sharded",
        }
        if any(replicated):
            part = "" if all(replicated) else "in part "
            placements[name]["placement"] = f"{part}replicated"
    return placements


def _rounded(count: int, mesh: Mesh, name: str, notes: list[str]) -> int:
    """Return the next multiple of the devices, and note it if it is another number."""
    rounded = -(-count // mesh.size) * mesh.size
    if rounded != count:
        notes.append(f"{name}={count} does not divide over {mesh.size} devices: {rounded} instead")
    return rounded


def _placed(tree: Any, mesh: Mesh, specs: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(mesh, specs),
    )


def _nbytes(shape: tuple[int, ...], dtype: Any) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def _bytes_per_device(tree: Any) -> int:
    return sum(
        _nbytes(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)
    )


def _versions(topology: Topology) -> dict[str, str]:
    names = ["jax", "jaxlib", "flax", *(["libtpu"] if topology.chip else [])]
    versions = {"jaxreid": jaxreid.__version__}
    return versions | {name: importlib.metadata.version(name) for name in names}
