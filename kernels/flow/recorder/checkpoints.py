"""Checkpoints: everything a run needs to go on as if it had never stopped, in one file that proves itself intact.

A checkpoint is an npz archive without pickle: arrays as .npy members and `header.json`, which holds the structure of the record, a SHA-256
of each array and one of itself. Records (named tuples, `pytrees.node` classes) are kept by their fields, so a file does not depend on where
a class lives; `restored` puts the fields back into a record of the same structure.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .columns import SCHEMA_VERSION
from .errors import CheckpointRefused
from .files import atomic, sync_folder

T = TypeVar("T")

FORMAT = "bridge_adapter.flow.checkpoint"
KEEP = 5
_HEADER = "header.json"
_NAME = re.compile(r"ckpt-(\d{6})-i(\d{9})-(red|amber|green)\.npz")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found intact. record: as it was saved, but named tuples and the like as dictionaries.

    damaged: of newer ones that were passed over, the file and what is wrong with it.
    """

    path: Path
    header: dict[str, Any]
    record: dict[str, Any]
    damaged: tuple[tuple[str, str], ...] = ()

    @property
    def iteration(self) -> int:
        return int(self.header["iteration"])


@dataclass(frozen=True)
class Saved:
    """Where a checkpoint went."""

    checkpoint_id: str
    file: str
    sha256: str
    iteration: int


class Checkpoints:
    """The checkpoints of one capsule: the newest `keep`, and the last one of a GREEN phase whatever its age."""

    def __init__(self, folder: Path, *, keep: int = KEEP) -> None:
        self.folder, self._keep = folder, keep

    def files(self) -> list[Path]:
        """From the newest to the oldest."""
        return sorted((path for path in self.folder.glob("ckpt-*.npz") if _NAME.fullmatch(path.name)), reverse=True)

    def save(self, record: Mapping[str, Any], header: Mapping[str, Any], before: Callable[[], None] = lambda: None) -> Saved:
        """Writes one and drops what is no longer kept. header: needs "iteration", "phase", "dtype" and "spec_digest". before: called when
        it is on the disk and does not count yet."""
        self.folder.mkdir(exist_ok=True)
        number = 1 + max((int(path.name[5:11]) for path in self.files()), default=0)
        path = self.folder / f"ckpt-{number:06d}-i{int(header['iteration']):09d}-{str(header['phase']).lower()}.npz"
        content = {**header, "checkpoint_id": path.stem}
        write(path, record, content, before)
        sync_folder(self.folder)
        self._drop()
        return self._told(path)

    def newest(self) -> Saved | None:
        """Where the last one went; None where there is none."""
        files = self.files()
        return self._told(files[0]) if files else None

    def _told(self, path: Path) -> Saved:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Saved(path.stem, f"{self.folder.name}/{path.name}", digest, int(path.stem.split("-")[2][1:]))

    def _drop(self) -> None:
        files = self.files()
        green = [path for path in files if path.stem.endswith("green")][:1]
        for path in files[self._keep :]:
            if path not in green:
                path.unlink(missing_ok=True)

    def load_latest(self, *, dtype: str | None = None, spec_digest: str | None = None, green: bool = False) -> Checkpoint:
        """The newest intact one. A damaged one is passed over with a warning; one of another version, dtype or spec is refused.

        green: only of a GREEN phase. Raises CheckpointRefused.
        """
        damaged: list[tuple[str, str]] = []
        for path in self.files():
            if green and not path.stem.endswith("green"):
                continue
            try:
                found = read(path)
            except Damaged as error:
                damaged.append((path.name, str(error)[:2000]))
                warnings.warn(f"the checkpoint {path} is damaged ({error}); taking the one before", RuntimeWarning, stacklevel=2)
                continue
            agree(found, dtype=dtype, spec_digest=spec_digest)
            return dataclasses.replace(found, damaged=tuple(damaged))
        told = f"all are damaged: {', '.join(name for name, _ in damaged)}" if damaged else "there is none"
        cure = "Restore one from a copy, or start a run anew, under another name if it has one"
        raise CheckpointRefused(f"{self.folder} has no {'GREEN ' if green else ''}checkpoint to go on from: {told}. {cure}")


class Damaged(Exception):
    """A checkpoint whose bytes are not what was written."""


def agree(found: Checkpoint, *, dtype: str | None = None, spec_digest: str | None = None) -> None:
    """Raises CheckpointRefused unless a checkpoint is of this schema version, dtype and spec."""
    told = found.header
    if told.get("schema_version") != SCHEMA_VERSION:
        raise CheckpointRefused(f"{found.path} has schema version {told.get('schema_version')!r}; this software reads {SCHEMA_VERSION!r}")
    if dtype is not None and told["dtype"] != dtype:
        raise CheckpointRefused(
            f"{found.path} was computed in {told['dtype']}, the flow computes in {dtype}; a checkpoint is never converted"
        )
    if spec_digest is not None and told["spec_digest"] != spec_digest:
        raise CheckpointRefused(
            f"{found.path} is of the spec {str(told['spec_digest'])[:12]}..., this spec is {spec_digest[:12]}...: terms or data have "
            "changed. Resume with the spec of the run, or start a new run from its state"
        )


def write(path: Path, record: Mapping[str, Any], header: Mapping[str, Any], before: Callable[[], None] = lambda: None) -> None:
    """Writes a checkpoint, all or nothing; before: see `files.atomic`. Raises CheckpointRefused for what a record cannot hold."""
    arrays = _Arrays()
    structure = _encoded(record, arrays, "record")
    content = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        **header,
        "structure": structure,
        "arrays": arrays.described,
    }
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    with atomic(path, before) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number, array in enumerate(arrays.kept):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.writestr(_HEADER, json.dumps({"content": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint and proves it intact. Raises Damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            sealed = json.loads(archive.read(_HEADER))
            if hashlib.sha256(sealed["content"].encode()).hexdigest() != sealed["sha256"]:
                raise Damaged("its header does not match its checksum")
            header = json.loads(sealed["content"])
            if header.get("format") != FORMAT:
                raise Damaged("it is no checkpoint of a flow")
            arrays = []
            for number, expected in enumerate(header["arrays"]):
                with archive.open(f"{number}.npy") as member:
                    array = np.lib.format.read_array(member, allow_pickle=False)
                if _described(array) != expected:
                    raise Damaged(f"array {number} does not match its checksum")
                arrays.append(array)
    except Damaged:
        raise
    except Exception as error:  # a flipped bit makes an archive encrypted, of a method unknown, of 2^60 numbers, ...
        raise Damaged(f"{type(error).__name__}: {error}") from error
    return Checkpoint(
        path, {key: value for key, value in header.items() if key not in ("structure", "arrays")}, _decoded(header["structure"], arrays)
    )


def _described(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest() if array.size else ""
    return {"shape": list(array.shape), "dtype": array.dtype.str, "sha256": digest}


class _Arrays:
    """The arrays of a record, each once: where a run stands is also a part of its solver's state."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray[Any, Any]] = []
        self.described: list[dict[str, Any]] = []
        self._places: dict[str, int] = {}

    def place(self, array: np.ndarray[Any, Any]) -> int:
        """The number of the array."""
        told = _described(array)
        number = self._places.setdefault(json.dumps(told), len(self.kept))
        if number == len(self.kept):
            self.kept.append(array)
            self.described.append(told)
        return number


def _encoded(value: Any, arrays: _Arrays, path: str) -> Any:
    """A record as JSON, its arrays taken out. Only JSON's own values and lists stand for themselves."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and not isinstance(value, np.generic):
        return value if np.isfinite(value) else {"is": "float", "value": repr(value)}
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) for key in value):
            raise CheckpointRefused(f"{path} has a key that is no string; a checkpoint keeps dictionaries by string keys")
        return {"is": "dict", "items": {key: _encoded(item, arrays, f"{path}.{key}") for key, item in value.items()}}
    if isinstance(value, list):
        return [_encoded(item, arrays, f"{path}[{at}]") for at, item in enumerate(value)]
    if (fields := _fields(value)) is not None:
        return {"is": "record", "fields": {name: _encoded(getattr(value, name), arrays, f"{path}.{name}") for name in fields}}
    if isinstance(value, tuple):
        return {"is": "tuple", "items": [_encoded(item, arrays, f"{path}[{at}]") for at, item in enumerate(value)]}
    if (key := _key_data(value)) is not None:
        return {"is": "key", "impl": key[0], "at": arrays.place(key[1])}
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise CheckpointRefused(f"{path} is an array of {array.dtype}; a checkpoint keeps arrays of numbers and flags")
        return {"is": "array", "at": arrays.place(array)}
    raise CheckpointRefused(f"{path} is of type {type(value).__name__}; a checkpoint keeps arrays, records and plain data")


def _decoded(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, list):
        return [_decoded(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    match value["is"]:
        case "dict":
            return {key: _decoded(item, arrays) for key, item in value["items"].items()}
        case "record":
            return {key: _decoded(item, arrays) for key, item in value["fields"].items()}
        case "tuple":
            return tuple(_decoded(item, arrays) for item in value["items"])
        case "float":
            return float(value["value"])
        case "key":
            import jax

            return jax.random.wrap_key_data(jax.numpy.asarray(arrays[value["at"]]), impl=value["impl"])
        case _:
            return arrays[value["at"]]


def _fields(value: Any) -> list[str] | None:
    """The fields of a record that hold data: of a named tuple all, of a `pytrees.node` those that are not structure."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(value._fields)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in dataclasses.fields(value) if not field.metadata.get("static")]
    return None


def _key_data(value: Any) -> tuple[str, np.ndarray[Any, Any]] | None:
    """The generator and the bits of a typed JAX random key; None for anything else."""
    if not str(getattr(value, "dtype", "")).startswith("key<"):
        return None
    import jax

    return str(jax.random.key_impl(value)), np.asarray(jax.random.key_data(value))


def restored(like: T, saved: Any, path: str = "record") -> T:
    """What was saved, as a record of the structure of `like`: types and static fields from `like`, all numbers from the checkpoint.

    Raises CheckpointRefused where a shape, a dtype or the structure differs, and names the place.
    """
    made: Any
    if (fields := _fields(like)) is not None:
        if not isinstance(saved, dict) or set(saved) != set(fields):
            raise CheckpointRefused(
                f"{path} has the fields {_told(saved)}; the flow's has {', '.join(fields)}: another solver or another version"
            )
        values = {name: restored(getattr(like, name), saved[name], f"{path}.{name}") for name in fields}
        made = like._replace(**values) if isinstance(like, tuple) else dataclasses.replace(like, **values)  # type: ignore[attr-defined,type-var]
    elif isinstance(like, Mapping):
        if not isinstance(saved, dict) or set(saved) != set(like):
            raise CheckpointRefused(f"{path} has {_told(saved)}; the flow's has {', '.join(map(str, like))}")
        made = {key: restored(item, saved[key], f"{path}.{key}") for key, item in like.items()}
    elif isinstance(like, (list, tuple)):
        if not isinstance(saved, (list, tuple)) or len(saved) != len(like):
            raise CheckpointRefused(f"{path} has {_told(saved)}; the flow's has {len(like)} items")
        made = type(like)(restored(item, saved[at], f"{path}[{at}]") for at, item in enumerate(like))
    elif _key_data(like) is not None:
        made = saved
    elif hasattr(like, "__array__"):
        array = np.asarray(saved)
        if array.shape != np.shape(like) or array.dtype != np.dtype(like.dtype):  # type: ignore[arg-type,attr-defined]
            raise CheckpointRefused(f"{path} is {array.dtype}{list(array.shape)}; the flow's is {like.dtype}{list(np.shape(like))}")  # type: ignore[attr-defined,arg-type]
        made = array
    else:
        made = saved
    return made  # type: ignore[no-any-return]


def _told(saved: Any) -> str:
    return ", ".join(map(str, saved)) if isinstance(saved, dict) else f"a {type(saved).__name__}"
