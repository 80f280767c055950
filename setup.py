"""Builds the compiled core. Everything else about the package is in pyproject.toml."""

import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

LINUX_ONLY = {"_link_linux"}

# The only place where Cython's directives are set: no .pyx overrides them for a whole module.
DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "nonecheck": False,
    "embedsignature": False,  # the signatures are in the .pyi
    "auto_pickle": False,
    "freethreading_compatible": True,
}

package = Path("tcpconn")
headers = [header.as_posix() for header in sorted(package.glob("*.h"))]
extensions = [
    Extension(
        f"tcpconn.{module.stem}",
        [module.as_posix()],
        include_dirs=[package.name],  # for cdef extern from "_sync.h"
        depends=headers,
        extra_compile_args=["/O2"] if sys.platform == "win32" else ["-O3"],
    )
    for module in sorted(package.glob("*.pyx"))
    if sys.platform == "linux" or module.stem not in LINUX_ONLY
]

setup(
    # build_dir keeps the generated C out of the source tree.
    ext_modules=cythonize(extensions, build_dir="build/cython", compiler_directives=DIRECTIVES),
    options={"build_ext": {"parallel": True}},
)
