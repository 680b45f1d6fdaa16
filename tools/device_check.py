"""Check this package on the device at hand: numbers first, then the speed of everything.

    python tools/device_check.py OUT
    JAX_PLATFORMS=cpu python tools/device_check.py OUT --small

Needs JAX, Flax, Optax, Orbax, NumPy, Pillow and, for the baseline, PyTorch; no data. Parts are
independent: one that fails is reported and the others go on. Results are lines of
OUT/device_check.jsonl, and a table at the end.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

# JAX and PyTorch share the memory of the device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxreid.ops.correlation import best_matches, match_pair, match_scores  # noqa: E402

WARM_UP, REPEATS = 2, 7
# Time after which no further training is begun.
TRAINING_SECONDS = 150
Row = dict[str, Any]


def maps(count: int, positions: int, channels: int, seed: int) -> np.ndarray:
    """Draw maps [count, positions, channels] float32 with unit norm along the channels."""
    x = np.random.default_rng(seed).standard_normal((count, positions, channels), np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def seconds(function: Callable[[], Any]) -> float:
    """Return the median seconds of a call that waits for its result."""
    times = []
    for _ in range(WARM_UP + REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def correctness(small: bool) -> Iterator[Row]:
    """Compare matches and gradients with the definition in float64, on random shapes."""
    generator = np.random.default_rng(0)
    for case in range(3 if small else 20):
        q, g, r, s = (int(n) for n in generator.integers(1, [20, 40, 64, 64]))
        d = int(generator.choice([8, 64, 128]))
        query, gallery = maps(q, r, d, 2 * case), maps(g, s, d, 2 * case + 1)
        correlation = np.einsum("ird,jsd->ijrs", *(x.astype(float) for x in (query, gallery)))
        expected = correlation.max(3), correlation.max(2)
        for precision in ("highest", "default"):
            with jax.default_matmul_precision(precision):
                got = jax.jit(best_matches)(query, gallery)
            error = max(np.abs(a - b).max() for a, b in zip(got, expected, strict=True))
            yield {"what": f"matches, float32 {precision}", "error": float(error)}
        weight = generator.standard_normal((q, g, r)).astype(np.float32)
        gradient = np.zeros(query.shape)
        best = correlation.argmax(3)
        for i, j in np.ndindex(q, g):
            gradient[i] += weight[i, j, :, None] * gallery[j][best[i, j]]

        def weighted(query: Any, gallery: Any, weight: Any) -> Any:
            return (best_matches(query, gallery)[0] * weight).sum()

        with jax.default_matmul_precision("highest"):
            got = jax.jit(jax.grad(weighted))(query, gallery, weight)
        error = np.abs(got - gradient).max() / np.abs(gradient).max()
        yield {"what": "gradient, float32 highest", "error": float(error)}


def kernel(small: bool) -> Iterator[Row]:
    """Compare the Pallas kernel with XLA's tiles, on shapes that it takes."""
    for case, (q, g) in enumerate([(16, 64)] if small else [(8, 8), (16, 64), (64, 256), (5, 77)]):
        query, gallery = (
            jnp.asarray(maps(count, 192, 128, 2 * case + side), jnp.bfloat16)
            for side, count in enumerate((q, g))
        )
        got, expected = (
            jax.jit(lambda q, g, engine=engine: best_matches(q, g, engine=engine))(query, gallery)
            for engine in ("pallas", "xla")
        )
        pairs = zip(got, expected, strict=True)
        error = max(np.abs(np.asarray(a, float) - np.asarray(b, float)).max() for a, b in pairs)
        yield {"what": f"Pallas {q} x {g}, bfloat16", "error": float(error)}


def product(small: bool) -> Iterator[Row]:
    """Measure the rate of matrix products, the limit of scoring."""
    n = 512 if small else 8192
    for dtype in ("bfloat16", "float32"):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((n, n), np.float32), dtype)
        run = jax.jit(lambda x: x @ x)
        took = seconds(lambda run=run, x=x: run(x).block_until_ready())
        yield {"what": f"product {n}, {dtype}", "tflops": 2 * n**3 / took / 1e12}


def scoring(small: bool) -> Iterator[Row]:
    """Measure pairs per second of maps of 24x8x128, by engine and tile."""
    q, g, n, d = (8, 32, 192, 128) if small else (128, 4096, 192, 128)
    query, gallery = maps(q, n, d, 0), maps(g, n, d, 1)
    weight = np.full(n, 1 / n, np.float32)
    tiles = [2**20, 2**22] if small else [2**power for power in range(20, 27)]
    tflop = 2 * n * n * d / 1e12

    def row(name: str, dtype: str, took: float) -> Row:
        rate = q * g / took
        return {"what": f"{name}, {dtype}", "pairs_per_second": rate, "tflops": rate * tflop}

    def every_pair(query: Any, gallery: Any) -> Any:
        pair = jax.vmap(jax.vmap(match_pair, (None, 0)), (0, None))
        of_query, of_gallery = pair(query, gallery)
        return of_query.astype(jnp.float32) @ weight + of_gallery.astype(jnp.float32) @ weight

    for dtype in ("float32", "bfloat16"):
        a, b = jnp.asarray(query, dtype), jnp.asarray(gallery, dtype)
        contenders = {
            f"XLA, tile 2^{tile.bit_length() - 1}": lambda q, g, tile=tile: match_scores(
                q, g, weight, weight, tile=tile, engine="xla"
            )
            for tile in tiles
        }
        if dtype == "bfloat16":
            contenders["Pallas"] = lambda q, g: match_scores(q, g, weight, weight, engine="pallas")
        contenders["all pairs at once"] = every_pair
        for name, score in contenders.items():
            if small and name == "Pallas":
                continue
            try:
                run = jax.jit(score)
                took = seconds(lambda run=run, a=a, b=b: run(a, b).block_until_ready())
                yield row(name, dtype, took)
            except Exception as error:
                yield {"what": f"{name}, {dtype}", "failed": str(error).splitlines()[0][:200]}
    if importlib.util.find_spec("torch"):
        yield from torch_scoring(query, gallery, weight, row)


def torch_scoring(query: np.ndarray, gallery: np.ndarray, weight: Any, row: Any) -> Iterator[Row]:
    """Measure the original formulation in PyTorch, 64 queries by 128 images at a time."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in ("float32", "float16", "bfloat16"):
        dtype = getattr(torch, name)
        a, b = (torch.from_numpy(x).to(device, dtype) for x in (query, gallery))
        w = torch.from_numpy(weight).to(device, dtype)

        @torch.no_grad()
        def run(a: Any = a, b: Any = b, w: Any = w) -> None:
            for block in a.split(64):
                for other in b.split(128):
                    correlation = torch.einsum("ird,jsd->ijrs", block, other)
                    _ = correlation.amax(3) @ w + correlation.amax(2) @ w
            if device == "cuda":
                torch.cuda.synchronize()

        yield row("PyTorch, original", name, seconds(run))


RECIPES = ("qaconv_gs", "osnet", "gmn", "qaconv", "qaconv_ms")  # the first are measured first
# Name of a row, model.dtype and precision of training.
KINDS = {
    "float32": ("float32", "highest"),
    "TF32": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
}


def recipe(name: str, option: str) -> Row:
    """Return the settings of a recipe as a dictionary, also without ml_collections."""
    if importlib.util.find_spec("ml_collections") is None:
        sys.modules.setdefault("ml_collections", stand_in())
        sys.modules.setdefault("ml_collections.config_dict", sys.modules["ml_collections"])
    from jaxreid import configs

    return configs.load(name).get_config(f"market1501,{option}".rstrip(",")).to_dict()


def stand_in() -> types.ModuleType:
    """Return what the recipes use of ml_collections."""

    class ConfigDict(dict):
        def __init__(self, values: Any = ()) -> None:
            super().__init__()
            for name, value in dict(values).items():
                self[name] = ConfigDict(value) if type(value) is dict else value

        def __getattr__(self, name: str) -> Any:
            if name not in self:
                raise AttributeError(name)
            return self[name]

        __setattr__ = dict.__setitem__

        def lock(self) -> "ConfigDict":
            return self

        def to_dict(self) -> Row:
            return {k: v.to_dict() if isinstance(v, ConfigDict) else v for k, v in self.items()}

    module = types.ModuleType("ml_collections")
    module.ConfigDict, module.placeholder = ConfigDict, lambda kind: None  # type: ignore[attr-defined]
    module.config_dict = module  # type: ignore[attr-defined]
    return module


class Training:
    """A recipe's training on one device, with drawn images that lie on it."""

    def __init__(self, name: str, kind: str, device: Any, small: bool) -> None:
        from jaxreid.mesh import make_mesh, to_devices
        from jaxreid.training.task import make_task

        settings = recipe(name, "debug" if small else "")
        dtype, precision = KINDS[kind]
        rules = ("model", "objective", "epochs", "freeze_epochs", "optim", "schedule", "seed")
        settings["model"] |= {"dtype": dtype}
        settings["freeze_epochs"] = 0
        self.mesh, self.batch_size = make_mesh([device]), settings["batch_size"]
        classes = 12 if small else 751
        self.task = make_task(
            self.mesh,
            num_classes=classes,
            steps_per_epoch=100,
            precision=precision,
            **{rule: settings[rule] for rule in rules},
        )
        generator = np.random.default_rng(0)
        size = (self.batch_size, settings["model"]["height"], settings["model"]["width"], 3)
        people = generator.permutation(classes)[: max(2, self.batch_size // 4)]
        batch = {
            "image": generator.integers(0, 256, size).astype(np.uint8),
            "label": np.resize(np.repeat(people, 4), self.batch_size).astype(np.int32),
        }
        self.batch = to_devices(self.mesh, batch)
        self.state = self.task.create_state()
        self.step = self.task.make_step()

    def compile(self) -> int:
        """Compile the step; return the bytes that it takes on the device."""
        self.step = self.step.lower(self.state, self.batch).compile()
        memory = self.step.memory_analysis()
        sizes = (memory.argument_size_in_bytes, memory.output_size_in_bytes)
        return sum(sizes) + memory.temp_size_in_bytes - memory.alias_size_in_bytes

    def run(self) -> Any:
        """Take a step; return its metrics."""
        self.state, metrics = self.step(self.state, self.batch)
        return jax.block_until_ready(metrics)


def trajectories(small: bool) -> Iterator[Row]:
    """Compare ten training steps with those of the processor in float32: the small recipes."""
    for name in RECIPES[:2] if small else RECIPES:
        host, expected = Training(name, "float32", jax.devices("cpu")[0], True), []
        for _ in range(10):
            expected.append(float(host.run()["loss"]))
        for kind in KINDS:
            training = Training(name, kind, jax.devices()[0], True)
            losses = [float(training.run()["loss"]) for _ in range(10)]
            errors = np.abs(np.array(losses) / expected - 1)
            yield {
                "what": f"{name}, {kind}",
                "error_of_first_loss": float(errors[0]),
                "error_of_tenth_loss": float(errors[-1]),
                "loss": losses[-1],
            }


def training(small: bool) -> Iterator[Row]:
    """Measure training steps of the recipes at their published batch, from drawn images."""
    start = time.perf_counter()
    for kind in ("bfloat16", "TF32", "float32"):
        for name in RECIPES:
            if time.perf_counter() - start > TRAINING_SECONDS:
                return
            row = {"what": f"{name}, {kind}"}
            try:
                trained = Training(name, kind, jax.devices()[0], small)
                compiling = time.perf_counter()
                row["gigabytes"] = trained.compile() / 1e9
                row["compile_seconds"] = time.perf_counter() - compiling
                took = seconds(trained.run)
                row |= {"images_per_second": trained.batch_size / took, "milliseconds": 1e3 * took}
            except Exception as error:
                row["failed"] = str(error).splitlines()[0][:200]
            yield row
    if importlib.util.find_spec("torch"):
        yield from torch_training(small)


def torch_training(small: bool) -> Iterator[Row]:
    """Measure two of the recipes' networks with plain losses, in PyTorch."""
    sys.path.insert(0, str(ROOT / "tools"))
    import torch
    import torch_networks

    device = "cuda" if torch.cuda.is_available() else "cpu"
    count, size = (4, (64, 32)) if small else (64, (384, 128))
    label = torch.arange(count, device=device) // 4
    same = (label[:, None] == label).float()

    def pairwise(maps: Any) -> Any:
        x = torch.nn.functional.normalize(maps.flatten(2), dim=1)
        correlation = torch.einsum("idr,jds->ijrs", x, x)
        score = correlation.amax(3).mean(2) + correlation.amax(2).mean(2)
        return torch.nn.functional.binary_cross_entropy_with_logits(score.float(), same)

    def classes(embedding: Any) -> Any:
        return torch.nn.functional.cross_entropy((embedding @ head).float(), label)

    head = torch.randn(512, 751, device=device, requires_grad=True)
    networks = {
        "PyTorch, QAConv-GS's network and pairs": (
            torch_networks.make("resnet50", cut="layer3"),
            pairwise,
            size,
        ),
        "PyTorch, OSNet x1.0": (
            torch_networks.make("osnet_x1_0"),
            classes,
            size if small else (256, 128),
        ),
    }
    for name, (network, loss_of, shape) in networks.items():
        network = network.to(device).to(memory_format=torch.channels_last).train()
        image = torch.rand((count, 3, *shape), device=device)
        image = image.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, nesterov=True)

        def loss_fn(image: Any, network: Any = network, loss_of: Any = loss_of) -> Any:
            with torch.autocast(device, torch.bfloat16):
                return loss_of(network(image))

        for how in ("eager",) if small else ("eager", "compiled"):
            row = {"what": f"{name}, bfloat16, {how}"}
            try:
                forward = torch.compile(loss_fn) if how == "compiled" else loss_fn

                def run(forward: Any = forward, image: Any = image, step: Any = optimizer) -> None:
                    step.zero_grad()
                    forward(image).backward()
                    step.step()
                    if device == "cuda":
                        torch.cuda.synchronize()

                took = seconds(run)
                row |= {"images_per_second": count / took, "milliseconds": 1e3 * took}
            except Exception as error:
                row["failed"] = str(error).splitlines()[0][:200]
            yield row


def scorer_of(name: str, small: bool, **options: Any) -> Any:
    """Return a scorer of a recipe's model with random weights, on all devices."""
    from jaxreid.evaluation.scoring import Scorer
    from jaxreid.mesh import make_mesh
    from jaxreid.models.model import init_variables, make_model

    model = make_model(**recipe(name, "debug" if small else "")["model"])
    variables = jax.jit(lambda: init_variables(model, 0))()
    return Scorer(model, make_mesh(), jax.device_put(variables), **options)


def encoding(small: bool) -> Iterator[Row]:
    """Measure images per second of encoding, from host images to host features."""
    size = 16 if small else 256
    for name in RECIPES[:2]:
        for precision in ("highest", "default"):
            scorer = scorer_of(name, small, batch_size=size, precision=precision)
            model = scorer.model
            count = 4 * size
            shape = (size, model.height, model.width, 3)
            batch = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
            run = lambda s=scorer, b=batch, n=count: s.features([b] * 4, n)  # noqa: E731
            took = seconds(run)
            yield {"what": f"{name}, {precision}", "images_per_second": count / took}


def market(small: bool) -> Iterator[Row]:
    """Measure all pairs of Market-1501's size from host features to ranks and mAP."""
    from jaxreid.data.split import Split
    from jaxreid.evaluation.retrieval import evaluate
    from jaxreid.evaluation.variants import PLAIN, Variant
    from jaxreid.models.model import feature_shape

    queries, images = (20, 60) if small else (3368, 15913)
    generator = np.random.default_rng(0)

    def split(count: int, camera: int) -> Split:
        pid = generator.integers(0, max(2, count // 20), count).astype(np.int32)
        names = [f"{camera}_{i}" for i in range(count)]
        cameras = np.full(count, camera, np.int32)
        return Split([b""] * count, names, pid, cameras, np.full(count, np.nan))

    query, gallery = split(queries, 0), split(images, 1)
    rerank = Variant(rerank={"k1": 20, "k2": 6, "weight": 0.3})
    cases = [
        ("qaconv_gs", dtype, precision, PLAIN)
        for dtype, precision in (
            ("bfloat16", "default"),
            ("float32", "default"),
            ("float32", "highest"),
        )
    ]
    cases += [("osnet", "float32", "highest", PLAIN), ("osnet", "float32", "highest", rerank)]
    for name, dtype, precision, variant in cases:
        tiles = {"query_tile": 8, "gallery_tile": 32} if small else {"query_tile": 128}
        scorer = scorer_of(name, small, dtype=dtype, precision=precision, **tiles)
        shape = feature_shape(scorer.model, scorer.variables)
        features = maps(queries + images, int(np.prod(shape[:-1])), shape[-1], 0)
        features = features.reshape(-1, *shape).astype(jnp.dtype(dtype))
        scorer.scores(features[:1], features[:1])  # compile
        start = time.perf_counter()
        evaluate(scorer, features, query, gallery, [variant])
        took = time.perf_counter() - start
        yield {
            "what": f"{name}, {dtype}, {precision}, {variant.name}",
            "seconds": took,
            "pairs_per_second": queries * images / took,
        }


PARTS = {
    part.__name__: part
    for part in (
        *(correctness, kernel, trajectories, product, scoring, market),
        *(encoding, training),
    )
}


def host() -> Row:
    """Describe device and versions."""
    versions = {}
    for package in ("jax", "jaxlib", "torch"):
        if importlib.util.find_spec(package):
            versions[package] = importlib.metadata.version(package)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"device": jax.devices()[0].device_kind, "date": date, "packages": versions}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; return 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=pathlib.Path, help="folder of the results")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    rows, failed = [{"part": "host"} | host()], False
    with (args.out / "device_check.jsonl").open("w") as file:
        print(json.dumps(rows[0]), file=file, flush=True)
        for name in args.parts:
            start = time.perf_counter()
            try:
                for row in PARTS[name](args.small):
                    rows.append({"part": name} | row)
                    print(json.dumps(rows[-1]), file=file, flush=True)
            except Exception:
                failed = True
                traceback.print_exc()
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(json.dumps(rows[0]))
    for row in rows[1:]:
        values = [f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float)]
        print(f"{row['part']:12} {row['what']:36} {'  '.join(values)}{row.get('failed', '')}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
