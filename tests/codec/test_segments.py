"""Segments of shared memory: the same pages on both sides, nothing outside the directory, nothing left behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from bridge_adapter.codec import DecodeError
from bridge_adapter.codec.marks import MARKS, NDARRAY, SEGMENT
from bridge_adapter.codec.packed import Packer, Unpacker
from bridge_adapter.codec.segments import Outlet, Segments

MANY = (1 << 30, 1024)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def outlet(directory: Path) -> Iterator[Outlet]:
    yield Outlet(Segments(str(directory)))


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def sent(outlet: Outlet, value: Any, allowed: tuple[int, int] | None = MANY) -> bytes:
    outlet.allow(allowed)
    return Packer(segments=outlet).pack(value)


def received(outlet: Outlet, data: bytes) -> Any:
    return Unpacker(segments=outlet).unpack(data)


def named(name: Any, offset: Any = 0, length: Any = 8) -> bytes:
    return Packer().pack([MARKS[NDARRAY], "float64", [1], [MARKS[SEGMENT], name, offset, length]])


def maps(path: Path) -> bool:
    inode = f" {path.stat().st_ino} "
    return any(inode in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize(
    "array",
    [
        np.arange(1000.0),
        np.arange(6000, dtype=np.int16).reshape(2, 30, 100),
        np.asfortranarray(np.arange(1200.0).reshape(30, 40)),
        np.arange(1000, dtype=">f8"),
        np.arange(0, 4000, 2)[::-2],
        np.zeros(200, [("a", "<i4"), ("b", "<f8")]),
        np.array(["x" * 300] * 4),
    ],
)
def test_arrays_come_back_as_they_were_on_the_pages_of_their_segment(outlet: Outlet, directory: Path, array: Any) -> None:
    data = sent(outlet, [array])
    (name,) = names(directory)
    assert len(data) < 400
    (back,) = received(outlet, data)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    assert not back.flags.writeable
    assert maps(directory / name)
    with pytest.raises(ValueError, match="read-only"):
        back[...] = 0


@pytest.mark.parametrize("table", [pa.table({"x": range(1000), "name": ["n"] * 1000}), pa.array(range(1000))])
def test_tables_are_read_from_their_segment(outlet: Outlet, directory: Path, table: Any) -> None:
    back = received(outlet, sent(outlet, table))
    assert back.equals(table)
    before = pa.total_allocated_bytes()
    held = [received(outlet, sent(outlet, table)) for _ in range(3)]
    assert pa.total_allocated_bytes() - before < 3 * 1000
    assert len(held) == 3


def test_bytes_are_a_read_only_view(outlet: Outlet, directory: Path) -> None:
    (directory / "s1").write_bytes(b"abcdef")
    view = received(outlet, Packer().pack([[MARKS[SEGMENT], "s1", 2, 3]]))[0]
    assert bytes(view) == b"cde"
    assert view.readonly
    (directory / "s2").write_bytes(b"")
    assert bytes(received(outlet, Packer().pack([MARKS[SEGMENT], "s2", 0, 0]))) == b""


def test_segments_are_private(outlet: Outlet, directory: Path) -> None:
    sent(outlet, np.zeros(1000))
    (path,) = directory.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.name.startswith(f"w{os.getpid()}-")


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_may_enter_is_refused(directory: Path, mode: int) -> None:
    directory.chmod(mode)
    with pytest.raises(PermissionError, match="mode 0700"):
        Segments(str(directory))


def test_what_passes_through_is_answered_by_its_own_segment(outlet: Outlet, directory: Path) -> None:
    data = sent(outlet, np.arange(1000.0))
    view = received(outlet, data)
    assert sent(outlet, view) == data
    part = received(outlet, sent(outlet, view[10:12]))
    assert part.tolist() == [10.0, 11.0]
    assert np.shares_memory(part, view)
    assert len(names(directory)) == 1
    copy = received(outlet, sent(outlet, view + 1))
    assert copy[0] == 1.0
    assert len(names(directory)) == 2


def test_a_view_outlives_its_segment_and_is_then_a_value_of_its_own(outlet: Outlet, directory: Path) -> None:
    data = sent(outlet, np.arange(1000.0))
    view = received(outlet, data)
    outlet.settle()
    assert names(directory) == []
    assert view.sum() == 499500.0
    again = received(outlet, sent(outlet, view))
    assert len(names(directory)) == 1
    np.testing.assert_array_equal(view, again)
    del view
    with pytest.raises(DecodeError, match="is no longer there"):
        received(outlet, data)


def test_a_name_that_is_used_again_means_the_new_segment(outlet: Outlet, directory: Path) -> None:
    path = directory / "s1"
    path.write_bytes(b"old")
    old = outlet.open("s1", 0, 3)
    path.unlink()
    path.write_bytes(b"new")
    assert bytes(outlet.open("s1", 0, 3)) == b"new"
    assert bytes(old) == b"old"


def test_mappings_end_with_the_last_view(outlet: Outlet, directory: Path) -> None:
    data = sent(outlet, np.arange(1000.0))
    first, second = received(outlet, data), received(outlet, data)
    path = next(directory.iterdir())
    assert np.shares_memory(first, second)
    del first
    assert maps(path)
    del second
    assert not maps(path)


def test_only_what_is_large_and_allowed_leaves_the_message(outlet: Outlet, directory: Path) -> None:
    array = np.zeros(1000)
    inline = Packer().pack(array)
    assert sent(outlet, array, None) == inline
    assert sent(outlet, array, (1 << 30, 8001)) == inline
    assert sent(outlet, array, (7999, 0)) == inline
    assert names(directory) == []
    assert len(sent(outlet, array, (8000, 8000))) < 100
    # Two fit, the third stays.
    assert len(sent(outlet, [array] * 3, (20_000, 1))) > 8000
    assert len(names(directory)) == 3


def test_a_full_disk_leaves_the_value_in_the_message(outlet: Outlet, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    array = np.zeros(1000)
    monkeypatch.setattr(os, "write", full)
    data = sent(outlet, array)
    monkeypatch.undo()
    assert data == Packer().pack(array)
    assert names(directory) == []


def test_without_shared_memory_a_segment_is_refused() -> None:
    with pytest.raises(DecodeError, match="shared"):
        Unpacker().unpack(named("s1"))


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "", ".", "..", "a/b", "a" * 65, "a\0b", ".hidden", "ünicode", 7, None, b"s1", ["s1"], -1],
)
def test_names_that_lead_elsewhere_are_refused(outlet: Outlet, directory: Path, name: Any) -> None:
    (directory.parent / "x").write_bytes(b"12345678")
    with pytest.raises(DecodeError, match="plain file name"):
        received(outlet, named(name))


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        (0, 17, "has 16"),
        (9, 8, "has 16"),
        (1 << 62, 8, "has 16"),
        (8, 1 << 62, "has 16"),
        (-8, 8, ">= 0"),
        (0, -8, ">= 0"),
        (0.0, 8, ">= 0"),
        (0, "8", ">= 0"),
        (True, 8, ">= 0"),
    ],
)
def test_parts_beyond_the_segment_are_refused(outlet: Outlet, directory: Path, offset: Any, length: Any, message: str) -> None:
    (directory / "s1").write_bytes(bytes(16))
    with pytest.raises(DecodeError, match=message):
        received(outlet, named("s1", offset, length))


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "missing"])
def test_what_is_no_plain_file_is_refused(outlet: Outlet, directory: Path, kind: str) -> None:
    secret = directory.parent / "secret"
    secret.write_bytes(b"12345678")
    match kind:
        case "symlink":
            (directory / "s1").symlink_to(secret)
        case "fifo":
            os.mkfifo(directory / "s1")
        case "directory":
            (directory / "s1").mkdir()
    with pytest.raises(DecodeError, match="s1"):
        received(outlet, named("s1"))


@pytest.mark.parametrize("parts", [[], ["s1"], ["s1", 0], ["s1", 0, 8, 8]])
def test_a_segment_of_other_parts_is_refused(outlet: Outlet, parts: list[Any]) -> None:
    with pytest.raises(DecodeError, match="a name, an offset and a length"):
        received(outlet, Packer().pack([MARKS[SEGMENT], *parts]))


def test_a_segment_is_renewed_only_when_nobody_maps_it(outlet: Outlet, directory: Path) -> None:
    path = directory / "s1"
    path.write_bytes(bytes(8192))
    view = outlet.open("s1", 0, 8)
    assert outlet.segments.renew("s1", "s2") is False
    assert bytes(view) == bytes(8)
    del view
    assert names(directory) == ["s2"]
    assert outlet.segments.renew("s2", "s3") is True
    assert names(directory) == ["s3"]
    assert outlet.segments.renew("s3", "../s4") is False
    assert outlet.segments.renew("s9", "s4") is False
    assert names(directory) == ["s3"]


def test_jax_takes_a_view(outlet: Outlet) -> None:
    import jax.numpy as jnp

    view = received(outlet, sent(outlet, np.arange(1000, dtype=np.float32)))
    assert float(jnp.asarray(view).sum()) == 499500.0


def test_threads_share_a_directory(directory: Path) -> None:
    segments = Segments(str(directory))
    failures: list[BaseException] = []

    def work(number: int) -> None:
        mine = Outlet(segments)
        try:
            for round in range(50):
                array = np.full(1000, number * 1000 + round)
                view = received(mine, sent(mine, array))
                np.testing.assert_array_equal(view, array)
                mine.settle()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert names(directory) == []
