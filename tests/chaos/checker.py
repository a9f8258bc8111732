"""Judges a history: every rule that the documentation promises, as a pure function from what is known of a run to what is wrong with it.

It believes nobody: whether a call ran is known from what its user code left behind, never from what was answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from history import Effect, History, Operation, Window

# What may go wrong for a caller while processes die, freeze and run out of everything. Whatever else comes is a fault of ours.
EXPECTED = frozenset(
    {
        "worker_crash",
        "timeout",
        "cancelled",
        "unavailable",
        "worker_start",
        "session_lost",
        "overloaded",
        "circuit_open",
        "memory_limit",
        "python_error",
        "callback_gone",
    }
)
# What user code may meet: no files, no memory, no threads.
EXPECTED_TYPES = ("OSError", "MemoryError", "RuntimeError")
SHORTAGES = ("Too many open files", "Cannot allocate memory", "No space left on device", "File too large", "can't start new thread")


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise that was broken."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@dataclass(slots=True)
class Run:
    """One execution of user code. It lasts until its end, or as long as its worker shows that it lives."""

    run: str
    effect: str
    worker: str
    began: int
    ended: int | None = None
    whole: bool = False


class Evidence:
    """A history, sorted for the rules."""

    def __init__(self, history: History) -> None:
        self.operations = history.operations
        self.windows = history.windows
        self._effects = history.effects

    @cached_property
    def runs(self) -> dict[str, list[Run]]:
        """The executions of each effect, in the order in which they began."""
        last: dict[str, int] = {}
        open_runs: dict[str, Run] = {}
        found: dict[str, list[Run]] = defaultdict(list)
        for effect in self._effects:
            last[effect.worker] = effect.at
            if effect.phase == "begin":
                open_runs[effect.run] = begun = Run(effect.run, effect.effect, effect.worker, effect.at)
                found[effect.effect].append(begun)
            elif (ending := open_runs.pop(effect.run, None)) is not None:
                ending.ended, ending.whole = effect.at, effect.phase == "end"
        for lasting in open_runs.values():
            lasting.ended = last[lasting.worker]
        return found

    @cached_property
    def by_target(self) -> dict[str, list[Operation]]:
        """The operations on each key and object."""
        found: dict[str, list[Operation]] = defaultdict(list)
        for operation in self.operations:
            found[operation.target].append(operation)
        return found

    def of(self, *kinds: str) -> Iterator[Operation]:
        return (operation for operation in self.operations if operation.kind in kinds)

    def licensed(self, begins: int, ends: int, *kinds: str) -> bool:
        """Whether the journal had a licence of one of these kinds at any time between."""
        return any(window.kind in kinds and _meets(window, begins, ends) for window in self.windows)


def _meets(window: Window, begins: int, ends: int) -> bool:
    return window.begins <= ends and begins <= window.ends


Rule = Callable[[Evidence], Iterator[str]]


def check(history: History) -> list[Violation]:
    """What is wrong with a history: nothing, if all is well."""
    evidence = Evidence(history)
    return [Violation(rule.__name__, text) for rule in RULES for text in rule(evidence)]


def every_answer_belongs_to_its_call(evidence: Evidence) -> Iterator[str]:
    for operation in evidence.operations:
        if not operation.answered:
            continue
        value, whose = operation.value, operation.target
        match operation.kind:
            case "plain" | "idempotent" | "keyed" | "append":
                right = isinstance(value, list) and len(value) == 2 and value[0] == whose
            case "ask":
                right = value == [whose, whose]
            case "share":
                right = value == [whose, "same"]
            case "stream":
                right = all(isinstance(item, list) and item[0] == whose for item in value)
            case _:
                right = True
        if not right:
            yield f"{_name(operation)} was answered {value!r}"


def acknowledged_effects_are_there_once(evidence: Evidence) -> Iterator[str]:
    for operation in evidence.of("plain"):
        runs = evidence.runs.get(operation.target, [])
        if len(runs) > 1:
            yield f"{_name(operation)} ran {len(runs)} times, without being idempotent: {_list(runs)}"
        if operation.answered and not any(run.whole and run.run == operation.value[1] for run in runs):
            yield f"{_name(operation)} was acknowledged with {operation.value!r}, but what ran is {_list(runs)}"


def what_had_not_started_never_happened(evidence: Evidence) -> Iterator[str]:
    for operation in evidence.of("plain", "idempotent"):
        if operation.verdict == "fail" and (runs := evidence.runs.get(operation.target)):
            yield f"{_name(operation)} had not started ({operation.category}: {operation.message}), but it ran: {_list(runs)}"


def idempotent_answers_come_from_a_whole_run(evidence: Evidence) -> Iterator[str]:
    for operation in evidence.of("idempotent", "keyed"):
        if operation.answered:
            runs = evidence.runs.get(operation.target, [])
            if not any(run.whole and run.run == operation.value[1] for run in runs):
                yield f"{_name(operation)} was answered {operation.value!r}, but what ran is {_list(runs)}"


def attempts_are_told_honestly(evidence: Evidence) -> Iterator[str]:
    for operation in evidence.of("idempotent"):
        runs = evidence.runs.get(operation.target, [])
        if operation.answered and operation.attempts is not None and len(runs) > operation.attempts:
            yield f"{_name(operation)} says that it took {operation.attempts} attempts, but it ran {len(runs)} times: {_list(runs)}"


def one_key_has_one_answer(evidence: Evidence) -> Iterator[str]:
    for operations in _by_key(evidence):
        good = [operation for operation in operations if operation.answered and not _grey(operation, evidence)]
        for before, after in pairwise(good):
            if before.value != after.value and not evidence.licensed(before.invoked, _done(after), "forgotten"):
                yield f"{_name(before)} was answered {before.value!r}, and {_name(after)} {after.value!r}"


def an_answered_key_never_runs_again(evidence: Evidence) -> Iterator[str]:
    for operations in _by_key(evidence):
        good = [operation for operation in operations if operation.answered and not _grey(operation, evidence)]
        for run in evidence.runs.get(operations[0].target, []):
            earlier = next((one for one in good if _done(one) < run.began), None)
            if earlier is not None and not evidence.licensed(earlier.invoked, run.began, "forgotten"):
                yield f"{_name(earlier)} was answered, and {run.run} ran under that key {(run.began - _done(earlier)) / 1e6:.3f} s later"
                break


def one_key_runs_one_at_a_time(evidence: Evidence) -> Iterator[str]:
    for operations in _by_key(evidence):
        key = operations[0].target
        for before, after in pairwise(evidence.runs.get(key, [])):
            assert before.ended is not None
            # A worker that could write nothing has not told its end either.
            if after.began < before.ended and not evidence.licensed(before.began, before.ended, "forgotten", "unrecorded"):
                yield f"the key {key} ran twice at once: {_list([before, after])}"


def keys_of_one_call_never_conflict(evidence: Evidence) -> Iterator[str]:
    for operation in evidence.of("keyed"):
        if operation.category == "idempotency_conflict":
            yield f"{_name(operation)}: {operation.message}"


def objects_keep_what_was_acknowledged(evidence: Evidence) -> Iterator[str]:
    """Objects in sessions: appends are there once, in order, and on the object that they were made on."""
    for target, operations in evidence.by_target.items():
        appends = [operation for operation in operations if operation.kind == "append"]
        known = {operation.op: operation for operation in appends}
        answered = sorted((one for one in appends if one.answered and one.value[0] == target), key=lambda one: len(one.value[1]))
        for operation in answered:
            held = operation.value[1]
            if held[-1:] != [operation.op] or len(set(held)) != len(held):
                yield f"{_name(operation)} on {target} gave {held!r}: its own entry belongs there once, at the end"
            if strange := [one for one in held if one not in known or known[one].verdict == "fail"]:
                yield f"{_name(operation)} on {target} gave entries that were never made on it: {strange!r}"
            if lost := [one.op for one in answered if _done(one) < operation.invoked and one.op not in held]:
                yield f"{_name(operation)} on {target} gave {held!r}, without the acknowledged {lost!r}"
        for shorter, longer in pairwise(answered):
            if longer.value[1][: len(shorter.value[1])] != shorter.value[1]:
                yield f"{target} was {shorter.value[1]!r} for {_name(shorter)} and {longer.value[1]!r} for {_name(longer)}"


def streams_bring_every_item_once(evidence: Evidence) -> Iterator[str]:
    for operation in evidence.of("stream"):
        items = operation.value or []
        if [item[1] for item in items] != list(range(len(items))) or len({item[2] for item in items}) > 1:
            yield f"{_name(operation)} brought {items!r}: one run, from 0 on, without a gap"
        if operation.answered and operation.wanted is not None and len(items) != operation.wanted:
            yield f"{_name(operation)} ended well after {len(items)} of {operation.wanted} items"
        if operation.verdict == "fail" and evidence.runs.get(operation.target):
            yield f"{_name(operation)} had not started, but it ran"


def errors_are_those_of_the_faults(evidence: Evidence) -> Iterator[str]:
    for operation in evidence.operations:
        category, kind = operation.category, (operation.error_type or "").rpartition(".")[2]
        if category is None or category == "idempotency_conflict" or any(shortage in operation.message for shortage in SHORTAGES):
            continue
        if category not in EXPECTED or (category == "python_error" and kind not in EXPECTED_TYPES):
            yield f"{_name(operation)} ended with {category} {operation.error_type or ''}: {operation.message}"


def every_call_ends(evidence: Evidence) -> Iterator[str]:
    """A caller hears something, unless he dies first: then his process makes no further call."""
    latest = {operation.process: operation for operation in evidence.operations}
    for operation in evidence.operations:
        if operation.done is None and latest[operation.process] is not operation:
            yield f"{_name(operation)} never ended, and its caller went on"


def the_next_call_works(evidence: Evidence) -> Iterator[str]:
    """When all faults are over. Whoever was told when to come again has to be answered then."""
    calm = [operation for operation in evidence.operations if operation.calm]
    answered = {(operation.process, operation.kind): operation.invoked for operation in calm if operation.answered}
    for operation in calm:
        later = answered.get((operation.process, operation.kind if operation.kind != "make" else "append"), 0) > operation.invoked
        if not operation.answered and not (operation.retry_after_ms is not None and later):
            yield f"{_name(operation)} was made when all faults were over, and ended with {operation.category}: {operation.message}"


RULES: tuple[Rule, ...] = (
    every_answer_belongs_to_its_call,
    acknowledged_effects_are_there_once,
    what_had_not_started_never_happened,
    idempotent_answers_come_from_a_whole_run,
    attempts_are_told_honestly,
    one_key_has_one_answer,
    an_answered_key_never_runs_again,
    one_key_runs_one_at_a_time,
    keys_of_one_call_never_conflict,
    objects_keep_what_was_acknowledged,
    streams_bring_every_item_once,
    errors_are_those_of_the_faults,
    every_call_ends,
    the_next_call_works,
)


def _by_key(evidence: Evidence) -> Iterator[list[Operation]]:
    for operations in evidence.by_target.values():
        if operations[0].kind == "keyed":
            yield sorted(operations, key=_done)


def _grey(operation: Operation, evidence: Evidence) -> bool:
    """Whether it was answered while the journal had a licence."""
    return evidence.licensed(operation.invoked, _done(operation), "forgotten", "unrecorded")


def _done(operation: Operation) -> int:
    return operation.done if operation.done is not None else 1 << 62


def _name(operation: Operation) -> str:
    target = "" if operation.target == operation.op else f" of {operation.target}"
    return f"{operation.kind} {operation.op}{target} by {operation.process} at {operation.invoked / 1e6:.6f}"


def _list(runs: list[Run]) -> str:
    return ", ".join(f"{run.run} ({'whole' if run.whole else 'cut'}, at {run.began / 1e6:.6f})" for run in runs) or "nothing"


__all__ = ["EXPECTED", "RULES", "Effect", "Evidence", "Run", "Violation", "check"]
