"""Costs of a compiled program, from the text of its optimised HLO.

XLA's own cost analysis counts the body of a loop once. Matching runs in loops over tiles, so the
counts here multiply a body by its iterations. All numbers are those of one device.
"""

import dataclasses
import functools
import itertools
import math
import operator
import re
from collections.abc import Iterator, Mapping, Sequence

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# Instructions that move no bytes by themselves.
FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "after-all"),
    *("while", "conditional", "call", "async-update", "opt-barrier", "partition-id", "replica-id"),
)
# Custom calls of the TPU compiler that only name memory.
FREE_CALLS = ("AllocateBuffer", "ConcatBitcast")
BITS = {"pred": 8, "token": 0, "opaque": 0}

_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"^\s*(?:ENTRY\s+)?%?([\w.$-]+)\s*\(.*->.*\{\s*$")
_NAME = re.compile(r"^\s*(?:ROOT\s+)?%?([\w.$-]+)\s*=\s*")
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclasses.dataclass(frozen=True)
class Array:
    """Array type in HLO.

    Attributes:
        dtype: such as "f32".
        dims: sizes.
        on_chip: it lives in a memory of the chip (a memory space other than 0), not in HBM.
    """

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes without the padding of the layout."""
        bits = BITS.get(self.dtype) if self.dtype in BITS else int(_digits(self.dtype))
        return -(-self.size * bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: without the percent sign.
        opcode: such as "fusion".
        results: arrays of its result, flat.
        operands: names of instructions of the same computation.
        attributes: text behind the operands.
        root: it is the result of the computation.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def attribute(self, name: str) -> str:
        """Return the text of an attribute up to a comma, or ""."""
        match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^,\s]*)", self.attributes)
        return match[1] if match else ""

    def called(self, name: str) -> list[str]:
        """List the computations of an attribute such as "body" or "calls"."""
        return re.findall(r"[\w.$-]+", self.attribute(name).replace("%", ""))


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind.

    Attributes:
        kind: one of `COLLECTIVES`.
        count: executions per call of the program.
        nbytes: bytes that a device sends (`sent`).
    """

    kind: str
    count: int
    nbytes: int


class Program:
    """A compiled program; `text` is that of `compiled.as_text()`."""

    def __init__(self, text: str) -> None:
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current = None
        for line in text.splitlines():
            if current is None:
                if head := _HEAD.match(line):
                    current = self.computations.setdefault(head[1], {})
                    if line.lstrip().startswith("ENTRY"):
                        self.entry = head[1]
            elif line.strip() == "}":
                current = None
            elif instruction := _instruction(line):
                current[instruction.name] = instruction

    @functools.cached_property
    def executed(self) -> list[tuple[Computation, int]]:
        """Computations that run on their own, with the number of times; those of fusions do not."""
        times: dict[str, int] = {}

        def visit(name: str, count: int) -> None:
            times[name] = times.get(name, 0) + count
            for one in self.computations.get(name, {}).values():
                if one.opcode == "while":
                    (body,), (condition,) = one.called("body"), one.called("condition")
                    visit(body, count * self._iterations(one, condition))
                elif one.opcode in ("call", "conditional", "async-start"):
                    branches = ("to_apply", "calls", "branch_computations")
                    branches += ("true_computation", "false_computation")
                    for branch in (called for key in branches for called in one.called(key)):
                        visit(branch, count)

        visit(self.entry, 1)
        return [(self.computations.get(name, {}), count) for name, count in times.items()]

    def _iterations(self, loop: Instruction, condition: str) -> int:
        """Return the iterations of a loop, which counts from 0 by 1 up to a constant."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        limits = [
            int(number[1])
            for one in self.computations.get(condition, {}).values()
            if one.opcode == "constant" and (number := re.match(r"\((\d+)\)", one.attributes))
        ]
        return max([1, *limits])

    def collectives(self, devices: int) -> list[Collective]:
        """Sum up the collectives by kind; the two halves of an asynchronous one count once."""
        counts: dict[str, list[int]] = {}
        for one, computation, times in self._with_fusions():
            kind = one.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                held = counts.setdefault(kind, [0, 0])
                held[0] += times
                held[1] += times * sent(one, self._operands(one, computation), devices)
        return [Collective(kind, *counts[kind]) for kind in COLLECTIVES if kind in counts]

    def product_flops(self) -> dict[str, int]:
        """Sum up the operations of products and convolutions, by type of their factors.

        A key is a type such as "bf16", with the precision behind it unless that is the default
        ("f32 highest").
        """
        flops: dict[str, int] = {}
        for one, computation, times in self._with_fusions():
            if one.opcode in ("convolution", "dot"):
                left, right = self._operands(one, computation)[:2]
                count = _dot(one, left) if one.opcode == "dot" else _conv(one, left, right)
                precisions = re.findall(r"highest|high", one.attribute("operand_precision"))
                key = " ".join([left.dtype, *precisions[:1]])
                flops[key] = flops.get(key, 0) + times * count
        return flops

    def _with_fusions(self) -> Iterator[tuple[Instruction, Computation, int]]:
        """Yield every instruction that runs, its computation, and how often it runs."""
        waiting = list(self.executed)
        while waiting:
            computation, times = waiting.pop()
            for one in computation.values():
                yield one, computation, times
                if one.opcode == "fusion":
                    inside = (self.computations.get(name, {}) for name in one.called("calls"))
                    waiting += [(fused, times) for fused in inside]

    def traffic(self) -> int:
        """Return the bytes of HBM that are read and written, without padding.

        Operands and results of every instruction count, except in the chip's own memory. A fusion
        that only takes a slice of an operand reads that slice.
        """
        total = 0
        for computation, times in self.executed:
            for one in computation.values():
                total += times * self._bytes(one, computation)
        return total

    def _bytes(self, one: Instruction, computation: Computation) -> int:
        if one.opcode in FREE or any(f'"{name}"' in one.attributes for name in FREE_CALLS):
            return 0
        operands = self._operands(one, computation)
        if one.opcode.endswith("-done"):
            return 0
        if one.opcode in ("copy-start", "slice-start"):
            # Source and target, in either order, and a context; a slice reads what it writes.
            ends = one.results[:2]
            return min(array.nbytes for array in ends) * sum(not array.on_chip for array in ends)
        if one.opcode.endswith("-start"):
            # The results hold the operands as well.
            return _in_hbm(one.results)
        if one.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * _in_hbm(one.results)
        if one.opcode == "dynamic-update-slice":
            return 2 * _in_hbm(operands[1:2])
        if one.opcode != "fusion":
            return _in_hbm(operands) + _in_hbm(one.results)
        inside = self.computations.get((one.called("calls") or [""])[0], {})
        results = _in_hbm(one.results)
        root = next((i for i in inside.values() if i.root), None)
        if root is not None and root.opcode == "dynamic-update-slice":
            # Written in place.
            results = min(results, 2 * sum(a.nbytes for a in self._operands(root, inside)[1:2]))
        return results + sum(self._read(n, a, inside, root) for n, a in enumerate(operands))

    def _read(
        self, number: int, array: Array, inside: Computation, root: Instruction | None
    ) -> int:
        """Return the bytes that a fusion reads of an operand."""
        if array.on_chip:
            return 0
        names = [
            i.name
            for i in inside.values()
            if i.opcode == "parameter" and i.attributes.startswith(f"({number})")
        ]
        if not names:
            return array.nbytes
        users = [i for i in inside.values() if names[0] in i.operands]
        if users and all(user.opcode in ("dynamic-slice", "slice", "gather") for user in users):
            return min(array.nbytes, sum(a.nbytes for user in users for a in user.results))
        if users == [root] and root is not None and root.opcode == "dynamic-update-slice":
            return 0 if root.operands[0] == names[0] else array.nbytes
        return array.nbytes

    def arrays_like(self, shape: Sequence[int]) -> list[str]:
        """List the instructions, also inside fusions, that make an array of this shape.

        Its first axis may be split, and the others may be joined or split in any way.
        """

        def alike(array: Array) -> bool:
            leading = itertools.accumulate(array.dims, operator.mul)
            return array.size == math.prod(shape) and shape[0] in leading

        return [
            one.name
            for computation in self.computations.values()
            for one in computation.values()
            if any(alike(array) for array in one.results)
        ]

    def _operands(self, one: Instruction, computation: Computation) -> list[Array]:
        made = (computation[name] for name in one.operands if name in computation)
        return [array for instruction in made for array in instruction.results]


def sent(one: Instruction, operands: list[Array], devices: int) -> int:
    """Return the bytes that each device sends, in a ring over its group of n devices.

    An all-gather sends (n - 1) / n of its result, a reduce-scatter and an all-to-all (n - 1) / n of
    the operand, an all-reduce twice that, a permutation or broadcast all of it.
    """
    kind = one.opcode.removesuffix("-start")
    n = group_size(one, devices)
    whole = sum(array.nbytes for array in operands)
    if kind == "all-gather":
        return whole * (n - 1)
    if kind.startswith("collective-"):
        return whole
    return (2 if kind == "all-reduce" else 1) * whole * (n - 1) // n


def group_size(one: Instruction, devices: int) -> int:
    """Return the devices that take part in a collective."""
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]", one.attributes):
        return int(iota[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", one.attributes):
        return len(listed[1].split(","))
    return devices


def _instruction(line: str) -> Instruction | None:
    """Parse a line such as `%sum.1 = f32[8]{0} add(%a, %b), metadata={...}`."""
    line = _COMMENT.sub("", line)
    if not (start := _NAME.match(line)):
        return None
    rest = line[start.end() :]
    # The type is a tuple in parentheses, or ends at the first space.
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opcode, paren, _ = rest.partition("(")
    if not paren:
        return None
    close = _closing(rest, len(opcode))
    operands, attributes = rest[len(opcode) + 1 : close], rest[close + 1 :]
    if opcode in ("constant", "parameter"):
        operands, attributes = "", rest[len(opcode) :]
    names = tuple(re.findall(r"%([\w.$-]+)", operands))
    if operands and not names:
        names = tuple(part.strip().split(" ")[-1] for part in operands.split(","))
    root = line.lstrip().startswith("ROOT")
    return Instruction(start[1], opcode, tuple(_arrays(kind)), names, attributes, root)


def _closing(text: str, start: int) -> int:
    """Return the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return start + match.start()
    return len(text)


def _arrays(kind: str) -> Iterator[Array]:
    for dtype, dims, layout in _ARRAY.findall(kind):
        sizes = tuple(int(n.strip("<=")) for n in dims.split(",") if n)
        space = re.search(r"S\((\d+)\)", layout)
        yield Array(dtype, sizes, bool(space and space[1] != "0"))


def _digits(dtype: str) -> str:
    match = re.search(r"\d+", dtype)
    return match[0] if match else "0"


def _in_hbm(arrays: list[Array] | tuple[Array, ...]) -> int:
    return sum(array.nbytes for array in arrays if not array.on_chip)


def _dot(one: Instruction, left: Array) -> int:
    axes = re.findall(r"\d+", one.attribute("lhs_contracting_dims"))
    return 2 * one.results[0].size * math.prod(left.dims[int(axis)] for axis in axes)


def _conv(one: Instruction, left: Array, right: Array) -> int:
    """Count the operations of a convolution, without those on padding and on dilation's zeros."""
    sides = one.attribute("dim_labels").replace("->", "_").split("_")
    left_labels, right_labels, out_labels = sides
    out = dict(zip(out_labels, one.results[0].dims, strict=True))
    kernel = dict(zip(right_labels, right.dims, strict=True))
    image = dict(zip(left_labels, left.dims, strict=True))
    window = dict(re.findall(r"(\w+)=([^\s{}]+)", one.attribute("window").strip("{}")))
    count = 2 * out["b"] * out["f"] * kernel["i"]
    # Each result of a group of the batch sums over its part of the batch, which stands in `b`.
    count //= int(one.attribute("batch_group_count") or 1)
    spatial = [label for label in out_labels if label.isdigit()]
    for number, label in enumerate(spatial):

        def of(key: str, default: str, number: int = number) -> str:
            return window[key].split("x")[number] if key in window else default

        low = int(of("pad", "0_0").split("_")[0])
        stride, base = int(of("stride", "1")), int(of("lhs_dilate", "1"))
        step, size = int(of("rhs_dilate", "1")), kernel[label]
        reach = (image[label] - 1) * base
        count *= sum(
            1
            for o in range(out[label])
            for k in range(size)
            if 0 <= (at := o * stride + k * step - low) <= reach and at % base == 0
        )
    return count
