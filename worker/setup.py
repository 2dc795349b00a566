"""Builds the extension, with the wire's sources that the library and the worker share.

In the project's tree they are in ``../runtime/src/wire``; a source distribution carries a copy of them as ``wire``.
"""

import glob
import os
import shutil

from setuptools import Extension, setup
from setuptools.command.sdist import sdist

HERE = os.path.dirname(os.path.abspath(__file__))
SHARED = os.path.join("..", "runtime", "src", "wire")


def wire_folder():
    """The folder of the wire's sources, relative to this file."""
    for folder in ("wire", SHARED):
        if os.path.exists(os.path.join(HERE, folder, "frame.h")):
            return folder
    raise SystemExit("the wire's sources are missing: build in the project's tree (they are in runtime/src/wire), "
                     "or from a source distribution")


class SdistWithWire(sdist):
    """A source distribution with a copy of the wire's sources."""

    def make_release_tree(self, base_dir, files):
        """Adds what the manifest cannot name: files outside this folder."""
        super().make_release_tree(base_dir, files)
        folder = os.path.join(base_dir, "wire")
        os.makedirs(folder, exist_ok=True)
        for source in glob.glob(os.path.join(HERE, wire_folder(), "*.[ch]")):
            shutil.copy2(source, folder)


os.chdir(HERE)
WIRE = wire_folder()
setup(
    cmdclass={"sdist": SdistWithWire},
    ext_modules=[
        Extension(
            "pyproc_worker._ext",
            sources=sorted(glob.glob("src/*.c")),
            depends=sorted(glob.glob("src/*.h")) + sorted(glob.glob(os.path.join(WIRE, "*.[ch]"))),
            include_dirs=["src", WIRE],
            extra_compile_args=["-std=gnu11", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
        ),
    ],
)
