"""Generate documentation: docs/settings.md, and tables of other documents.

    python tools/make_docs.py
    python tools/make_docs.py settings

A document holds generated text between <!-- SOURCE --> and <!-- end -->. SOURCE is `settings`,
`mutations` (of `check_mutations.py`), or a file in benchmarks/: of `benchmark.py --json`;
plan.jsonl, of `jaxreid plan --json`; factors.json and scaling.json, of `study_factors.py` and
`study_scaling.py`; comparison_NAME.json, of `jaxreid compare RUNS --out=FILE` without its lists of
queries. Settings are described by
their comments in configs/, options of components by the docstrings of their classes. `mkdocs build`
also uses this file (mkdocs.yml).
"""

import argparse
import dataclasses
import importlib
import inspect
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- (settings|mutations|\S+\.jsonl?) -->\n).*?(<!-- end -->)", re.DOTALL)
DATA = ("synthetic", "market1501")
COLUMNS = ("`NAME`", "`NAME:market1501`")
# Values by recipe and path.
Configs = Mapping[str, Mapping[str, Any]]

# Settings whose value is a name, and the address of the valid names.
NAMES = {
    "model.interpolation": "jaxreid.data.images.pillow:INTERPOLATIONS",
    "model.dtype": "jaxreid.models.backbones:DTYPES",
    "sampler.name": "jaxreid.data.sampling.samplers:NAMES",
    "optim.name": "jaxreid.training.optim:OPTIMIZERS",
    "schedule.name": "jaxreid.training.schedules:SCHEDULES",
    "eval.dtype": "jaxreid.evaluation.scoring:DTYPES",
    "eval.average_precision": "jaxreid.evaluation.ranking.metrics:PRECISIONS",
}
# Settings that select a component: title, module, registry and factory.
PARTS = {
    "model.backbone": ("Backbones", "jaxreid.models.backbones", "BACKBONES", "make_backbone"),
    "model.neck": ("Necks", "jaxreid.models.necks", "NECKS", "make_neck"),
    "model.matcher": ("Matchers", "jaxreid.models.matchers", "MATCHERS", "make_matcher"),
    "objective": ("Objectives", "jaxreid.training.objectives", "OBJECTIVES", "make_objective"),
}


def generate(document: str) -> str:
    """Regenerate the generated blocks of a document."""

    def renew(block: re.Match[str]) -> str:
        opening, source, closing = block.groups()
        makers = {
            "settings": lambda _: settings(),
            "mutations": lambda _: mutations(),
            "benchmarks/plan.jsonl": plans,
            "benchmarks/factors.json": factors,
            "benchmarks/scaling.json": scaling,
        }
        if source.startswith("benchmarks/comparison_"):
            makers[source] = comparison
        content = makers.get(source, benchmarks)(ROOT / source)
        return f"{opening}{content}\n{closing}"

    return BLOCK.sub(renew, document)


def benchmarks(path: pathlib.Path) -> str:
    """Generate the tables of `benchmark.py table`."""
    import benchmark_tables

    return benchmark_tables.markdown(path)


def factors(path: pathlib.Path) -> str:
    """Generate the tables of `study_factors.py`."""
    import study_report

    return study_report.markdown(json.loads(path.read_text()))


def scaling(path: pathlib.Path) -> str:
    """Generate the table of `study_scaling.py`."""
    import study_scaling

    return study_scaling.markdown(json.loads(path.read_text()))


def mutations() -> str:
    """Generate the table of `check_mutations.py`."""
    from check_mutations import MUTATIONS

    rows = []
    for one in MUTATIONS:
        file, test = one.file.removeprefix("jaxreid/"), one.test.removeprefix("tests/")
        rows.append((one.fault, f"`{file}`", f"`{test}`"))
    return _table(("fault", "file", "test that fails"), rows)


def comparison(path: pathlib.Path) -> str:
    """Generate the table and the sentences of `jaxreid compare --out=FILE.md`."""
    from jaxreid.evaluation import comparison_table

    return comparison_table.written(".md", json.loads(path.read_text())).rstrip()


def plans(path: pathlib.Path) -> str:
    """Generate the table of a file with one result of `jaxreid plan --json` a line."""
    header = (
        *("recipe", "chips", "batch", "state", "temporaries", "of HBM", "GFLOP", "HBM traffic"),
        *("collectives (MB)", "step at peak rates", "images/s", "bound by"),
    )
    rows = []
    for record in map(json.loads, path.read_text().splitlines()):
        for plan in record["plans"]:
            name = " ".join([record["recipe"].partition(":")[0], *record["settings"]])
            if plan["identities"] != 751:
                name += f", {plan['identities']:,} identities"
            if plan["effort"] == "full":
                name += ", full effort"
            rows.append((name, *_planned(plan)))
    versions = record["plans"][-1]["versions"]
    named = ", ".join(f"{package} {version}" for package, version in versions.items())
    return f"Training step on {plan['topology'].partition(':')[0]} ({named}):\n\n" + _table(
        header, rows
    )


def _planned(plan: Mapping[str, Any]) -> Sequence[str]:
    """Return the cells of a planned training step."""
    from jaxreid.planning.chips import CHIPS

    step, chip = plan["programs"]["train"], CHIPS[plan["topology"].partition(":")[0]]
    batch = f"{plan['batch_size']:,}"
    if plan["batch_size"] != plan["published_batch_size"]:
        batch += f" (recipe: {plan['published_batch_size']})"
    memory, total = step["memory"], step["memory"]["total"]
    share = f"{total / (chip.hbm_gib * 2**30):.1%}"
    if "message" in step:
        return (f"{plan['chips']}", batch, "", f"does not fit: {total / 2**30:.1f} GiB", *[""] * 7)
    state = sum(
        memory[part] for part in ("parameters", "optimizer", "batch statistics", "class memory")
    )
    collectives = ", ".join(
        f"{kind} {one['count']} ({one['bytes'] / 1e6:.1f})"
        for kind, one in step["collectives"].items()
        if one["bytes"]
    )
    seconds = step["seconds"]
    parts = {"products": "products", "hbm": "HBM", "interconnect": "interconnect"}
    return (
        f"{plan['chips']}",
        batch,
        f"{state / 1e6:,.0f} MB",
        f"{memory['temporaries'] / 1e6:,.0f} MB",
        share,
        f"{step['flops'] / 1e9:,.0f}",
        f"{step['hbm_bytes'] / 1e9:,.2f} GB",
        collectives or "-",
        f"{seconds['total'] * 1e3:,.2f} ms",
        f"{step['per_second']:,.0f}",
        parts[max(parts, key=seconds.__getitem__)],
    )


def settings() -> str:
    """Generate tables of the settings by section and of the options of every component.

    Raises:
        KeyError: a setting or option has no description.
        ValueError: a docstring describes an option that its component does not have.
    """
    from jaxreid import configs
    from jaxreid.runs.settings import leaves

    # qaconv first: its values stand without a recipe name.
    recipes = sorted(configs.recipes(), key=lambda recipe: recipe != "qaconv")
    embedded, published = (
        {recipe: dict(leaves(configs.get(f"{recipe}:{data}").to_dict())) for recipe in recipes}
        for data in DATA
    )
    comments = configs.comments("qaconv")
    sections: dict[str, list[Sequence[str]]] = {}
    for path, valid in _rules():
        here, there = (_by_recipe(by_recipe, path) for by_recipe in (embedded, published))
        comment = comments.get(path) or comments[path.removesuffix(".name")]
        row = (f"`{path}`", valid, here, there if there != here else "", comment)
        sections.setdefault(path.split(".")[0] if "." in path else "run", []).append(row)
    header = ("setting", "valid", *COLUMNS, "meaning")
    texts = [f"## {section}\n\n{_table(header, rows)}" for section, rows in sections.items()]
    texts += [text for path in PARTS for text in _parts(path, embedded, published)]
    return "\n\n".join(texts)


def _rules() -> Iterator[tuple[str, str]]:
    """Yield every setting except options of components, with a description of valid values."""
    from jaxreid.runs.rules import Choice
    from jaxreid.runs.settings import OPTIONS, RULES

    for path, rule in RULES.items():
        inside = {option: rule for option, rule in OPTIONS.items() if option.startswith(f"{path}.")}
        if path in PARTS:
            title = PARTS[path][0].lower()
            yield f"{path}.name", f"one of the [{title}](#{title})"
        elif path in NAMES:
            module, _, names = NAMES[path].partition(":")
            yield path, str(Choice(tuple(getattr(importlib.import_module(module), names))))
        else:
            yield from ((name, str(rule)) for name, rule in (inside or {path: rule}).items())


def _parts(path: str, embedded: Configs, published: Configs) -> Iterator[str]:
    """Yield the title of a registry, then names, summary and options of each of its classes."""
    from jaxreid.names import keywords_of

    title, module, table, maker = PARTS[path]
    module = importlib.import_module(module)
    # Attributes that are not settings.
    context = inspect.signature(getattr(module, maker)).parameters
    names: dict[type, dict[str, Mapping[str, Any]]] = {}
    for name in getattr(module, table).names:
        part, implied = getattr(module, table).find(name)
        # Skip components registered from outside the package.
        if part.__module__.startswith("jaxreid."):
            names.setdefault(part, {})[name] = implied
    yield f"## {title}\n\nOptions of `{path}`, by class, and the recipes that override a default."
    header = ("option", "type", "default", *COLUMNS, "meaning")
    for part, implied in names.items():
        described = descriptions(part)
        types = {field.name: field.type for field in dataclasses.fields(part)}
        if stale := [name for name in described if name not in types and not hasattr(part, name)]:
            raise ValueError(f"{part.__name__} has no attribute {', '.join(stale)}.")
        users = [
            {recipe: held for recipe, held in configs.items() if held[f"{path}.name"] in implied}
            for configs in (embedded, published)
        ]
        rows = []
        for option in keywords_of(part):
            if option in context or option in getattr(part, "IMPLIED", ()):
                continue
            default = f"`{getattr(part, option)!r}`"
            if any(option in options for options in implied.values()):
                default = "by name"
            kind = f"`{inspect.formatannotation(types[option])}`"
            others = (_by_recipe(configs, f"{path}.{option}", default) for configs in users)
            rows.append((f"`{option}`", kind, default, *others, described[option]))
        options = _table(header, rows) if rows else "No options."
        summary = inspect.cleandoc(part.__doc__).partition("\n")[0]
        listed = ", ".join(f"`{name}`" for name in implied)
        yield f"### {part.__name__}\n\n{listed}: {summary}\n\n{options}"


def descriptions(part: type) -> dict[str, str]:
    """Return the first sentence on each attribute, from the docstrings of a class and its bases."""
    sentences: dict[str, str] = {}
    for cls in reversed(part.__mro__):
        _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")
        section = re.split(r"\n(?=\S)", section)[0]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
            sentences[name] = re.split(r"(?<=\.) (?=[A-Z])", " ".join(text.split()))[0].rstrip(".")
    return sentences


def _by_recipe(configs: Configs, path: str, default: str = "") -> str:
    """List the values that differ from the default, with their recipes.

    Without a default, the value of the first recipe comes first, without its name.
    """
    recipes: dict[str, list[str]] = {}
    for recipe, config in configs.items():
        value = f"`{config[path]!r}`" if path in config else default or "not set"
        recipes.setdefault(value, []).append(recipe)
    first = default or next(iter(recipes))
    others = [f"{', '.join(users)} {value}" for value, users in recipes.items() if value != first]
    return "; ".join(others if default else [first, *others])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def on_files(files: Any, *, config: Any) -> None:
    """Add the documents at the top of the repository to the site (MkDocs hook)."""
    from mkdocs.structure.files import File

    for path in ROOT.glob("*.md"):
        name = path.name.replace("README", "index")
        files.append(File.generated(config, name, content=path.read_text()))


def on_page_markdown(text: str, *, files: Any, **_: Any) -> str:
    """Turn links within the repository into links within the site, or text (MkDocs hook)."""

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match.groups()
        name = re.sub(r"^(\.\./|docs/)", "", target)
        page = "index.md" if name == "README.md" else name
        if files.get_file_from_path(page):
            return f"[{words}]({page}{anchor})"
        return words if (ROOT / name).exists() else match[0]

    return re.sub(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*|)\)", link, text)


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    documents = {path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))}
    generated = [name for name, path in documents.items() if BLOCK.search(path.read_text())]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "documents", nargs="*", metavar="NAME", help=f"{', '.join(generated)} (default: all)"
    )
    for name in parser.parse_args(arguments).documents or generated:
        if name not in generated:
            parser.error(f"docs/{name}.md is not generated; valid: {', '.join(generated)}")
        documents[name].write_text(generate(documents[name].read_text()))
        print(f"wrote docs/{name}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
