"""The policy of an executor: whether a caller may reach an object by the path that he names, and may hold or pass a reference to it.

Names are looked at before anything is imported, objects after they are found: under their true names, and by identity, so that an alias is
what it stands for. A decision about a function is kept as long as the same path leads to the same object.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import (
    BuiltinMethodType,
    FrameType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any

from bridge_adapter import errors
from bridge_adapter.policy import defaults, guards
from bridge_adapter.policy.names import layers, normal, plain, true_names
from bridge_adapter.policy.rules import Rule, RuleSet
from bridge_adapter.tools.call import attribute, load

if TYPE_CHECKING:
    from bridge_adapter.policy.settings import PolicySettings

_KEPT = 10_000
_BOUND = (MethodType, BuiltinMethodType)
_CALLED = (FunctionType, BuiltinMethodType, MethodType, MethodWrapperType, MethodDescriptorType)
_NAMED = (ModuleType, type, *_CALLED, partial, staticmethod, classmethod)
_PRIVATE = Rule("_*", "default")
_SPECIAL = Rule("__*__", "default")
_INTERNAL = Rule("internal attributes", "default")
_UNLISTED = Rule("base = listed", "the policy allows only what it lists")


class Policy:
    """`listed`: what no rule allows is refused; else what no rule refuses is allowed. A rule of `deny` wins over one of `allow`, which wins
    over the built-in list; of that, an exact name, or the same entry, is needed."""

    def __init__(
        self,
        allow: Iterable[Rule] = (),
        deny: Iterable[Rule] = (),
        *,
        listed: bool = False,
        helper_directories: Sequence[str] | None = None,
    ) -> None:
        self.allow = RuleSet(allow)
        self.deny = RuleSet(deny)
        self.listed = listed
        self.helper_directories = helper_directories
        self._builtin = RuleSet(Rule(text, "default") for text in defaults.REFUSED)
        self._own = RuleSet(Rule(text, "default") for text in defaults.OUR_OWN)
        self._roots = {root for name in self.allow.exact for root in _roots(name)}
        self._functions: dict[tuple[str, str], Any] = {}
        self._plain: set[type] = set()  # whose instances are neither named nor internal
        self._methods: dict[tuple[type, str], Any] = {}
        self._same: dict[int, tuple[Any, Rule]] = {}
        self._modules = -1
        self._shows_all = False  # private and special names, too

    @classmethod
    def of(cls, settings: PolicySettings) -> Policy:
        """The policy that the settings describe."""
        everything = settings.base == "open"
        policy = cls(settings.allow, settings.deny, listed=settings.base == "listed", helper_directories=settings.helper_directories)
        if everything:
            policy._builtin = policy._own = RuleSet()
            policy._shows_all = True
        return policy

    # --- on the call path ---

    def function(self, module: str, path: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """The object that a module path and a path in it lead to. Raises PermissionDenied, before the import where names tell."""
        if type(path) is not str or type(module) is not str:
            if not isinstance(path, str):
                return attribute(load(module), path)  # which says what is wrong with it
            module, path = plain(module), plain(path)
        key = (module, path)
        known = self._functions.get(key)
        if known is not None:
            found = getattr(load(module), path) if "." not in path else attribute(load(module), path)
            if found is known or (type(found) in _BOUND and type(found) is type(known) and found == known):
                return found
        self._before(module, path)
        found = self._walk(load(module), path, module)
        guards.check(self, found, args, kwargs or {})
        if callable(found) and not guards.guarded(found) and isinstance(found, _NAMED):
            if len(self._functions) >= _KEPT:
                self._functions.clear()
            self._functions[key] = found
        return found

    def method(self, target: Any, path: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """An attribute of an object that the caller holds."""
        if type(path) is not str:
            if not isinstance(path, str):
                return attribute(target, path)
            path = plain(path)
        key = (type(target), path)
        known = self._methods.get(key)
        if known is not None:
            found = attribute(target, path)
            if type(found) in _BOUND and found.__self__ is target and getattr(found, "__func__", BuiltinMethodType) is known:
                return found
        names = true_names(target) or true_names(type(target))
        self._parts(path, names)
        if self.listed and isinstance(target, ModuleType):
            self._listed([f"{name}.{path}" for name in names], "")
        found = self._walk(target, path, names[0] if names else "")
        guards.check(self, found, args, kwargs or {})
        if type(found) in _BOUND and found.__self__ is target and not isinstance(target, _NAMED) and not guards.guarded(found):
            if len(self._methods) >= _KEPT:
                self._methods.clear()
            self._methods[key] = getattr(found, "__func__", BuiltinMethodType)
        return found

    def inspection(self, target: Any, name: str) -> None:
        """Whether an attribute, which may be missing, may be read."""
        try:
            self.method(target, name)
        except AttributeError:
            return  # the function that was called says so, or has a default

    def assignment(self, target: Any, path: str) -> None:
        """Whether an attribute may be set: a special one never, unless `__*__` is allowed."""
        path = plain(path)
        names = true_names(target) or true_names(type(target))
        self._parts(path, names, writing=True)
        holder, dot, last = path.rpartition(".")
        if dot:
            target = self._walk(target, holder, names[0] if names else "")
            names = true_names(target) or true_names(type(target))
        for name in names:
            self._refuse_by_name((f"{name}.{last}",), f"{name}.{last}")

    def reference(self, obj: Any) -> None:
        """Whether the caller may hold or pass this object by reference."""
        kind = type(obj)
        if kind in self._plain:
            return
        if not isinstance(obj, _NAMED):
            if type(obj) is FrameType or (type(obj) is dict and "__builtins__" in obj):
                what = f"a reference to a {type(obj).__name__} of the interpreter's own state"
                raise _denied(what, _INTERNAL, "return what is needed of it")
            if kind is not dict:
                if not issubclass(kind, BaseException):
                    # What a call is made of leads to its connection, and whoever holds that may say who he is.
                    self._refuse_own(true_names(kind)[0])
                if len(self._plain) >= _KEPT:
                    self._plain.clear()
                self._plain.add(kind)
            return
        for layer in layers(obj):
            if guards.guarded(layer):
                name = true_names(layer)[0]
                raise _denied(f"a reference to {name}", Rule(name, "default"), f"call {name} itself, where its arguments can be seen")
            self._object(layer, true_names(layer), "")
        if isinstance(obj, ModuleType):
            self._refuse_own(true_names(obj)[0])
        if self.listed and isinstance(obj, ModuleType):
            self._listed(true_names(obj), "")

    def helper(self, name: Any, found: Any) -> None:
        """Whether a helper may be called, under the name `helper.NAME`."""
        self.named(f"helper.{name}")
        self.reference(found)

    def named(self, name: str) -> None:
        """Whether something that has only a name may be used: a helper, a tool of a user's adapter, a module to be loaded again."""
        self._refuse_by_name((name,), name)
        if self.listed:
            self._listed((name,), name)

    def path(self, path: str) -> None:
        """Whether the parts of a path may be named at all, whatever it begins at."""
        self._parts(path, ("",))

    def module(self, name: str) -> None:
        """Whether a module may be imported or loaded again."""
        name = plain(name)
        self._parts(name, ("",))
        self.named(name)

    def forget(self) -> None:
        """To be called when modules were loaded again: nothing of their old code is kept here."""
        self._functions.clear()
        self._methods.clear()
        self._plain.clear()
        self._modules = -1

    def lifted(self, text: str) -> bool:
        """Whether an entry of the built-in list does not hold."""
        return self.allow.says(text)

    # --- decisions ---

    def _before(self, module: str, path: str) -> None:
        whole = f"{module}.{path}" if path else module
        self._parts(whole, ("",))
        for name in _roots(whole):
            self._refuse_by_name((name, normal(name)), name)
        self._refuse_own(whole)
        if self.listed:
            self._listed((whole, normal(whole)), whole)

    def _parts(self, path: str, owners: Sequence[str], *, writing: bool = False) -> None:
        """The parts of a path: private, special and internal names."""
        if self._shows_all:
            return
        for part in path.split("."):
            if part[:1] != "_":
                if part not in defaults.INTERNAL:
                    continue
                rule = _INTERNAL
            elif part.startswith("__") and part.endswith("__"):
                if part in defaults.SPECIAL and not writing:
                    continue
                rule = _SPECIAL
            elif part in defaults.PUBLIC:
                continue
            else:
                rule = _PRIVATE
            wholes = [f"{owner}.{path}" if owner else path for owner in owners]
            if not self.allow.says(rule.text) and not any(whole in self.allow.exact or whole in self._roots for whole in wholes):
                raise _denied(wholes[0] if wholes else path, rule, _remedy(wholes[0] if wholes else path))

    def _walk(self, target: Any, path: str, name: str) -> Any:
        """Goes along a path; every object on it is looked at."""
        asked = name
        own = true_names(target)
        self._object(target, own, asked)
        if isinstance(target, ModuleType):
            self._refuse_own(own[0])
            if self.listed and name not in own and normal(name) not in own:  # else it was looked at by its name
                self._listed(own, asked)
        name = own[0] if own else name
        for part in path.split("."):
            holder, target = target, attribute(target, part)
            asked, name = f"{asked}.{part}", f"{name}.{part}"
            own = true_names(target)
            self._refuse_by_name((name,), name)
            for layer in layers(target):
                self._object(layer, true_names(layer), name)
            if self.listed:
                self._reached(holder, target, own, name, asked)
            if isinstance(target, ModuleType):
                self._refuse_own(own[0])
                name = own[0]
        return target

    def _object(self, obj: Any, names: Sequence[str], asked: str) -> None:
        self._refuse_by_name(names, asked or (names[0] if names else ""))
        if len(sys.modules) != self._modules:
            self._identify()
        same = self._same.get(id(obj))
        if same is not None and not self._lifted(same[1], (*names, asked)):
            raise _denied(names[0] if names else asked, same[1], _remedy(same[1].text))

    def _refuse_by_name(self, names: Sequence[str], asked: str) -> None:
        for name in names:
            rule = self.deny.match(name)
            if rule is not None:
                raise _denied(name, rule, "take it off the list, or ask who wrote it")
        for name in names:
            rule = self._builtin.match(name)
            if rule is not None and not self._lifted(rule, (*names, asked)):
                raise _denied(name, rule, _remedy(name))

    def _refuse_own(self, module: str) -> None:
        rule = self._own.match(module)
        if rule is not None and not self._lifted(rule, (module,)):
            raise _denied(module, rule, _remedy(module))

    def _lifted(self, rule: Rule, names: Iterable[str]) -> bool:
        if rule.source != "default":
            return False
        return self.allow.says(rule.text) or any(name in self.allow.exact or name in self._roots for name in names if name)

    def _listed(self, names: Sequence[str], asked: str) -> None:
        if not any(self.allow.match(name) is not None or name in self._roots for name in names) and not (asked and self.allow.names(asked)):
            name = names[0] if names else asked
            raise _denied(name, _UNLISTED, _remedy(name))

    def _reached(self, holder: Any, target: Any, own: Sequence[str], name: str, asked: str) -> None:
        """Of a listed policy: what is not of the package that led to it must be listed itself."""
        if isinstance(target, ModuleType):
            self._listed(own, asked)
        elif isinstance(target, (type, FunctionType, BuiltinMethodType, partial)) and own:
            if type(target) is BuiltinMethodType and target.__self__ is holder and not isinstance(holder, ModuleType):
                return
            if own[0].partition(".")[0] != name.partition(".")[0]:
                self._listed((*own, *(deep for layer in layers(target) for deep in true_names(layer)[:1])), asked)

    def _identify(self) -> None:
        """What the exact names of the lists stand for now: under another name it is the same object."""
        modules, same = len(sys.modules), dict[int, tuple[Any, Rule]]()
        for rules in (self._builtin, self.deny):
            for name, rule in rules.exact.items():
                found = _loaded(name)
                if callable(found) or isinstance(found, ModuleType):
                    same[id(found)] = (found, rule)
                elif found is None and _being_imported(name):
                    modules = -1  # look again at the next decision
        self._same, self._modules = same, modules


def _loaded(name: str) -> Any:
    """The object of a name, as far as its module is loaded."""
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        found: Any = sys.modules.get(".".join(parts[:count]))
        if found is not None:
            for part in parts[count:]:
                found = vars(found).get(part) if isinstance(found, (ModuleType, type)) else None
            return found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
    return None


def _being_imported(name: str) -> bool:
    """Whether a module on the way to this name is just running its code for the first time, on another thread."""
    modules = (sys.modules.get(root) for root in _roots(name))
    return any(getattr(getattr(module, "__spec__", None), "_initializing", False) for module in modules if module is not None)


def _roots(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _remedy(name: str) -> str:
    return f"to allow it, add {name!r} to allow in the policy of the pool (docs/permissions.md)"


def _denied(what: str, rule: Rule, remedy: str) -> errors.PermissionDenied:
    return errors.PermissionDenied(f"{what} is refused by the rule {rule}; {remedy}", object=what, rule=rule.text, source=rule.source)
