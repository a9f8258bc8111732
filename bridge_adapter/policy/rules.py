"""Rules over the names of Python objects: `a.b.c` names one object, `a.b.*` everything under it (and `a.b` itself), `re:...` whatever the
regular expression matches as a whole. A `RuleSet` finds the rule that names an object, with a look-up per part of the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of a list. `source`: where it was written, as people look for it: `policy.toml: policy.deny[2]`, `default`."""

    text: str
    source: str

    def __str__(self) -> str:
        return f"{self.text!r} ({self.source})"


class RuleSet:
    """The rules of one list. Exact names and prefixes cost a look-up, regular expressions a match each."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.exact: dict[str, Rule] = {}
        self.prefixes: dict[str, Rule] = {}
        self._patterns: list[tuple[re.Pattern[str], Rule]] = []
        for rule in rules:
            self._add(rule)

    def __bool__(self) -> bool:
        return bool(self.exact or self.prefixes or self._patterns)

    def _add(self, rule: Rule) -> None:
        if rule.text.startswith("re:"):
            self._patterns.append((re.compile(rule.text[3:]), rule))
        elif rule.text.endswith(".*"):
            self.prefixes.setdefault(rule.text[:-2], rule)
        else:
            self.exact.setdefault(rule.text, rule)

    def match(self, name: str) -> Rule | None:
        """The rule that names this object; exact names first, then the longest prefix, then patterns in their order."""
        found = self.exact.get(name)
        if found is not None:
            return found
        prefix = name
        while prefix:
            if (found := self.prefixes.get(prefix)) is not None:
                return found
            prefix = prefix.rpartition(".")[0]
        return next((rule for pattern, rule in self._patterns if pattern.fullmatch(name)), None)

    def names(self, name: str) -> bool:
        """Whether a rule says this very name, as the object or as the root of what it allows."""
        return name in self.exact or any(prefix == name or prefix.startswith(f"{name}.") for prefix in self.prefixes)

    def says(self, text: str) -> bool:
        """Whether an entry is written exactly like this."""
        return text in self.exact or (text.endswith(".*") and text[:-2] in self.prefixes)


def problem(text: object) -> str | None:
    """Why an entry of a list is none; None when it is one."""
    forms = "write module.name, module.* or re:PATTERN"
    if not isinstance(text, str):
        return f"{str(text)[:80]!r} is a {type(text).__name__}; {forms}"
    if text.startswith("re:"):
        try:
            re.compile(text[3:])
        except re.error as error:
            return f"{text!r} is no regular expression: {error}"
        return None
    if text in ("_*", "__*__"):
        return None
    if not _NAME.fullmatch(text.removesuffix(".*")):
        return f"{text[:80]!r} is no name; {forms}"
    return None
