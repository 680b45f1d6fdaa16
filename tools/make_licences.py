"""List the packages that jaxreid uses, with versions and licences, from the installed metadata.

    python tools/make_licences.py                # a Markdown table
    python tools/make_licences.py --constraints --extras test  # pip constraints: name==version
    python tools/make_licences.py --sbom         # a CycloneDX 1.5 document (JSON)

Requirements are followed from jaxreid, with the extras of --extras, to whatever is installed.
"""

import argparse
import importlib.metadata as metadata
import json
import re
import sys
from collections.abc import Iterable

UNKNOWN = "not stated"


def used(extras: Iterable[str] = ()) -> list[metadata.Distribution]:
    """Return the installed packages that jaxreid requires, directly or not, by name."""
    from packaging.requirements import Requirement

    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [("jaxreid", extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            # Of another platform, or of an extra that is not installed.
            continue
        found[name] = package
        for line in package.requires or ():
            requirement = Requirement(line)
            if not requirement.marker or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, wanted) for wanted in ("", *requirement.extras)]
    return [found[name] for name in sorted(found) if name != "jaxreid"]


def licence_of(package: metadata.Distribution) -> str:
    """Return the licence: an SPDX expression, a classifier, or the first line of the text."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return expression
    classes = [c.split(" :: ")[-1] for c in about.get_all("Classifier", []) if "License ::" in c]
    if classes := [c for c in classes if c != "OSI Approved"]:
        return ", ".join(classes)
    return (about.get("License") or "").strip().partition("\n")[0][:60] or UNKNOWN


def table(packages: Iterable[metadata.Distribution]) -> str:
    """Return a Markdown table of packages."""
    rows = [f"| {p.metadata['Name']} | {p.version} | {licence_of(p)} |" for p in packages]
    return "\n".join(["| package | version | licence |", "| --- | --- | --- |", *rows])


def sbom(packages: Iterable[metadata.Distribution]) -> str:
    """Return a CycloneDX document of packages."""
    components = [
        {
            "type": "library",
            "name": p.metadata["Name"],
            "version": p.version,
            "purl": f"pkg:pypi/{p.metadata['Name'].lower()}@{p.version}",
            "licenses": [{"license": {"name": licence_of(p)}}],
        }
        for p in packages
    ]
    main = {"type": "library", "name": "jaxreid", "version": metadata.version("jaxreid")}
    document = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1}
    return json.dumps(
        document | {"metadata": {"component": main}, "components": components}, indent=2
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--extras", nargs="*", default=["train"], help="default: train")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--constraints", action="store_true", help="name==version, for pip -c")
    kind.add_argument("--sbom", action="store_true", help="CycloneDX 1.5")
    args = parser.parse_args(arguments)
    packages = used(args.extras)
    if args.constraints:
        # Without the local part of a version (2.13.0+cpu), which other indexes do not have.
        pins = (f"{p.metadata['Name']}=={p.version.partition('+')[0]}" for p in packages)
        print("\n".join(pins))
    else:
        print(sbom(packages) if args.sbom else table(packages))
    return 0


if __name__ == "__main__":
    sys.exit(main())
