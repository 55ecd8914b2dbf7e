"""Finds and compiles the Cython modules; everything else about the build is in pyproject.toml.

Every .pyx file below the two packages becomes a module beside it, so a new one needs no entry here. The generated C
goes to build/, never beside the sources. No -march=native: a wheel runs on any machine of its architecture.
"""

from __future__ import annotations

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

_PACKAGES = ("sidecar", "telemetry")

# The compiled code works on byte buffers with lengths it has checked itself, once per read rather than once per byte.
_DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
}


def _extensions() -> list[Extension]:
    sources = sorted(source for package in _PACKAGES for source in Path(package).rglob("*.pyx"))
    return [
        Extension(".".join(source.with_suffix("").parts), [str(source)], extra_compile_args=["-O3"])
        for source in sources
    ]


setup(ext_modules=cythonize(_extensions(), build_dir="build/cython", compiler_directives=_DIRECTIVES))
