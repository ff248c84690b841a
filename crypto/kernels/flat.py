"""Machine code of a compiled kernel that runs wherever it stands in memory.

Numba's own object code is tied to the process that made it. Here the kernel's optimised LLVM code, without the part
that talks to Python, is compiled once more as position-independent code, and the sections of the object file are
put one behind the other with the distances between them filled in. What is left to fill in where it is used are the
addresses of three routines of the C library, in words of their own at the end.

Only kernels that raise nothing, allocate nothing and call nothing else come through: `NotFlat` says why.

Source: System V ABI, AMD64 supplement, section 4.4 for relocations; the ELF specification for sections and symbols.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from crypto.kernels.stored import ROUTINES


class NotFlat(ValueError):
    """A kernel that cannot stand alone."""


@dataclass(frozen=True)
class Flat:
    """Code that needs nothing but its routines' addresses.

    Args:
        code: Begins at any multiple of the page size.
        entry: Of the kernel, in `code`.
        takes: Words behind the two for result and error.
        returns: Numba's name of its type.
        routines: Where in `code` the address of each is expected.
    """

    code: bytes = field(repr=False)
    entry: int
    takes: int
    returns: str
    routines: dict[str, int]


def flat_code(compiled: Any) -> Flat:
    """The code of one kernel.

    Args:
        compiled: Numba's result for one combination of argument types, compiled in this process.

    Raises:
        NotFlat: It raises or allocates, or needs what is not allowed here.
    """
    from llvmlite import binding

    library, name = compiled.library, compiled.fndesc.llvm_func_name
    module = binding.parse_bitcode(library._final_module.as_bitcode())
    entry = module.get_function(name)
    takes = _checked(entry)
    for each in (*module.functions, *module.global_variables):
        if not each.is_declaration and each.name != name:
            each.linkage = "internal"
    entry.visibility = "hidden"
    codegen = library.codegen
    machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(
        cpu=codegen._get_host_cpu_name(),
        features=codegen._tm_features,
        opt=3,
        reloc="pic",
        codemodel="small",
    )
    passes = binding.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, binding.create_pass_builder(machine, binding.create_pipeline_tuning_options()))
    code, start, routines = linked(machine.emit_object(module), name)
    return Flat(code, start, takes, str(compiled.signature.return_type), routines)


def _checked(entry: Any) -> int:
    """Words that the kernel takes.

    Raises:
        NotFlat: It has another status than success, or takes what is not a word.
    """
    statuses = set(re.findall(r"^\s*ret (.*?)(?:, !.*)?$", str(entry), re.MULTILINE))
    if statuses != {"i32 0"}:
        raise NotFlat(f"it may raise: {sorted(statuses)}")
    kinds = [str(argument.type) for argument in entry.arguments]
    if not all(kind.endswith("*") or kind in ("ptr", "i64", "i32", "i16", "i8", "i1") for kind in kinds):
        raise NotFlat(f"it takes {kinds}")
    return len(kinds) - 2


# ---- object files ---------------------------------------------------------------------------------------------------

_SYMTAB, _RELA, _NOBITS = 2, 4, 8
_WRITE, _ALLOC, _THREAD = 1, 2, 0x400
_PC32, _PLT32, _GOTPCREL, _GOTPCRELX, _REX_GOTPCRELX = 2, 4, 9, 41, 42
_NEAR = (_PC32, _PLT32)
_BY_WORD = (_GOTPCREL, _GOTPCRELX, _REX_GOTPCRELX)
_JUMP = b"\xff\x25"  # jmp *distance(%rip)


class _Section(NamedTuple):
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry: int


def linked(raw: bytes, name: str) -> tuple[bytes, int, dict[str, int]]:
    """Put the sections of an object file together.

    Args:
        raw: An ELF object file for x86-64.
        name: Of the function that is called.

    Returns:
        The code, where in it the function begins, and where it expects the address of each routine.

    Raises:
        NotFlat: It holds what would have to be changed by where it stands, or calls what is no routine.
    """
    if raw[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", raw, 16) != (1, 62):
        raise NotFlat("no object file for x86-64")
    table = struct.unpack_from("<Q", raw, 40)[0]
    size, count, names = struct.unpack_from("<HHH", raw, 58)
    sections = [_Section(*struct.unpack_from("<IIQQQQIIQQ", raw, table + size * i)) for i in range(count)]

    def text(base: int, at: int) -> str:
        return raw[base + at : raw.index(b"\0", base + at)].decode("ascii")

    titles = [text(sections[names].offset, section.name) for section in sections]
    code, places = bytearray(), dict[int, int]()
    for i, section in enumerate(sections):
        # What unwinds the stack is not needed by code that raises nothing.
        if not section.flags & _ALLOC or titles[i].startswith((".eh_frame", ".note")) or not section.size:
            continue
        if section.flags & (_WRITE | _THREAD) or section.kind == _NOBITS:
            raise NotFlat(f"section {titles[i]} would be written to")
        code += bytes(-len(code) % max(section.alignment, 1))
        places[i] = len(code)
        code += raw[section.offset : section.offset + section.size]

    symbols = next(section for section in sections if section.kind == _SYMTAB)
    strings = sections[symbols.link].offset
    found: list[tuple[str, int, int]] = []
    for at in range(symbols.offset, symbols.offset + symbols.size, 24):
        title, _, _, where, value, _ = struct.unpack_from("<IBBHQQ", raw, at)
        found.append((text(strings, title), where, value))

    words: dict[str, int] = {}
    jumps: dict[str, int] = {}
    for routine in sorted({title for title, where, _ in found if title and not where}):
        if routine not in ROUTINES:
            raise NotFlat(f"it calls {routine}")
        code += bytes(-len(code) % 16)
        words[routine] = len(code)
        jumps[routine] = len(code) + 8
        code += bytes(8) + _JUMP + struct.pack("<i", -14) + bytes(2)

    for section in sections:
        if section.kind != _RELA or section.info not in places:
            continue
        for at in range(section.offset, section.offset + section.size, 24):
            offset, info, addend = struct.unpack_from("<QQq", raw, at)
            title, where, value = found[info >> 32]
            kind, here = info & 0xFFFFFFFF, places[section.info] + offset
            if kind in _BY_WORD and title in words:
                target = words[title]
            elif kind in _NEAR and not where and title in jumps:
                target = jumps[title]
            elif kind in _NEAR and where in places:
                target = places[where] + value
            else:
                raise NotFlat(f"relocation {kind} to {title or where}")
            struct.pack_into("<i", code, here, target + addend - here)
    start = next(
        (places[where] + value for title, where, value in found if title == name and where in places), None
    )
    if start is None:
        raise NotFlat(f"it has no {name}")
    return bytes(code), start, words
