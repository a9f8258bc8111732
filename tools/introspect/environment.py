"""What the descriptions hold for: this Python, the adapter, and the installed distributions behind the libraries."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import sys
import sysconfig
from pathlib import Path
from typing import Any

_SOURCE_LABELS = ("source", "source code", "repository", "github", "code", "homepage", "home", "home-page")


def python() -> dict[str, str]:
    """This Python, as the lock file names it."""
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": sysconfig.get_platform(),
        "executable": sys.executable,
    }


def adapter() -> str:
    """The version of this package."""
    try:
        return importlib.metadata.version("bridge-adapter")
    except importlib.metadata.PackageNotFoundError:
        return "0"


@functools.cache
def _top_levels() -> dict[str, list[str]]:
    return {name: sorted(set(found)) for name, found in importlib.metadata.packages_distributions().items()}


@functools.cache
def distribution(library: str) -> tuple[str, str] | None:
    """Name and version of the distribution that a library comes from; None for the standard library and for the project's own files."""
    top = library.partition(".")[0]
    if top in sys.stdlib_module_names:
        return None
    for name in (top, *_top_levels_if_needed(top)):
        try:
            found = importlib.metadata.distribution(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue
        return found.metadata["Name"] or name, found.version
    return None


def _top_levels_if_needed(top: str) -> list[str]:
    """Distributions that hold a package of another name than theirs: all of them have to be looked at, so this comes second."""
    try:
        importlib.metadata.distribution(top)
    except importlib.metadata.PackageNotFoundError:
        return _top_levels().get(top, [])
    return []


def own_files(library: str) -> list[str]:
    """The loaded sources, with their stubs, of a library that is no installed package but the project's own: they change. Sorted."""
    top = library.partition(".")[0]
    if top in sys.stdlib_module_names or not _is_own(library):
        return []
    files: set[str] = set()
    for name, module in list(sys.modules.items()):
        source = getattr(module, "__file__", None) if name == top or name.startswith(f"{top}.") else None
        if isinstance(source, str) and source.endswith(".py"):
            files.update(path for path in (source, f"{source}i") if Path(path).is_file())
    return sorted(files)


def _is_own(library: str) -> bool:
    found = distribution(library)
    if found is None:
        return True
    try:
        origin = json.loads(importlib.metadata.distribution(found[0]).read_text("direct_url.json") or "{}")
        return bool(origin.get("dir_info", {}).get("editable"))
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        return False


@functools.cache
def source_url(library: str) -> str | None:
    """Where the source of a library is, as its distribution says; for the standard library its page in the manual of this version."""
    top = library.partition(".")[0]
    if top in sys.stdlib_module_names:
        return f"https://docs.python.org/{sys.version_info.major}.{sys.version_info.minor}/library/{library}.html"
    found = distribution(library)
    if found is None:
        return None
    metadata: Any = importlib.metadata.metadata(found[0])
    urls = {}
    for entry in metadata.get_all("Project-URL") or ():
        label, _, url = str(entry).partition(",")
        urls[label.strip().lower()] = url.strip()
    for label in _SOURCE_LABELS:
        if urls.get(label, "").startswith("http"):
            return urls[label]
    home = metadata.get("Home-page")
    return str(home) if home and str(home).startswith("http") else None
