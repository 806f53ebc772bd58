"""Virtual environments of the engines that are measured beside Tektra, made on first use.

Each lies in build/, on its own: nothing of theirs gets into Tektra's environment. llama.cpp is
built from source, which takes some minutes; mistral.rs comes as a wheel.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.common import ROOT, cpu_info

__all__ = [
    "LLAMA_CPP",
    "MISTRALRS",
    "SENTENCE",
    "llama_cpp_python",
    "mistralrs_python",
    "sentence_python",
]

LLAMA_CPP = "llama-cpp-python==0.3.36"
MISTRALRS = "mistralrs==0.9.5"
SENTENCE = "sentence-transformers==6.2.0"

# What a build for this machine would use, said in words: with GGML_NATIVE, the set of the machine
# that builds is taken.
_AVX2 = "-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
_AVX512 = "-DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON"


def llama_cpp_python(isa: str) -> Path:
    """Python of the environment with llama.cpp for the machine, or with AVX2 and no more."""
    if isa == "avx2":
        return _python("peers-avx2", LLAMA_CPP, CMAKE_ARGS=_AVX2)
    if "amx_int8" in cpu_info():
        # built for AMX, this release dies with a segmentation fault on virtual machines that do
        # not let it use the tiles; without, it has all of AVX-512 and its own repacking
        return _python("peers", LLAMA_CPP, CMAKE_ARGS=f"{_AVX2} {_AVX512}")
    return _python("peers", LLAMA_CPP)


def mistralrs_python() -> Path:
    """Python of the environment with mistral.rs' wheel for processors."""
    return _python("peers-mistralrs", MISTRALRS)


def sentence_python() -> Path:
    """Python of the environment with sentence-transformers, and torch for processors."""
    return _python("peers-sentence", SENTENCE)


def _python(name: str, package: str, **environment: str) -> Path:
    folder = ROOT / "build" / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = folder / ".installed"
    if python.exists() and (done.exists() or _has(python, package)):
        return python
    print(f"installing {package} into {folder}, once", file=sys.stderr)
    venv.create(folder, with_pip=True)
    install = [str(python), "-m", "pip", "install", "-q", "--no-cache-dir", package]
    subprocess.run(install, check=True, env={**os.environ, **environment})
    done.touch()
    return python


def _has(python: Path, package: str) -> bool:
    name, _, version = package.partition("==")
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    return found.stdout.strip() == version
