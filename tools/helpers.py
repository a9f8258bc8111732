"""`snakebridge.helpers` and call_type `helper`: small Python functions that a project keeps in files of its own.

A helper file names its functions in `__snakebridge_helpers__` (a dict), in a function `snakebridge_helpers()`, or in `HELPERS`. The files
of SnakeBridge's own pack come first, then those of the project; later files override earlier names. A changed file is loaded again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .registry import Payload, ToolContext, ToolError, invalid

_DOC_LIMIT = 8000
_DEFAULT_PATH = "priv/python/helpers"
# SnakeBridge keeps the helpers that it ships in a folder beside this module of its own.
_PACK_OWNER = "snakebridge_adapter"
_PACK = "helpers"

_loaded: dict[str, tuple[int, dict[str, Callable[..., Any]]]] = {}  # path -> (mtime in ns, helpers)


def index(payload: Payload, context: ToolContext) -> list[dict[str, Any]]:
    """All helpers by name, with their parameters and documentation."""
    config = payload.get("helper_config") or {key: value for key, value in payload.items() if key.startswith("helper_")}
    within = context.policy.helper_directories if context.policy is not None else None
    return [_describe(name, helper) for name, helper in sorted(_registry(config, within).items())]


def find(name: Any, config: Any, within: Sequence[str] | None = None) -> Callable[..., Any]:
    """The helper of that name; `within`: the directories in which its file must be. Raises ToolError helper_not_found."""
    helper = _registry(config, within).get(name) if isinstance(name, str) else None
    if helper is None:
        raise ToolError("helper_not_found", f"Helper '{name}' not found")
    return helper


def _registry(config: Any, within: Sequence[str] | None = None) -> dict[str, Callable[..., Any]]:
    if config is None:
        config = {}
    if not isinstance(config, dict):
        raise invalid(f"helper_config must be a map, not {type(config).__name__}")
    found: dict[str, Callable[..., Any]] = {}
    paths = _paths(config.get("helper_paths"))
    if within is not None:
        _refuse_outside(paths, within)
    for folder in (*_pack(config.get("helper_pack_enabled")), *paths):
        for file in _files(folder):
            found.update(_load(file))
    return _allowed(found, config.get("helper_allowlist"))


def _paths(paths: Any) -> list[Path]:
    """Where a project keeps its helpers; relative to the worker's working directory."""
    if paths is None:
        paths = _DEFAULT_PATH
    if isinstance(paths, str):
        paths = [paths]
    if not isinstance(paths, (list, tuple)) or not all(isinstance(path, str) for path in paths):
        raise invalid(f"helper_paths must be a string or a list of strings, not {str(paths)[:80]}")
    return [Path(path).absolute() for path in paths]


def _refuse_outside(paths: list[Path], directories: Sequence[str]) -> None:
    """A caller who names a file has its code run."""
    roots = [Path(directory).resolve() for directory in directories]
    for path in paths:
        if not any(path.resolve().is_relative_to(root) for root in roots):
            told = ", ".join(map(str, roots)) or "none"
            raise ToolError("permission_denied", f"helper_paths names {path}; the policy allows helpers from helper_directories: {told}")


def _pack(enabled: Any) -> list[Path]:
    """The folder of SnakeBridge's own helpers, when SnakeBridge is there. Its adapter is looked up and never imported: it would bring a
    second server into this process."""
    if enabled is None:
        enabled = True
    if not isinstance(enabled, bool):
        raise invalid(f"helper_pack_enabled must be true or false, not {str(enabled)[:80]}")
    if not enabled:
        return []
    try:
        spec = importlib.util.find_spec(_PACK_OWNER)
    except (ImportError, ValueError):  # ValueError: a module of that name is loaded and says not where from
        return []
    if spec is None or spec.origin is None:
        return []
    return [Path(spec.origin).absolute().parent / _PACK]


def _allowed(found: dict[str, Callable[..., Any]], allowlist: Any) -> dict[str, Callable[..., Any]]:
    if allowlist in (None, "all", ":all"):
        return found
    if not isinstance(allowlist, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in allowlist):
        raise invalid(f'helper_allowlist must be "all" or a list of names, not {str(allowlist)[:80]}')
    return {name: helper for name, helper in found.items() if name in allowlist}


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.glob("*.py") if not file.name.startswith("_")) if path.is_dir() else []


def _load(file: Path) -> dict[str, Callable[..., Any]]:
    key = str(file)
    changed = file.stat().st_mtime_ns
    known = _loaded.get(key)
    if known is not None and known[0] == changed:
        return known[1]
    name = f"snakebridge_helper_{hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ToolError("helper_load_error", f"Helper file {file} cannot be loaded: it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        helpers = _named(module)
    except Exception as error:
        raise ToolError("helper_load_error", f"Helper file {file} cannot be loaded: {type(error).__name__}: {error}") from error
    _loaded[key] = (changed, helpers)
    return helpers


def _named(module: Any) -> dict[str, Callable[..., Any]]:
    named = getattr(module, "__snakebridge_helpers__", None)
    if named is None and callable(getattr(module, "snakebridge_helpers", None)):
        named = module.snakebridge_helpers()
    if named is None:
        named = getattr(module, "HELPERS", {})
    if not isinstance(named, dict) or not all(callable(helper) for helper in named.values()):
        raise TypeError("its helpers must be a dict of names to functions")
    return {str(name): helper for name, helper in named.items()}


def _describe(name: str, helper: Callable[..., Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"name": name, "parameters": _parameters(helper)}
    doc = inspect.getdoc(helper)
    if doc:
        described["docstring"] = doc[:_DOC_LIMIT]
    return described


def _parameters(helper: Callable[..., Any]) -> list[dict[str, Any]]:
    try:
        signature = inspect.signature(helper)
    except (TypeError, ValueError):
        return []
    parameters = []
    for parameter in signature.parameters.values():
        item: dict[str, Any] = {"name": parameter.name, "kind": parameter.kind.name}
        if parameter.default is not inspect.Parameter.empty:
            item["default"] = repr(parameter.default)
        if parameter.annotation is not inspect.Parameter.empty:
            annotation = parameter.annotation
            item["annotation"] = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        parameters.append(item)
    return parameters
