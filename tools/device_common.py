"""What the parts of `device_check.py` share: rows, drawn maps, times, recipes."""

import importlib.machinery
import importlib.util
import os
import queue
import statistics
import sys
import threading
import time
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

WARM_UP, REPEATS = 2, 7
Row = dict[str, Any]
# Programs that are compiled beside each other.
THREADS = min(8, max(1, (os.cpu_count() or 1) // 2))
# The first are measured first.
RECIPES = ("qaconv_gs", "osnet", "gmn", "qaconv", "qaconv_ms")
# Name of a row, model.dtype and precision of float32 products.
KINDS = {
    "float32": ("float32", "highest"),
    "TF32": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
}


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


def reason(error: BaseException) -> str:
    """Return the first line of an error, for a row."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def recipe(name: str, option: str) -> Row:
    """Return the settings of a recipe as a dictionary, also without ml_collections."""
    from jaxreid import configs

    return configs.load(name).get_config(f"market1501,{option}".rstrip(",")).to_dict()


def drawn(abstract: Any) -> Any:
    """Draw variables on the host; the initialisation of a deep network would take a compilation."""
    generator = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name, shape = path[-1].key, leaf.shape
        if len(shape) > 1:
            fan_in = np.prod(shape[:-1])
            return (np.sqrt(2 / fan_in) * generator.standard_normal(shape)).astype(leaf.dtype)
        return np.full(shape, name not in ("bias", "mean"), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract)


class ConfigDict(dict):
    """What the recipes use of ml_collections' class."""

    def __init__(self, values: Any = ()) -> None:
        super().__init__()
        for name, value in dict(values).items():
            self[name] = ConfigDict(value) if type(value) is dict else value

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]

    __setattr__ = dict.__setitem__
    get_ref = dict.__getitem__

    def lock(self) -> "ConfigDict":
        """Return the settings."""
        return self

    def to_dict(self) -> Row:
        """Return plain dictionaries."""
        return {k: v.to_dict() if isinstance(v, ConfigDict) else v for k, v in self.items()}


class Silent:
    """A progress bar that shows nothing, in place of tqdm's."""

    def __init__(self, *args: Any, total: int = 0, **options: Any) -> None:
        self.total, self.n = total, 0

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        """Count."""
        self.n += count

    def close(self, *args: Any, **options: Any) -> None:
        """Do nothing."""

    set_description = set_postfix = close


def stand_in(name: str, **content: Any) -> None:
    """Let a module be imported with some content, if its package is not installed."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        module = types.ModuleType(name)
        # PyTorch asks for it.
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
        vars(module).update(content)
        sys.modules[name] = module


stand_in("tqdm", tqdm=Silent)
# The last first: an import of the package finds it from then on.
stand_in("ml_collections.config_dict", placeholder=lambda kind: None)
stand_in("ml_collections", ConfigDict=ConfigDict)


class Training:
    """A recipe's training on one device, with drawn images that lie on it.

    Args:
        name: recipe.
        kind: one of `KINDS`.
        device: device.
        small: the tiny network of the recipe's option `debug`, and few identities.
    """

    def __init__(self, name: str, kind: str, device: Any, small: bool) -> None:
        from jaxreid.mesh import make_mesh, to_devices
        from jaxreid.training.task import make_task

        settings = recipe(name, "debug" if small else "")
        dtype, precision = KINDS[kind]
        rules = ("model", "objective", "epochs", "freeze_epochs", "optim", "schedule")
        settings["model"] |= {"dtype": dtype}
        settings["freeze_epochs"] = 0
        mesh, self.batch_size = make_mesh([device]), settings["batch_size"]
        classes = 12 if small else 751
        task = make_task(
            mesh,
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
        self.batch = to_devices(mesh, batch)
        state = task.abstract
        weights = {"params": state.params, "batch_stats": state.batch_stats}
        self.seed = settings["seed"]
        self.state = task.make_creation()(self.seed, drawn(weights))
        start = time.perf_counter()
        self.step = task.make_step().lower(self.state, self.batch, self.seed).compile()
        self.compile_seconds = time.perf_counter() - start

    @property
    def gigabytes(self) -> float:
        """Memory of the step on the device, with its arguments and results."""
        memory = self.step.memory_analysis()
        sizes = (memory.argument_size_in_bytes, memory.output_size_in_bytes)
        return (sum(sizes) + memory.temp_size_in_bytes - memory.alias_size_in_bytes) / 1e9

    def run(self) -> Any:
        """Take a step; return its metrics."""
        self.state, metrics = self.step(self.state, self.batch, self.seed)
        return jax.block_until_ready(metrics)


def losses_of(training: Training, steps: int) -> list[float]:
    """Return the losses of the first steps of a training."""
    return [float(training.run()["loss"]) for _ in range(steps)]


def in_parallel(jobs: Mapping[Any, Callable[[], Any]]) -> Iterator[tuple[Any, Any]]:
    """Run jobs in threads of their own; yield name and result, or exception, as they end.

    Programs are compiled beside each other. The first jobs start first. Threads do not keep the
    process from ending.
    """
    waiting: queue.SimpleQueue[tuple[Hashable, Callable[[], Any]]] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[Hashable, Any]] = queue.SimpleQueue()
    for job in jobs.items():
        waiting.put(job)

    def work() -> None:
        while not waiting.empty():
            try:
                name, job = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((name, job()))
            except Exception as error:
                ended.put((name, error))

    for _ in range(min(len(jobs), THREADS)):
        threading.Thread(target=work, daemon=True).start()
    for _ in jobs:
        yield ended.get()
