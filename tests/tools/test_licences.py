"""Packages in use, with their licences."""

import json
import sys

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
