"""Kernels compiled for GPUs that are not there, in a process of its own, for here Triton interprets.

found = compiled("fedcore.learning.kernels.triton_norms", [Build("_ghost", {"a": "*fp32", ...}, {"TILE": 64, ...})])
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

CAPABILITIES = (80, 90)


@dataclass(frozen=True)
class Build:
    """A kernel and what it is compiled for.

    Args:
        kernel: Its name in the module.
        types: Of arguments by name, in Triton's words: "*fp32", "i32", "fp32". Pointers are aligned to 16 bytes, and "i32:16"
            is a multiple of 16.
        constants: Arguments known at compile time: those marked so, and strides of 1.
        options: num_warps, num_stages.
    """

    kernel: str
    types: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Compiled:
    """What came of it.

    Args:
        kernel: Its name.
        capability: 80 for 8.0.
        registers: Of a thread.
        spills: Bytes of a thread that do not fit into registers.
        shared: Bytes of a block.
    """

    kernel: str
    capability: int
    registers: int
    spills: int
    shared: int


def compiled(module: str, builds: list[Build]) -> list[Compiled]:
    """Each build for each of `CAPABILITIES`.

    Raises:
        subprocess.CalledProcessError: One does not compile; stderr says why.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith(("TRITON_", "FEDCORE_"))}
    said = subprocess.run(
        [sys.executable, "-m", __name__, module],
        input=json.dumps([asdict(build) for build in builds]),
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if said.returncode:
        raise RuntimeError(said.stderr)
    return [Compiled(**each) for each in json.loads(said.stdout.splitlines()[-1])]


def _main() -> None:
    module = importlib.import_module(sys.argv[1])
    builds = [Build(**each) for each in json.loads(sys.stdin.read())]
    print(
        json.dumps(
            [asdict(_compile(module, build, capability)) for build in builds for capability in CAPABILITIES]
        )
    )


def _compile(module: Any, build: Build, capability: int) -> Compiled:
    import tempfile

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(module, build.kernel)
    types = {name: build.types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, kind in enumerate(types.values())
        if kind.startswith("*") or kind.endswith(":16")
    }
    signature = {name: kind.removesuffix(":16") for name, kind in types.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=build.constants, attrs=aligned)
    found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=build.options)
    ptxas = triton.knobs.nvidia.ptxas.path
    architecture = "sm_90a" if capability == 90 else f"sm_{capability}"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.ptx")
        with open(path, "w") as file:
            file.write(found.asm["ptx"])
        command = [
            ptxas,
            "-v",
            f"--gpu-name={architecture}",
            path,
            "-o",
            os.path.join(folder, "kernel.cubin"),
        ]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = int(re.search(r"Used (\d+) registers", told)[1])  # type: ignore[index]
    spills = sum(map(int, re.findall(r"(\d+) bytes spill", told)))
    return Compiled(build.kernel, capability, registers, spills, found.metadata.shared)


if __name__ == "__main__":
    _main()
