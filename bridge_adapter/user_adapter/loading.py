"""Finds the adapter class that `--adapter module.Class` names, and says in one sentence why it cannot be used."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import Any

_METHODS = ("set_session_context", "execute_tool")


class CannotLoad(Exception):
    """The adapter cannot be used; the message says why and what to do."""


def load(name: str) -> type[Any]:
    """The adapter class of that dotted name. Raises CannotLoad."""
    module_name, _, class_name = name.rpartition(".")
    if not module_name or not class_name:
        raise CannotLoad(f"--adapter {name}: give the class with its module, for example my_app.adapters.MyAdapter")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise CannotLoad(
                f"--adapter {name}: there is no module {error.name} in {sys.executable}; "
                "put its folder in PYTHONPATH (adapter_env), or install its package there"
            ) from None
        raise CannotLoad(f"--adapter {name}: importing {module_name} fails: {_told(error)}; install {error.name}") from error
    except BaseException as error:  # user code: it may even exit
        raise CannotLoad(f"--adapter {name}: importing {module_name} fails: {_told(error)}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = sorted(key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == module_name)
        known = f"the classes of {module_name} are {', '.join(classes[:10])}" if classes else f"name a class that {module_name} has"
        raise CannotLoad(f"--adapter {name}: {'it is no class' if found is not None else f'{module_name} has no {class_name}'}; {known}")
    missing = [method for method in _METHODS if not callable(getattr(found, method, None))]
    if missing:
        raise CannotLoad(f"--adapter {name}: the class has no {' and no '.join(missing)}; an adapter needs {' and '.join(_METHODS)}")
    return found


def _told(error: BaseException) -> str:
    """The exception and the line of the module where it came from."""
    place = ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith("<"):
            place = f" ({frame.filename}, line {frame.lineno})"
            break
    return f"{type(error).__name__}: {error}{place}"
