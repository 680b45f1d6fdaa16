"""Build step that copies the recipes in `configs/` into the package; see also pyproject.toml."""

import pathlib

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Install `configs/*.py` as modules of `jaxreid.configs`."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """List the modules of a package as (package, name, file)."""
        modules = super().find_package_modules(package, package_dir)
        if package == "jaxreid.configs":
            files = sorted(pathlib.Path("configs").glob("*.py"))
            modules += [(package, path.stem, str(path)) for path in files]
        return modules


setup(cmdclass={"build_py": BuildWithRecipes})
