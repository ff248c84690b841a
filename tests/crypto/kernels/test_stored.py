"""Stored kernels: the same results without the compiler, and numba wherever something is not as expected."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.kernels import compiled, flat, stored
from crypto.kernels.compiled import PORTABLE, Kernel, kernel

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(stored.environment() is None, reason="nothing is stored on this machine")


def mix(values: Any, by: Any, turn: Any, shift: Any, out: Any) -> Any:
    """Uses every kind of argument."""
    total = np.uint64(0)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            total = total * np.uint64(31) + np.uint64(values[i, j])
            out[i, j] = values[i, j] + by if turn else values[i, j] - shift
    return total


def make(values: Any) -> Any:
    """Allocates."""
    return np.zeros(3, dtype=np.int64)[0] + values.shape[0]


def divide(values: Any, by: Any) -> Any:
    """Raises where `by` is zero."""
    return values[0] // by


def half(values: Any) -> Any:
    """Returns what is no whole number."""
    return values[0] / 2


def has(values: Any, wanted: Any) -> Any:
    """Returns a truth value."""
    return values[values.shape[0] - 1] == wanted


def least(values: Any) -> Any:
    """Returns a number of the array's own type."""
    found = values[0]
    for i in range(values.shape[0]):
        found = min(found, values[i])
    return found


def clear(values: Any) -> None:
    """Becomes a call of the C library."""
    for i in range(values.shape[0]):
        values[i] = 0


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setattr(compiled, "_folder", lambda: tmp_path)
    monkeypatch.setattr(compiled, "_place", lambda: tmp_path / "here")
    return tmp_path / "here"


def again(function: Callable[..., Any], *arguments: Any) -> tuple[Kernel, Kernel]:
    """A kernel that was compiled and stored, and the same one as the next process meets it."""
    first: Kernel = kernel(function)
    first(*arguments)
    return first, kernel(function)


def found(one: Kernel) -> list[Any]:
    """The stored code that a kernel has met; None for what numba runs."""
    return list(one._known.values())


def files(place: Path) -> list[Path]:
    return sorted(place.iterdir())


# ---- the same results -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["C", "F", "every other"])
@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.int32, np.uint8])
def test_stored_code_gives_what_numba_gives(layout: str, dtype: Any, place: Path) -> None:
    values = np.arange(12, 36).astype(dtype).reshape(4, 6)
    values = {"C": values, "F": np.asfortranarray(values), "every other": values[:, ::2]}[layout]
    values.flags.writeable = False
    expected, got = np.zeros(values.shape, dtype=np.int64), np.zeros(values.shape, dtype=np.int64)
    first, second = again(mix, values, 7, True, -3, expected)
    for by, turn, shift in ((7, True, -3), (-(2**62), False, 5), (0, False, -(2**63))):
        assert first(values, by, turn, shift, expected) == second(values, by, turn, shift, got)
        assert np.array_equal(expected, got)
    assert [type(each) for each in found(second)] == [stored.Stored]


def test_results_have_the_type_that_numba_gives_them(place: Path) -> None:
    for function, arguments, expected in (
        (has, (np.arange(3), 2), True),
        (has, (np.arange(3), 3), False),
        (least, (np.array([5, -7, 3], dtype=np.int8),), -7),
        (least, (np.array([200, 130], dtype=np.uint8),), 130),
        (least, (np.array([2**64 - 1], dtype=np.uint64),), 2**64 - 1),
        (least, (np.array([-(2**63)], dtype=np.int64),), -(2**63)),
    ):
        first, second = again(function, *arguments)
        results = first.real(*arguments), second(*arguments)
        assert results == (expected, expected) and type(results[0]) is type(results[1])
        assert [type(each) for each in found(second)] == [stored.Stored]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=8), st.integers(0, 2**64 - 1))
def test_words_of_all_sizes_pass_whole(words: list[int], by: int) -> None:
    from crypto.kernels.blocks import blocks_from, gf_mul_reference, numbers_from, scale

    values = blocks_from([word << 64 | by for word in words]).reshape(-1, 2)
    out = np.empty_like(values)
    scale(values, blocks_from([by]), out)
    assert numbers_from(out) == [gf_mul_reference(word << 64 | by, by) for word in words]


def test_code_that_calls_the_c_library_finds_it(place: Path) -> None:
    values = np.arange(1000)
    _, second = again(clear, values)
    values[:] = 1
    assert second(values) is None and not values.any()
    assert "memset" in json.loads(files(place)[0].read_bytes().split(b"\n")[1])["routines"]


def test_kernels_of_one_name_that_close_over_different_values_are_not_mixed_up(place: Path) -> None:
    def adding(amount: int) -> Any:
        def add(value: Any) -> Any:
            return value + amount

        return kernel(add)

    assert [adding(amount)(10) for amount in (1, 2, 1)] == [11, 12, 11]


def test_each_combination_of_types_has_code_of_its_own(place: Path) -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    first: Kernel = kernel(mix)
    for dtype in (np.uint8, np.int64, np.uint8):
        first(values.astype(dtype), np.uint8(1), False, 2, np.zeros((2, 3), dtype=np.int64))
    assert len(files(place)) == 2


# ---- what is left to numba ------------------------------------------------------------------------------------------


def test_a_kernel_that_cannot_stand_alone_is_numbas_and_is_not_tried_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.array([6, 8])
    for function, arguments, expected in (
        (make, (values,), 2),
        (divide, (values, 4), 1),
        (half, (values,), 3.0),
    ):
        first, second = again(function, *arguments)
        assert first(*arguments) == expected
        monkeypatch.setattr(stored, "save", lambda *_: pytest.fail("compiled again to be stored"))
        assert second(*arguments) == expected and found(second) == [None]
        monkeypatch.undo()
        monkeypatch.setattr(compiled, "_folder", lambda: place.parent)
        monkeypatch.setattr(compiled, "_place", lambda: place)
    told = {file.name.split("-")[0]: json.loads(file.read_bytes().split(b"\n")[1]) for file in files(place)}
    assert "raise" in told["make"]["unfit"] and "raise" in told["divide"]["unfit"]
    assert "float64" in told["half"]["unfit"]


def test_an_error_that_a_kernel_raises_is_raised_by_its_next_process_too(place: Path) -> None:
    for each in again(divide, np.array([6, 8]), 4):
        with pytest.raises(ZeroDivisionError):
            each(np.array([6, 8]), 0)


@pytest.mark.parametrize(
    ("value", "expected"), [(2.5, 3.5), (2**63, 2**63 + 1), (np.float32(1), 2), (1 + 2j, 2 + 2j)]
)
def test_arguments_that_are_not_plain_go_to_numba(value: Any, expected: Any, place: Path) -> None:
    def more(value: Any) -> Any:
        return value + np.uint64(1) if expected == 2**63 + 1 else value + 1

    def one(value: Any) -> Any:
        return value + 1

    assert stored.laid_out((value,)) is None
    assert kernel(more if expected == 2**63 + 1 else one)(value) == expected
    assert not place.exists()


def test_arrays_of_the_other_byte_order_or_of_fractions_are_not_plain() -> None:
    for dtype in (">u8", "f8", "m8[s]", "S3"):
        assert stored.kinds_of((np.zeros(2, dtype),)) is None
    assert stored.kinds_of((np.zeros(2, "<u8"), 1, True)) == ("<u8 1Cwa", "<i8", "|b1")


def test_where_nothing_can_be_kept_numba_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_folder", lambda: None)
    monkeypatch.setattr(compiled, "_place", lambda: None)
    assert kernel(divide)(np.array([9]), 2) == 4


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match="a kernel is a function"):
        kernel(len)


# ---- files that are not as they should be ---------------------------------------------------------------------------


def head_changed(raw: bytes, **changes: Any) -> bytes:
    magic, head, code = raw.split(b"\n", 2)
    return b"\n".join([magic, json.dumps({**json.loads(head), **changes}).encode(), code])


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "cut off": lambda raw: raw[:-1],
    "cut off in its head": lambda raw: raw[:40],
    "longer": lambda raw: raw + b"\x90",
    "one bit of the code": lambda raw: raw[:-20] + bytes([raw[-20] ^ 1]) + raw[-19:],
    "another version": lambda raw: raw.replace(b"kernel 1", b"kernel 0", 1),
    "no JSON": lambda raw: raw.replace(b"{", b"[", 1),
    "another kernel": lambda raw: head_changed(raw, name="crypto.kernels.blocks.scale"),
    "other types": lambda raw: head_changed(raw, kinds=["<i8"]),
    "an entry outside": lambda raw: head_changed(raw, entry=2**20),
    "an entry before": lambda raw: head_changed(raw, entry=-1),
    "a routine that none calls": lambda raw: head_changed(raw, routines={"system": 0}),
    "a routine's address outside": lambda raw: head_changed(raw, routines={"memset": 2**20}),
    "an unknown return": lambda raw: head_changed(raw, returns="float64"),
    "a head that lacks a name": lambda raw: raw.replace(b'"takes"', b'"took"', 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_not_run_and_is_made_again(damage: str, place: Path) -> None:
    values = np.arange(1, 5)
    again(clear, values)
    (file,) = files(place)
    good = file.read_bytes()
    file.write_bytes(DAMAGES[damage](good))
    head = json.loads(good.split(b"\n")[1])
    with pytest.raises(LookupError):
        stored.load(place, head["name"], tuple(head["kinds"]))
    values[:] = 1
    kernel(clear)(values)
    assert not values.any() and files(place) == [file]
    stored.load(place, head["name"], tuple(head["kinds"]))


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_run(mode: int, place: Path) -> None:
    _, second = again(clear, np.arange(3))
    files(place)[0].chmod(mode)
    second(np.arange(3))
    assert found(second) == [None]
    assert files(place)[0].stat().st_mode & 0o777 == 0o600


def test_a_file_of_another_user_is_not_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, second = again(clear, np.arange(3))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    second(np.arange(3))
    assert found(second) == [None]


def test_a_link_to_a_file_is_not_followed(place: Path) -> None:
    _, second = again(clear, np.arange(3))
    (file,) = files(place)
    file.rename(place / "elsewhere")
    file.symlink_to(place / "elsewhere")
    second(np.arange(3))
    assert found(second) == [None]


def test_where_the_system_lets_nothing_run_numba_does_and_nothing_is_compiled_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = again(clear, np.arange(3))
    monkeypatch.setattr(stored, "_mapped", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    monkeypatch.setattr(stored, "save", lambda *_: pytest.fail("compiled again to be stored"))
    values = np.arange(3)
    second(values)
    assert not values.any() and found(second) == [None]


def test_a_full_disk_costs_the_file_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored, "write", full)
    values = np.arange(3)
    kernel(clear)(values)
    assert not values.any() and files(place) == []


def test_a_compiler_of_another_make_is_no_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(result: Any) -> Any:
        raise AttributeError("_final_module")

    monkeypatch.setattr(flat, "flat_code", changed)
    values = np.arange(3)
    kernel(clear)(values)
    assert not values.any() and b"_final_module" in files(place)[0].read_bytes()


# ---- object files ---------------------------------------------------------------------------------------------------


def test_what_is_no_object_file_is_refused() -> None:
    with pytest.raises(flat.NotFlat, match="no object file"):
        flat.linked(b"\x7fELF\x01\x01" + bytes(58), "x")
    with pytest.raises(flat.NotFlat, match="no object file"):
        flat.linked(b"\x7fELF\x02\x01" + bytes(10) + struct.pack("<HH", 2, 62) + bytes(44), "x")


def object_of(text: str) -> bytes:
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="small")
    return bytes(machine.emit_object(binding.parse_assembly(text)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "declare i32 @getpid()\ndefine i32 @f() {\n %a = call i32 @getpid()\n ret i32 %a\n}",
            "calls getpid",
        ),
        (
            "@g = internal global i32 1\ndefine i32 @f() {\n %a = load volatile i32, ptr @g\n ret i32 %a\n}",
            "would be written",
        ),
        ("define i32 @other() {\n ret i32 1\n}", "has no f"),
    ],
)
def test_code_that_needs_more_than_itself_is_refused(text: str, said: str) -> None:
    with pytest.raises(flat.NotFlat, match=said):
        flat.linked(object_of(text), "f")


# ---- folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "sources" / "inner").mkdir(parents=True)
    (tmp_path / "sources" / "inner" / "one.py").write_text("1")
    return tmp_path / "sources"


def test_the_folder_is_this_users_alone_and_named_by_sources_and_path(home: Path, sources: Path) -> None:
    first = stored.folder(sources, "native")
    assert first is not None and first.parent == home / "fedcore" / "kernels"
    for each in (first, first.parent, first.parent.parent):
        assert each.stat().st_mode & 0o777 == 0o700
    assert stored.folder(sources, "portable") != first == stored.folder(sources, "native")
    (sources / "inner" / "one.py").write_text("2")
    assert stored.folder(sources, "native") != first


def test_a_folder_in_which_others_could_write_is_not_trusted(home: Path, sources: Path) -> None:
    place = stored.folder(sources, "native")
    assert place is not None
    place.chmod(0o770)
    assert stored.folder(sources, "native") is None
    place.chmod(0o700)
    place.parent.chmod(0o777)
    assert stored.folder(sources, "native") == place
    assert place.parent.stat().st_mode & 0o777 == 0o755


def test_a_folder_of_another_user_is_not_trusted(
    home: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stored.folder(sources, "native") is not None
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert stored.folder(sources, "native") is None


def test_a_shared_place_is_trusted_where_nobody_can_take_another_ones_folder_away(
    home: Path, sources: Path
) -> None:
    home.chmod(0o777)
    assert stored.folder(sources, "native") is None
    home.chmod(0o1777)
    assert stored.folder(sources, "native") is not None


def test_a_place_that_cannot_be_written_keeps_nothing(home: Path, sources: Path) -> None:
    home.rmdir()
    home.write_text("a file")
    assert stored.folder(sources, "native") is None


def test_old_folders_are_removed_but_for_the_two_used_last_and_those_of_today(place: Path) -> None:
    now = place.parent.stat().st_mtime
    kept = place.parent.parent / "kept"
    kept.mkdir()
    ages = {"month": 30, "week": 7, "days": 3, "yesterday": 1.5, "today": 0.5}
    for name, days in ages.items():
        (kept / name / "deep").mkdir(parents=True)
        os.utime(kept / name, (now, now - days * 86400))
    (kept / "current").mkdir()
    stored._tidy(kept / "current")
    assert {each.name for each in kept.iterdir()} == {"current", "today", "yesterday"}


# ---- what code depends on -------------------------------------------------------------------------------------------


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str | None]]:
    """The environment's name with other versions, another processor, other settings."""
    for name in [name for name in os.environ if name.startswith("NUMBA_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    real = stored.processor()
    assert real is not None

    def name(
        *,
        numba: str = "1",
        llvmlite: str = "1",
        more: str | None = None,
        setting: tuple[str, str] | None = None,
    ) -> str | None:
        with monkeypatch.context() as patched:
            for package, version in (("numba", numba), ("llvmlite", llvmlite)):
                (tmp_path / package).mkdir(exist_ok=True)
                (tmp_path / package / "__init__.py").touch()
                (tmp_path / package / "_version.py").write_text(version)
            patched.setattr(
                stored.importlib.util,
                "find_spec",
                lambda package: type("Spec", (), {"origin": str(tmp_path / package / "__init__.py")}),
            )
            if more:
                other = stored.Processor(real.model, real.flags | {more})
                patched.setattr(stored, "processor", lambda: other)
            if setting:
                patched.setenv(*setting)
            stored.environment.cache_clear()
            return stored.environment()

    yield name
    stored.environment.cache_clear()


def test_other_versions_processors_and_settings_have_other_code(known: Callable[..., str | None]) -> None:
    names = [
        known(),
        known(numba="2"),
        known(llvmlite="2"),
        known(more="a-feature-of-next-year"),
        known(setting=("NUMBA_CPU_NAME", "generic")),
    ]
    assert None not in names and len(set(names)) == len(names)
    assert known() == names[0]


def test_settings_that_change_what_numba_is_store_nothing(
    known: Callable[..., str | None], tmp_path: Path
) -> None:
    assert known(setting=("NUMBA_DISABLE_JIT", "1")) is None
    (tmp_path / ".numba_config.yaml").write_text("opt: 0")
    assert known() is None


def test_without_numbas_files_or_on_another_system_nothing_is_stored(
    known: Callable[..., str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored.importlib.util, "find_spec", lambda package: None)
    stored.environment.cache_clear()
    assert stored.environment() is None
    monkeypatch.setattr(stored.sys, "platform", "darwin")
    stored.processor.cache_clear()
    assert stored.processor() is None
    monkeypatch.undo()
    stored.processor.cache_clear()


# ---- processes ------------------------------------------------------------------------------------------------------

WORK = """
import hashlib, sys, numpy as np
from crypto.kernels import blocks, masks, radix, text, blake2s, aes
from crypto.kernels.compiled import compile_seconds
state = hashlib.sha256()
def note(array): state.update(np.ascontiguousarray(array).tobytes())
x = aes.Generator(b"processes, two..").blocks(300); note(x)
out = np.empty_like(x); blocks.scale(x, x[:1].copy(), out); note(out)
masks.receiver_tags(out); note(out)
for each in radix.sort(x, np.arange(300)): note(each)
starts = np.arange(0, 4000, 40); data = np.ascontiguousarray(x).view(np.uint8).reshape(-1)
out = np.empty((100, 2), np.uint64)
blake2s.hash_spans(blake2s.start(16, b"test"), -1, data, starts, starts + 33, out); note(out)
small = np.empty_like(data); text.to_small(data, small); note(small)
print(state.hexdigest(), "numba" in sys.modules, compile_seconds() > 0)
"""


def started(cache: Path, portable: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        PORTABLE: portable,
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(cache),
    }
    return subprocess.Popen([sys.executable, "-c", WORK], env=environment, stdout=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    return out.split()


@pytest.mark.parametrize(("portable", "numba"), [("0", "False"), ("1", "True")])
def test_two_first_processes_at_once_and_a_next_one_that_compiles_nothing(
    portable: str, numba: str, tmp_path: Path
) -> None:
    both = [started(tmp_path, portable) for _ in range(2)]
    first, second = (told(process) for process in both)
    third = told(started(tmp_path, portable))
    assert first[0] == second[0] == third[0]
    # The portable cipher is a function of its own, whose callers ask it for errors: numba's cache has them.
    assert first[1:] == ["True", "True"] and third[1:] == [numba, "False"]
    left = [
        file.name for file in tmp_path.rglob("*") if file.is_file() and file.suffix not in (".nbi", ".nbc")
    ]
    assert left and not [name for name in left if name.startswith(".")]
