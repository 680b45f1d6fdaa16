"""Packages in use, with their licences."""

import json
import re
import sys
import tomllib

from golden import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tools"))

import make_licences  # noqa: E402


def test_packages_that_are_used_are_listed_with_versions_and_licences():
    packages = make_licences.used()
    names = [package.metadata["Name"].lower() for package in packages]
    assert {"jax", "jaxlib", "numpy", "safetensors", "orbax-checkpoint"} <= set(names)
    assert "jaxreid" not in names
    assert "| jax | " in make_licences.table(packages)
    components = json.loads(make_licences.sbom(packages))["components"]
    assert [component["name"].lower() for component in components] == names


def test_every_package_that_the_tests_need_has_a_constraint():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    untested = {"docs", "tpu", "cuda"}
    needed = [
        *project["dependencies"],
        *(x for k in extras if k not in untested for x in extras[k]),
    ]
    normal = lambda name: re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()  # noqa: E731
    pins = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {normal(line) for line in pins if not line.startswith("#")}
    # TensorFlow has another name on other machines.
    missing = {normal(name) for name in needed} - pinned - {"jaxreid", "tensorflow"}
    assert not missing, "constraints.txt says how it is written"
