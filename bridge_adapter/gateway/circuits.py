"""Circuit breakers for functions that take the executor down: one per function, from its first crash until it is quiet again.

A crash is a function's when it ran alone, or together with calls of the same function only. Who has sent the signal does not matter: a
function most of whose calls succeed opens no breaker.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from bridge_adapter import errors
from bridge_adapter.breaker import Breaker, Permit, Settings, State
from bridge_adapter.gateway.refusals import refusal

if TYPE_CHECKING:
    from bridge_adapter.gateway.parameters import Asked

MOST = 1024  # functions that are watched at a time; the one that crashed longest ago is forgotten first
_LONGEST = 256  # bytes of a name

# The tool, and the JSON texts of module and function.
Function = tuple[str, bytes, bytes]


def function_of(call: Asked) -> Function:
    """What a call calls."""
    text = call.texts.get
    module = text("python_module") or text("module_path") or text("module") or b""
    function = text("function") or text("method") or text("attr") or text("helper") or b""
    return call.tool, module[:_LONGEST], function[:_LONGEST]


def spoken(function: Function) -> str:
    """Its name in words: `module.function`, or the tool where there is none."""
    tool, module, name = function
    named = ".".join(part.decode("utf-8", "replace").strip('"') for part in (module, name) if part)
    return named or tool


class Circuits:
    """The breakers of all functions. `opened` hears of each that opens: what for, and the seconds."""

    def __init__(self, settings: Settings, opened: Callable[[str, float], None]) -> None:
        self._settings = settings
        self._opened = opened
        self._breakers: OrderedDict[Function, Breaker] = OrderedDict()

    @property
    def rejected(self) -> int:
        """Calls that the present breakers have refused."""
        return sum(breaker.rejected for breaker in self._breakers.values())

    def admit(self, call: Asked) -> Permit | None:
        """Leave for a call; None where its function has done nothing. Raises LaneError (`circuit_open`)."""
        if not self._breakers:
            return None
        function = function_of(call)
        breaker = self._breakers.get(function)
        if breaker is None:
            return None
        if breaker.quiet:
            del self._breakers[function]
            return None
        permit = breaker.admit()
        if permit is None:
            seconds = breaker.retry_after
            settings = self._settings
            raise refusal(
                errors.CircuitOpen(
                    f"{spoken(function)} has taken the Python worker down {settings.failures} times within {settings.window:g} s, with "
                    f"more than {settings.rate:.0%} of its calls meanwhile, and is not called for {settings.open_for:g} s; this call was "
                    "not begun. Find out why it crashes (the errors before this one have its last words), or raise --breaker-failures or "
                    "--breaker-rate",
                    retry_after_ms=int(seconds * 1000) + 1,
                    rejected=breaker.rejected,
                )
            )
        return permit

    def is_open(self, call: Asked) -> bool:
        """True while nothing of that function is run."""
        breaker = self._breakers.get(function_of(call))
        return breaker is not None and breaker.state is State.OPEN

    def survived(self, call: Asked) -> None:
        """A call that was admitted before its function had done anything has ended well."""
        breaker = self._breakers.get(function_of(call))
        if breaker is not None:
            breaker.succeeded()

    def crashed(self, function: Function) -> None:
        """The function has taken an executor down."""
        if not self._settings.failures:
            return
        breaker = self._breakers.get(function)
        if breaker is None:
            if len(self._breakers) >= MOST:
                self._breakers.popitem(last=False)
            breaker = self._breakers[function] = Breaker(self._settings)
        self._breakers.move_to_end(function)
        if breaker.failed():
            self._opened(spoken(function), self._settings.open_for)
