"""Contenders of `benchmark.py input`: training batches from memory to a simulated device.

The device sleeps: what it would compute costs the host nothing. Everything else is
what a training does: decode, resize, augment or draw the parameters, batch, and send ahead.
"""

import io
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

# Keywords of the pipeline; {} are the defaults of `augmentation.plan`, the transform of QAConv-GS.
CONTENDERS = {
    "host": {"augment": {}},
    "device, resized on the host": {"augment": {}, "on_device": True},
    "device": {"augment": {}, "on_device": True},
    "no augmentation": {"augment": None},
}
# Files in memory; every batch takes other ones of them.
FILES = 512
# Size of the files in pixels, as in Market-1501.
SOURCE = (128, 64)
# Batches that are prepared while nobody waits, and that are not timed.
AHEAD = 6


def jpegs(count: int, height: int, width: int) -> list[bytes]:
    """Draw smooth coloured noise with grain, about 4 kB a file like photographs of this size."""
    from PIL import Image

    generator = np.random.default_rng(0)
    files = []
    for _ in range(count):
        small = generator.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        smooth = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        grain = generator.normal(0, 6, (height, width, 3))
        pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def compare(
    sizes: Sequence[tuple[int, int]], batch: int, steps: int, rate: int, repeats: int
) -> list[dict[str, Any]]:
    """Time batches of each size and contender, in turns.

    Args:
        sizes: (height, width) of the images that are trained on.
        batch: images per step.
        steps: timed steps of each run.
        rate: images per second of the simulated device.
        repeats: runs of each contender.

    Returns:
        One record per size: "images"; "ms", time of a batch by contender without a device;
        "images_per_second"; "cpu_ms", processor time of all threads per image, which a busy machine
        changes least; "waits", share of the time in which the simulated device waits for the input:
        medians of the runs; "bytes" sent per image.
    """
    from jaxreid.data.pipeline import ImageStore

    files = jpegs(FILES, *SOURCE)
    stores = {name: ImageStore(files, [str(i) for i in range(FILES)]) for name in CONTENDERS}
    # As for files of many sizes.
    stores["device, resized on the host"].size = None
    records = []
    with tqdm(total=len(sizes) * len(CONTENDERS) * (1 + repeats) * 2, unit="run") as progress:
        for height, width in sizes:
            times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
            cpu: dict[str, list[float]] = {name: [] for name in CONTENDERS}
            waits: dict[str, list[float]] = {name: [] for name in CONTENDERS}
            sent: dict[str, int] = {}
            for repeat in range(1 + repeats):
                for name, form in CONTENDERS.items():
                    progress.set_description(f"{height}x{width} {name}")
                    form = {**form, "height": height, "width": width, "epoch": repeat}
                    batches = _sent(stores[name], form, batch, steps)
                    sent[name] = sum(x.nbytes for x in _leaves(next(batches))) // batch
                    seconds, busy, _ = _run(batches, steps, 0)
                    progress.update()
                    batches = _sent(stores[name], form, batch, steps)
                    next(batches)
                    _, _, share = _run(batches, steps, batch / rate)
                    progress.update()
                    if repeat:
                        times[name].append(1e3 * seconds)
                        cpu[name].append(1e3 * busy / batch)
                        waits[name].append(share)
            summary = {}
            for name, values in times.items():
                lower, median, upper = np.percentile(values, (25, 50, 75)).tolist()
                summary[name] = {"median": median, "lower": lower, "upper": upper}
            records.append(
                {
                    "images": f"{batch}x{height}x{width}",
                    "ms": summary,
                    "images_per_second": {n: 1e3 * batch / t["median"] for n, t in summary.items()},
                    "cpu_ms": {name: float(np.median(values)) for name, values in cpu.items()},
                    "waits": {name: float(np.median(values)) for name, values in waits.items()},
                    "bytes": sent,
                }
            )
    return records


def _sent(store: Any, form: dict[str, Any], batch: int, steps: int) -> Iterator[Any]:
    import jax

    from jaxreid.data.pipeline import train_batches
    from jaxreid.mesh import make_mesh, sent_ahead

    order = np.arange((AHEAD + steps) * batch).reshape(-1, batch) % FILES
    labels = np.zeros(FILES, np.int32)
    mesh = make_mesh(jax.devices()[:1])
    return sent_ahead(mesh, train_batches(store, labels, order, seed=0, **form))


def _leaves(batch: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(batch)


def _run(batches: Iterator[Any], steps: int, step_seconds: float) -> tuple[float, float, float]:
    """Return the seconds and the processor time of a batch, and the share that the device waits."""
    # The first batches were prepared before anybody asked for them.
    for _ in range(AHEAD - 1):
        next(batches)
        time.sleep(step_seconds)
    waited, start, busy = 0.0, time.perf_counter(), time.process_time()
    for _ in range(steps):
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
        time.sleep(step_seconds)
    total, busy = time.perf_counter() - start, time.process_time() - busy
    batches.close()
    return total / steps, busy / steps, waited / total
