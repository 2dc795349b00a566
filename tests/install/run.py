"""Installs into a temporary prefix, builds and runs outside projects against it, uninstalls; an `ok` line for each.

The outside programs run with /usr/bin in front of PATH and with no variable of ours.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, List

HERE = Path(__file__).resolve().parent
EXPECTED = "84 at 1700000000"
OURS = ("PYPROC_", "PYTHON", "LD_", "PKG_CONFIG", "CMAKE_", "ASAN_", "DESTDIR", "MAKE")


class Failure(Exception):
    """A step that did not do what it should."""


class Steps:
    """The steps, which share the folders and the environment."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.arguments = arguments
        self.work = work
        self.build = work / "build"
        self.prefix = work / "prefix"
        self.source = work / "outside"
        self.environment: Dict[str, str] = {
            name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.environment["PATH"] = "/usr/bin:" + self.environment.get("PATH", "/bin")

    def run(self, command: List[str], cwd: Path, **variables: str) -> str:
        """Runs a command that has to succeed; returns what it printed."""
        done = subprocess.run(command, cwd=cwd, env={**self.environment, **variables}, text=True, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise Failure(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
        return done.stdout

    def run_program(self, program: str, cwd: Path, expected: str = EXPECTED) -> None:
        """Runs one of the outside programs."""
        printed = self.run([f"./{program}"], cwd)
        if expected not in printed:
            raise Failure(f"{program} printed {printed!r}, not {expected!r}")

    def install(self) -> None:
        """configure, build and install into a fresh prefix"""
        self.run(["cmake", "-S", str(self.arguments.source), "-B", str(self.build),
                  f"-DCMAKE_INSTALL_PREFIX={self.prefix}",
                  f"-DCMAKE_C_COMPILER={self.arguments.compiler}", f"-DPYPROC_PYTHON={self.arguments.python}",
                  "-DCMAKE_BUILD_TYPE=None", "-DPYPROC_TESTS=OFF", "-DPYPROC_EXAMPLES=OFF", "-DPYPROC_BENCH=OFF"],
                 self.work)
        self.run(["cmake", "--build", str(self.build), "-j", "2"], self.work)
        self.run(["cmake", "--install", str(self.build)], self.work)
        self.source.mkdir()
        for path in HERE.iterdir():
            if path.is_dir() and path.name != "__pycache__":
                shutil.copytree(path, self.source / path.name)
            elif path.name != "run.py" and path.is_file():
                shutil.copy(path, self.source)

    def layout(self) -> None:
        """what is installed, and that nothing refers to the build"""
        for name in ("bin/pyproc-gen", "bin/protoc-gen-pyproc", "lib/libpyproc.so", "lib/libpyproc.so.0",
                     "lib/libpyproc.a", "lib/pkgconfig/pyproc.pc", "lib/cmake/pyproc/pyproc-config.cmake",
                     "include/pyproc.h", "include/pyproc_generated.h", "include/pyproc_protocol.h",
                     "include/pyproc/options.proto",
                     "include/google/protobuf/timestamp.pb-c.h",
                     "lib/pyproc/worker/pyproc_worker/__init__.py", "lib/pyproc/worker/SOURCE",
                     "lib/cmake/pyproc/PyprocGenerate.cmake", "share/pyproc/codegen/pyproc_gen/__init__.py"):
            if not (self.prefix / name).exists():
                raise Failure(f"{name} is not there")
        named = Path((self.prefix / "lib/pyproc/worker/SOURCE").read_text(encoding="utf-8").strip())
        if not named.is_file() or self.prefix not in named.parents:
            raise Failure(f"SOURCE names {named}, which is not there")
        for library in [self.prefix / "lib/libpyproc.so", *(self.prefix / "lib/pyproc").rglob("*.so")]:
            dynamic = self.run(["readelf", "-d", str(library)], self.work)
            if "RPATH" in dynamic or "RUNPATH" in dynamic:
                raise Failure(f"{library} has a run path:\n{dynamic}")
        for path in self.prefix.rglob("*"):
            if path.is_file() and path.suffix not in (".so", ".a", ".0", ".pyc") and ".so." not in path.name:
                if str(self.build).encode() in path.read_bytes():
                    raise Failure(f"{path} names the build folder")

    def cmake_project(self) -> None:
        """outside CMake project: C, C++, static"""
        folder = self.source / "cmake"
        self.run(["cmake", "-S", ".", "-B", "build", f"-DCMAKE_PREFIX_PATH={self.prefix}",
                  f"-DCMAKE_C_COMPILER={self.arguments.compiler}",
                  f"-DCMAKE_CXX_COMPILER={self.arguments.cxx_compiler}"], folder)
        self.run(["cmake", "--build", "build", "-j", "2"], folder)
        for program in ("shop", "shop++", "shop-static"):
            self.run_program(program, folder / "build")

    def cmake_rebuild(self) -> None:
        """the CMake function generates again when, and only when, a schema has changed"""
        folder = self.source / "cmake"
        if "Generating" in self.run(["cmake", "--build", "build"], folder):
            raise Failure("a build without a change has generated again")
        schema = self.source / "shop.proto"
        text = schema.read_text(encoding="utf-8")
        text = text.replace("int32 quantity = 2;", "int32 quantity = 2;\n  bool gift = 4;")
        schema.write_text(text, encoding="utf-8")
        stamp = (folder / "build/stubs.pyproc-stamp").stat().st_mtime
        os.utime(schema, (stamp + 2, stamp + 2))
        self.run(["cmake", "--build", "build"], folder)
        if "gift" not in (folder / "build/gen/shop.pb-c.h").read_text(encoding="utf-8"):
            raise Failure("the changed schema was not generated again")

    def make_project(self) -> None:
        """outside Makefile project with pkg-config: C and C++"""
        folder = self.source / "make"
        self.run(["make", f"CC={self.arguments.compiler}", f"CXX={self.arguments.cxx_compiler}"], folder,
                 PKG_CONFIG_PATH=str(self.prefix / "lib/pkgconfig"))
        for program in ("shop", "shop++"):
            self.run_program(program, folder)

    def quickstart_by_hand(self) -> None:
        """the commands of the quickstart's README, without a build system"""
        folder = self.source / "by-hand"
        shutil.copytree(self.arguments.source / "examples/quickstart", folder)
        commands = f"""set -e
            export PATH={self.prefix}/bin:$PATH PKG_CONFIG_PATH={self.prefix}/lib/pkgconfig
            pyproc-gen quickstart.proto --out gen --worker worker.py
            cp worker.py gen/
            compile="{self.arguments.compiler} -std=c11 -Igen main.c gen/*.c"
            $compile -o quickstart $(pkg-config --cflags --libs pyproc) -Wl,-rpath,{self.prefix}/lib
            $compile -o quickstart-static $(pkg-config --cflags pyproc) \\
              {self.prefix}/lib/libpyproc.a $(pkg-config --libs --static pyproc | sed 's/-lpyproc//')"""
        self.run(["sh", "-c", commands], folder)
        self.run_program("quickstart", folder, "84")
        self.run_program("quickstart-static", folder, "84")

    def example_projects(self) -> None:
        """examples as projects of their own"""
        examples = [("quickstart", "84"), ("dynamic", '"result":84')]
        if any(subprocess.run(["pkg-config", "--exists", name], check=False).returncode == 0
               for name in ("msgpack-c", "msgpack")):
            examples.append(("msgpack", "3 sensors"))
        for example, expected in examples:
            folder = self.source / "examples" / example
            shutil.copytree(self.arguments.source / "examples" / example, folder)
            self.run(["cmake", "-S", ".", "-B", "build", f"-DCMAKE_PREFIX_PATH={self.prefix}",
                      f"-DCMAKE_C_COMPILER={self.arguments.compiler}"], folder)
            self.run(["cmake", "--build", "build"], folder)
            self.run_program(example, folder / "build", expected)

    def protoc_plugin(self) -> None:
        """protoc-gen-pyproc as protoc's plugin"""
        out = self.source / "plugin"
        out.mkdir()
        self.run(["protoc", f"--plugin={self.prefix}/bin/protoc-gen-pyproc", "-I", str(self.source),
                  "-I", str(self.prefix / "include"), f"--pyproc_out={out}", "shop.proto"], self.source)
        if not (out / "shop.pyproc.h").exists():
            raise Failure("shop.pyproc.h was not made")

    def pip_install(self) -> None:
        """what SOURCE names is what pip installs into a virtual environment, without an index"""
        source = (self.prefix / "lib/pyproc/worker/SOURCE").read_text(encoding="utf-8").strip()
        venv = self.work / "venv"
        self.run([self.arguments.python, "-m", "venv", "--system-site-packages", str(venv)], self.work)
        python = str(venv / "bin/python3")
        self.run([python, "-m", "pip", "install", "--no-index", "--no-build-isolation", source], self.work)
        used = self.run([python, "-c", "import pyproc_worker; print(pyproc_worker.__file__)"], self.work)
        if str(venv) not in used:
            raise Failure(f"pyproc_worker comes from {used}")
        # A program takes the worker of the Python that is first on PATH.
        printed = self.run(["./quickstart"], self.source / "by-hand",
                           PATH=f"{venv}/bin:{self.environment['PATH']}")
        if "84" not in printed:
            raise Failure(f"the quickstart printed {printed!r}")

    def uninstall(self) -> None:
        """uninstall leaves nothing, and keeps what is not ours"""
        stranger = self.prefix / "lib/stranger.txt"
        stranger.write_text("not ours\n", encoding="utf-8")
        self.run(["cmake", "-P", str(self.build / "uninstall.cmake")], self.work)
        left = sorted(str(path.relative_to(self.prefix)) for path in self.prefix.rglob("*"))
        if left != ["lib", "lib/stranger.txt"]:
            raise Failure(f"left behind: {left}")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("source", "compiler", "cxx-compiler", "python"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    arguments.source = Path(arguments.source).resolve()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="pyproc-install.") as work:
        steps = Steps(arguments, Path(work))
        todo: List[Callable[[], None]] = [steps.install, steps.layout, steps.cmake_project, steps.cmake_rebuild,
                                          steps.make_project, steps.quickstart_by_hand, steps.example_projects,
                                          steps.protoc_plugin, steps.pip_install, steps.uninstall]
        for step in todo:
            try:
                step()
                print(f"ok {step.__name__}: {step.__doc__}", flush=True)
            except (Failure, OSError) as error:
                failed += 1
                print(f"not ok {step.__name__}: {step.__doc__}\n{error}", flush=True)
                if step == steps.install:
                    break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
