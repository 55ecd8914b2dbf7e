"""Compiled modules of the bench itself, which the product ships without.

Owns where they are built, and builds again only what changed. It never touches what `make setup` compiles.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

# Below the folder of the project, where everything of the bench runs.
_BUILD = Path("build/bench")


def build(name: str) -> Path:
    """Compile bench/NAME.pyx. The file that `load` takes."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    extension = Extension(name, [f"bench/{name}.pyx"], extra_compile_args=["-O3"])
    modules = cythonize([extension], build_dir=str(_BUILD), include_path=["."], quiet=True)
    command = build_ext(Distribution({"ext_modules": modules}))
    command.build_lib = command.build_temp = str(_BUILD)
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath(name))


def load(path: Path) -> Any:
    """The module that `build` has compiled."""
    name = path.name.partition(".")[0]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
