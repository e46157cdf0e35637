"""Builds the compiled modules: everything else about the distribution is in pyproject.toml.

Only what changed is built again. `CODEC` is plain Python that runs uncompiled as well; the rest is
Cython. Modules of named tuples and enumerations gain nothing and stay pure.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CODEC = [
    "core/stun/attributes.py",
    "core/stun/channel_data.py",
    "core/stun/classify.py",
    "core/stun/credentials.py",
    "core/stun/message.py",
]
BILLING = sorted(map(str, Path().glob("billing/*.pyx")))
DATA_PLANE = sorted(map(str, Path().glob("relay/dataplane/*.pyx")))
WEB = sorted(map(str, Path().glob("relay/web/*.pyx")))
BENCH = sorted(map(str, Path().glob("bench/*.pyx")))
"""Built in place for a checkout, never packaged."""

C_FLAGS = [
    "-O3",
    "-pthread",
    "-Wall",
    "-Wno-unused-function",
    "-Wno-unused-variable",
    "-Wno-sign-compare",
]
C_DIRECTORY = Path("build/cython")


def extension(source: str) -> Extension:
    """The extension module that `source` becomes."""
    return Extension(
        source.rpartition(".")[0].replace("/", "."),
        [source],
        include_dirs=["."],
        # Flags of whoever packages it come last, and so stand over these.
        extra_compile_args=[*C_FLAGS, *os.environ.get("CFLAGS", "").split()],
        extra_link_args=["-pthread"],
    )


def run_and_read_stderr(action: Callable[[], None]) -> str:
    """What `action` and the processes that it starts write to standard error, which still
    reaches it."""
    with tempfile.TemporaryFile() as capture:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(capture.fileno(), 2)
        try:
            action()
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            capture.seek(0)
            text = capture.read().decode(errors="replace")
            sys.stderr.write(text)
    return text


class BuildExtensions(build_ext):
    """Translates in parallel, refuses Cython's performance hints, then compiles in parallel."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        in_place = self.inplace or self.editable_mode
        if not in_place:
            # A wheel takes all that lies here, and builds in place leave theirs.
            shutil.rmtree(Path(self.build_lib) / "bench", ignore_errors=True)
        self.extensions = [
            one for one in self.extensions if in_place or not one.name.startswith("bench.")
        ]
        self.translate()
        super().run()

    def translate(self) -> None:
        """Turn every Cython source into C under build/, where it is older than its sources.

        A performance hint means that the packet path would take the GIL, or pay for a check
        on every call: it fails the build as an error does, and again the next time.
        """
        from Cython.Build import cythonize

        by_name = {one.name: one for one in self.extensions}
        cython_sources = {
            one.name: one.sources[0] for one in self.extensions if one.sources[0].endswith(".pyx")
        }

        def translate_all() -> None:
            translated = cythonize(
                [extension(one.sources[0]) for one in self.extensions],
                nthreads=os.cpu_count() or 1,
                build_dir=str(C_DIRECTORY),
                compiler_directives={"language_level": 3},
                force=self.force,
            )
            for result in translated:
                by_name[result.name].sources = result.sources
                by_name[result.name].depends = [*result.depends, "setup.py"]

        hints = [
            line
            for line in run_and_read_stderr(translate_all).splitlines()
            if line.startswith("performance hint:") and (".pyx:" in line or ".pxd:" in line)
        ]
        if hints:
            for source in cython_sources.values():
                (C_DIRECTORY / source).with_suffix(".c").unlink(missing_ok=True)
            raise SystemExit("Cython's performance hints are errors here:\n" + "\n".join(hints))


if __name__ == "__main__":
    setup(
        ext_modules=[extension(source) for source in CODEC + BILLING + DATA_PLANE + WEB + BENCH],
        cmdclass={"build_ext": BuildExtensions},
    )
