"""Keeps secrets out of what the worker says of errors: values of secret environment variables, what stands behind a secret's name, bearer
tokens and passwords in URLs. Costs nothing until there is an error. The texts that user code prints or returns are its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

REDACTED = "[redacted]"
_SHORTEST = 6  # of a value that is taken out wherever it stands: "yes" or "1234" would be in innocent texts, too
_NAMES = (
    r"(?:pg|db|my|mysql)?pass(?:word|wd|phrase)?|pwd|secret(?:s)?|token|api[-_]?key|apikey|auth(?:orization)?|credential(?:s)?|private[-_]?key|access[-_]?key"
    r"|client[-_]?secret|cookie|session[-_]?key|signing[-_]?key|encryption[-_]?key|dsn"
)
_SCHEMES = re.compile(r"\b(Bearer|Basic)(\s+)[A-Za-z0-9._~+/=-]{6,}")
_URLS = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s/@]+(@)", re.IGNORECASE)
_MOST = 512  # values of the environment


class Redactor:
    """`names`: further names (regular expressions) whose values are secret; `patterns`: texts that are secret wherever they stand."""

    def __init__(self, names: Iterable[str] = (), patterns: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> None:
        whole = "|".join([_NAMES, *names])
        self._name = re.compile(rf"(?:^|[^a-z])(?:{whole})(?:$|[^a-z])", re.IGNORECASE)
        # name = 'value', "name": "value", name=value; what only mentions a token ("unexpected token: }") is left alone.
        self._assigned = re.compile(
            rf"""((?:\b|_)(?:{whole})\d*["']?\s*(?:=>|=|:)\s*b?)("(?:[^"\\\n]|\\.)+"|'(?:[^'\\\n]|\\.)+'|(?<==)[^\s"'(){{}}\[\],;&]{{4,}})""",
            re.IGNORECASE,
        )
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._environment = environment
        self._values: list[str] | None = None
        self._known: set[str] = set()
        self._seen: dict[str, str] = {}  # the secret variables, and how many there were in all
        self._count = 0

    def looks_secret(self, name: str) -> bool:
        """Whether what has this name is likely to be a secret: `password`, `api_key`, `AWS_SECRET_ACCESS_KEY`."""
        return self._name.search(_spelled(name)) is not None

    def add(self, value: str) -> None:
        """A value that is a secret: the token of the worker."""
        if len(value) >= _SHORTEST:
            self._known.add(value)
            self._values = None

    def look_again(self) -> None:
        """Takes note of variables that were set since: a key is often put into the environment by a call."""
        environment = os.environ if self._environment is None else self._environment
        if self._values is not None and (len(environment) != self._count or any(environment.get(n) != v for n, v in self._seen.items())):
            self._values = None

    def text(self, text: str) -> str:
        """A text without the secrets in it."""
        for value in self._secret_values():
            if value in text:
                text = text.replace(value, REDACTED)
        text = self._assigned.sub(_hidden, text)
        if "://" in text:
            text = _URLS.sub(rf"\g<1>{REDACTED}\g<2>", text)
        text = _SCHEMES.sub(rf"\g<1>\g<2>{REDACTED}", text)
        for pattern in self._patterns:
            text = pattern.sub(REDACTED, text)
        return text

    def data(self, value: Any) -> Any:
        """Plain data without the secrets in its texts, and without what stands under a secret's name."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: REDACTED if self._hides(key, inner) else self.data(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.data(inner) for inner in value]
        return value

    def _hides(self, key: Any, value: Any) -> bool:
        return isinstance(key, str) and isinstance(value, (str, bytes)) and self.looks_secret(key)

    def _secret_values(self) -> list[str]:
        if self._values is None:
            environment = os.environ if self._environment is None else self._environment
            self._count = len(environment)
            self._seen = {name: value for name, value in environment.items() if self.looks_secret(name)}
            found = {value for value in self._seen.values() if len(value) >= _SHORTEST}
            # Longest first: one may be a part of another.
            self._values = sorted({*found, *self._known}, key=len, reverse=True)[:_MOST]
        return self._values


def _spelled(name: str) -> str:
    """apiKey and HTTPToken as api_Key and HTTP_Token: parts of a name, one by one."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)


def _hidden(found: re.Match[str]) -> str:
    value = found.group(2)
    quote = value[0] if value[0] in "\"'" else ""
    return f"{found.group(1)}{quote}{REDACTED}{quote}"


_redactor = Redactor()


def configure(names: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
    """What else is secret in this process."""
    global _redactor
    known = _redactor._known
    _redactor = Redactor(names, patterns)
    _redactor._known |= known


def secret(value: str) -> None:
    """Marks a value as a secret of this process."""
    _redactor.add(value)


def looks_secret(name: str) -> bool:
    """Whether what has this name is likely to be a secret."""
    return _redactor.looks_secret(name)


def redacted(value: Any) -> Any:
    """Plain data or a text without secrets."""
    _redactor.look_again()
    return _redactor.data(value)
