"""Tables of plans, for people."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxreid.planning.chips import CHIPS

ASSUMPTIONS = """\
Memory and collectives are the compiler's, per device; operations and traffic are counted in its
program, loops as often as they run. The times are not measurements but what this program takes at
the chip's peak rates: products and memory traffic overlap completely, collectives are rings without
latency and do not overlap, float32 at "highest" takes six bfloat16 products, and the input is
always ready."""
VIRTUAL = """\
No compiler of this platform is used: the program is XLA:CPU's for virtual devices. Placement and
collectives are those of the recipe; memory, operations and traffic are XLA:CPU's."""
TIMES = {
    "products": "products",
    "hbm": "HBM",
    "interconnect": "interconnect",
    "total": "together",
}
Plan = Mapping[str, Any]


def plan_table(plans: Sequence[Plan]) -> str:
    """Format plans of one recipe as a table with a column for each topology."""
    rows = [("", [plan["topology"] for plan in plans])]

    def row(label: str, value: Callable[[Plan], str | None]) -> None:
        values = []
        for plan in plans:
            try:
                values.append(value(plan) or "-")
            except KeyError:
                values.append("-")
        if any(value != "-" for value in values):
            rows.append((label, values))

    def title(text: str) -> None:
        rows.append((text, [""] * len(plans)))

    row("chips", lambda plan: f"{plan['chips']:,}")
    row("batch, all chips", lambda plan: f"{plan['batch_size']:,}")
    titles = {
        "train": "training step, per device",
        "encode": "encoding, per device",
        "score": "scoring, per device",
    }
    for name, text in titles.items():
        if not any(name in plan["programs"] for plan in plans):
            continue
        title(text)
        for part in _parts(plans, name):
            row(f"  {part}", lambda plan, n=name, p=part: _mb(plan["programs"][n]["memory"][p]))
        row("  memory", lambda plan, n=name: _mb(plan["programs"][n]["memory"]["total"]))
        row("  of HBM", lambda plan, n=name: _share(plan, n))
        row("  GFLOP", lambda plan, n=name: f"{plan['programs'][n]['flops'] / 1e9:,.1f}")
        row("  HBM traffic", lambda plan, n=name: _mb(plan["programs"][n]["hbm_bytes"]))
        for kind in _kinds(plans, name):
            row(f"  {kind}", lambda plan, n=name, k=kind: _collective(plan, n, k))
        for part, label in TIMES.items():
            row(f"  {label}, ms", lambda plan, n=name, p=part: _ms(plan["programs"][n], p))
        unit = "pairs/s" if name == "score" else "images/s"
        row(
            f"  {unit}, all chips", lambda plan, n=name: f"{plan['programs'][n]['per_second']:,.0f}"
        )
    widths = [max(map(len, column)) for column in zip(*(values for _, values in rows), strict=True)]
    left = max(len(label) for label, _ in rows)

    def line(label: str, values: Sequence[str]) -> str:
        cells = (value.rjust(width) for value, width in zip(values, widths, strict=True))
        return "  ".join([label.ljust(left), *cells]).rstrip()

    return "\n".join(line(*row) for row in rows)


def plan_text(recipe: str, plans: Sequence[Plan]) -> str:
    """Format the table, where the arguments are, and what the figures rest on."""
    lines = [f"{recipe}, {plans[0]['identities']:,} training identities", "", plan_table(plans), ""]
    for plan in plans:
        where = plan["topology"]
        lines += [f"{where}: {note}" for note in plan["notes"]]
        lines += [
            f"{where}: {name} does not fit: {program['message']}"
            for name, program in plan["programs"].items()
            if "message" in program
        ]
        if "arrays_of_the_whole_memory" in plan:
            whole = plan["arrays_of_the_whole_memory"]
            listed = f"{len(whole)}, such as {whole[0]}" if whole else "none"
            lines.append(f"{where}: arrays of the size of the whole class memory: {listed}")
    last = plans[-1]
    for name, held in last.get("arguments", {}).items():
        if held["leaves"] and last["devices"] > 1:
            lines.append(
                f"{last['topology']}: {name}: {held['leaves']} arrays, {_mb(held['bytes'])}, "
                f"{held['placement']}, {_mb(held['bytes_per_device'])} on each device"
            )
    kinds = dict.fromkeys(plan["topology"].partition(":")[0] for plan in plans)
    for kind in kinds:
        if kind not in CHIPS:
            lines += ["", VIRTUAL]
            continue
        chip = CHIPS[kind]
        lines += [
            "",
            f"A {kind} chip: {chip.tflops:g} TFLOP/s of bfloat16, {chip.hbm_gib:g} GiB at "
            f"{chip.hbm_gbs:g} GB/s, {chip.ici_gbs:g} GB/s sent over the interconnect "
            f"({chip.source})."
            + (f" {chip.devices} devices each, with equal shares." if chip.devices > 1 else ""),
            ASSUMPTIONS,
        ]
        if any(plan["effort"] == "low" for plan in plans):
            lines.append(
                "Compiled with low effort, whose programs move more memory. --effort=full takes "
                "several times as long and gives those that a training compiles."
            )
    return "\n".join(lines)


def _parts(plans: Sequence[Plan], name: str) -> list[str]:
    """List the parts of the memory, for the training step alone."""
    if name != "train":
        return []
    parts = [part for plan in plans for part in plan["programs"][name].get("memory", ())]
    return [part for part in dict.fromkeys(parts) if part not in ("total", "available")]


def _kinds(plans: Sequence[Plan], name: str) -> list[str]:
    kinds = [kind for plan in plans for kind in plan["programs"][name].get("collectives", ())]
    return sorted(dict.fromkeys(kinds))


def _collective(plan: Plan, name: str, kind: str) -> str:
    one = plan["programs"][name]["collectives"][kind]
    return f"{one['count']:,} x, {_mb(one['bytes'])}"


def _share(plan: Plan, name: str) -> str:
    program = plan["programs"][name]
    chip = CHIPS[plan["topology"].partition(":")[0]]
    share = program["memory"]["total"] / (chip.hbm_gib * 2**30 / chip.devices)
    return f"{share:.1%}" + ("" if program["fits"] else ", does not fit")


def _mb(count: int) -> str:
    """Format bytes as 10^6 bytes."""
    return f"{count / 1e6:,.1f} MB"


def _ms(program: Mapping[str, Any], part: str) -> str:
    return f"{program['seconds'][part] * 1e3:,.3f}"
