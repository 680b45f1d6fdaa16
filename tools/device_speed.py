"""Parts of `device_check.py` on speed: scoring, training, encoding, input, re-ranking."""

import concurrent.futures
import functools
import importlib.util
import io
import os
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from device_common import (
    KINDS,
    RECIPES,
    Row,
    Training,
    drawn,
    in_parallel,
    maps,
    reason,
    recipe,
    seconds,
)

from jaxreid.ops.correlation import match_pair, match_scores

# Seconds after which no further program is waited for in `training`.
COMPILING = 75


def product(dtype: str, small: bool) -> float:
    """Measure the rate of matrix products in TFLOP/s, the limit of scoring."""
    n = 512 if small else 8192
    x = jnp.asarray(np.random.default_rng(0).standard_normal((n, n), np.float32), dtype)
    run = jax.jit(lambda x: x @ x)
    return 2 * n**3 / seconds(lambda: run(x).block_until_ready()) / 1e12


def scoring(small: bool) -> Iterator[Row]:
    """Measure pairs per second of maps of 24x8x128, by engine and tile, beside plain products."""
    q, g, n, d = (4, 16, 192, 128) if small else (128, 4096, 192, 128)
    query, gallery = maps(q, n, d, 0), maps(g, n, d, 1)
    weight = np.full(n, 1 / n, np.float32)
    tiles = [2**20] if small else [2**power for power in range(20, 27)]
    flop = 2 * n * n * d

    def every_pair(query: Any, gallery: Any) -> Any:
        pair = jax.vmap(jax.vmap(match_pair, (None, 0)), (0, None))
        of_query, of_gallery = pair(query, gallery)
        return of_query.astype(jnp.float32) @ weight + of_gallery.astype(jnp.float32) @ weight

    contenders = {"Pallas": lambda q, g: match_scores(q, g, weight, weight, engine="pallas")}
    contenders |= {
        f"XLA, tile 2^{tile.bit_length() - 1}": functools.partial(
            match_scores, query_weight=weight, gallery_weight=weight, tile=tile, engine="xla"
        )
        for tile in tiles
    }
    # The original formulation: blocks of 64 queries by 128 images, as its code has them.
    contenders["einsum"] = lambda q, g: jax.lax.map(
        lambda block: jax.lax.map(
            lambda other: every_pair(block, other), g.reshape(-1, min(128, len(g)), n, d)
        ),
        q.reshape(-1, min(64, len(q)), n, d),
    )
    for kind in ("bfloat16", "TF32", "float32"):
        dtype, precision = KINDS[kind]
        with jax.default_matmul_precision(precision):
            limit = product(dtype, small)
        yield {"what": f"matrix product, {kind}", "tflops": limit}
        a, b = jnp.asarray(query, dtype), jnp.asarray(gallery, dtype)

        def compiled(score: Any, a: Any = a, b: Any = b, precision: str = precision) -> Any:
            with jax.default_matmul_precision(precision):
                return jax.jit(score).lower(a, b).compile()

        # The kernel takes bfloat16, and the interpreter of a CPU takes minutes.
        skipped = ("Pallas",) if small or kind != "bfloat16" else ()
        jobs = {
            name: functools.partial(compiled, score)
            for name, score in contenders.items()
            if name not in skipped
        }
        programs = dict(in_parallel(jobs))
        for name in jobs:
            row: Row = {"what": f"{name}, {kind}"}
            try:
                if isinstance(run := programs[name], Exception):
                    raise run
                rate = q * g / seconds(lambda run=run, a=a, b=b: run(a, b).block_until_ready())
                tflops = rate * flop / 1e12
                row |= {"pairs_per_second": rate, "tflops": tflops, "of_product": tflops / limit}
            except Exception as error:
                row["failed"] = reason(error)
            yield row


def training(small: bool) -> Iterator[Row]:
    """Measure training steps of the recipes at their published batch, from drawn images."""
    names, kinds = (
        (RECIPES[:1], ("bfloat16",)) if small else (RECIPES, ("bfloat16", "TF32", "float32"))
    )
    jobs = {
        f"{name}, {kind}": functools.partial(Training, name, kind, jax.devices()[0], small)
        for kind in kinds
        for name in names
    }
    start, compiled = time.monotonic(), {}
    # All are compiled before the first is timed: a compilation beside it would slow it down.
    for name, result in in_parallel(jobs):
        if isinstance(result, Exception):
            yield {"what": name, "failed": reason(result)}
        else:
            compiled[name] = result
        if time.monotonic() - start > COMPILING and not small:
            break
    for name in [name for name in jobs if name in compiled]:
        trained = compiled.pop(name)
        row: Row = {"what": name, "gigabytes": trained.gigabytes}
        row["compile_seconds"] = trained.compile_seconds
        try:
            took = seconds(trained.run)
            row |= {"images_per_second": trained.batch_size / took, "milliseconds": 1e3 * took}
        except Exception as error:
            row["failed"] = reason(error)
        yield row


def scorer_of(name: str, small: bool, card: Row, **options: Any) -> Any:
    """Return a scorer of a recipe's model, changed by `card`, with drawn weights."""
    from jaxreid.evaluation.scoring import Scorer
    from jaxreid.mesh import make_mesh
    from jaxreid.models.model import abstract_variables, make_model

    model = make_model(**recipe(name, "debug" if small else "")["model"] | card)
    variables = jax.device_put(drawn(abstract_variables(model)))
    return Scorer(model, make_mesh(), variables, **options)


def encoding(small: bool) -> Iterator[Row]:
    """Measure images per second of encoding, from host images to host features."""
    size = 8 if small else 256

    def prepared(name: str, kind: str) -> tuple[Any, np.ndarray]:
        dtype, precision = KINDS[kind]
        scorer = scorer_of(name, small, {"dtype": dtype}, batch_size=size, precision=precision)
        shape = (size, scorer.model.height, scorer.model.width, 3)
        batch = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        scorer.features([batch], size)  # compile
        return scorer, batch

    jobs = {
        f"{name}, {kind}": functools.partial(prepared, name, kind)
        for name in (RECIPES[:1] if small else RECIPES[:2])
        for kind in (("bfloat16",) if small else KINDS)
    }
    for name, result in list(in_parallel(jobs)):
        if isinstance(result, Exception):
            yield {"what": name, "failed": reason(result)}
            continue
        scorer, batch = result
        took = seconds(lambda s=scorer, b=batch: s.features([b] * 4, 4 * size))
        yield {"what": name, "images_per_second": 4 * size / took}


def augmentation(small: bool) -> Iterator[Row]:
    """Measure QAConv-GS's augmentation on the device; its images are the processor's to the bit."""
    from jaxreid.data.images import device

    count, height, width = (4, 48, 16) if small else (64, 384, 128)
    plan = {"crop": {"pad": 10}, "flip": {}, "rotation": {}, "occlusion": {}}
    factors = ("brightness", "contrast", "saturation")
    plan["jitter"] = dict.fromkeys((*factors, "hue"), {})
    generator = np.random.default_rng(0)
    integers = lambda low, high, *shape: generator.integers(low, high, (count, *shape), np.int32)  # noqa: E731
    # One degree about the first pixel, in units of 1/65536 pixel.
    turn = np.array([0, 65526, -1144, 0, 1144, 65526], np.int32)
    drawn = {
        "augmented": np.ones(count, bool),
        "crop": {"top": integers(0, 21), "left": integers(0, 21)},
        "flip": {"mirrored": integers(0, 2).astype(bool)},
        "rotation": {"turn": np.tile(turn, (count, 1))},
        "jitter": {
            "order": np.stack([generator.permutation(4) for _ in range(count)]).astype(np.int32),
            "hue": integers(-25, 26),
        }
        | {name: generator.uniform(0.5, 2.0, count).astype(np.float32) for name in factors},
        "occlusion": {"top": integers(0, 8), "left": integers(0, 8), "size": integers(0, 8)},
    }
    image = generator.integers(0, 256, (count, height // 3, width // 2, 3), np.uint8)
    run = jax.jit(functools.partial(device.augment, plan=plan, height=height, width=width))
    placed = jax.device_put((image, drawn))
    got = np.asarray(run(*placed))
    took = seconds(lambda: run(*placed).block_until_ready())
    yield {"what": f"{count} images of {height}x{width}", "images_per_second": count / took}
    expected = np.asarray(run(*jax.device_put((image, drawn), jax.devices("cpu")[0])))
    yield {
        "what": "pixels unlike the processor's",
        "share": float((got != expected).mean()),
        "changed_by_augmentation": float((got != got[:, :, ::-1]).mean()),
    }


def input_pipeline(small: bool) -> Iterator[Row]:
    """Measure images per second of the host: decoding alone, and the pipeline with TensorFlow."""
    from benchmark_input import jpegs
    from PIL import Image

    files = jpegs(16 if small else 512, 128, 64) * 4
    workers = os.cpu_count() or 1

    def decode(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        took = seconds(lambda: list(pool.map(decode, files)))
    what = f"JPEG files decoded by Pillow, {workers} threads"
    yield {"what": what, "images_per_second": len(files) / took}
    if not importlib.util.find_spec("tensorflow"):
        yield {"what": "tf.data", "failed": "not measured: TensorFlow is not installed"}
        return
    from benchmark_input import compare

    steps = 2 if small else 20
    for record in compare([(384, 128)], 4 if small else 64, steps, 3000, 1):
        for name, rate in record["images_per_second"].items():
            share = record["waits"][name]
            yield {"what": f"tf.data, {name}", "images_per_second": rate, "device_waits": share}


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
    # The slowest last.
    cases = [
        ("qaconv_gs", "bfloat16", "default", PLAIN),
        ("osnet", "float32", "highest", PLAIN),
        ("osnet", "float32", "highest", rerank),
        ("qaconv_gs", "float32", "default", PLAIN),
        ("qaconv_gs", "float32", "highest", PLAIN),
    ]
    held: dict[str, np.ndarray] = {}
    for name, dtype, precision, variant in cases:
        tiles = {"query_tile": 8, "gallery_tile": 32} if small else {"query_tile": 128}
        scorer = scorer_of(name, small, {}, dtype=dtype, precision=precision, **tiles)
        shape = feature_shape(scorer.model, scorer.variables)
        if name not in held:
            x = maps(queries + images, int(np.prod(shape[:-1])), shape[-1], 0)
            held[name] = x.reshape(-1, *shape)
        features = held[name].astype(jnp.dtype(dtype))
        scorer.scores(features[:1], features[:1])  # compile
        start = time.perf_counter()
        evaluate(scorer, features, query, gallery, [variant])
        took = time.perf_counter() - start
        yield {
            "what": f"{name}, {dtype}, {precision}, {variant.name}",
            "seconds": took,
            "pairs_per_second": queries * images / took,
        }
