"""Records that JAX can trace through: frozen dataclasses whose fields are arrays (leaves), or static (part of the structure).

A compiled step takes such records as arguments: another weight or another image is another leaf and costs no compilation, another shape or
another wavelet is another structure and does.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**options: Any) -> Any:
    """A field that is part of the structure: hashable, and known when a step is compiled."""
    return dataclasses.field(metadata={"static": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def node(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass and a JAX pytree."""
    made: Any = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(made)
    constant = [field.name for field in fields if field.metadata.get("static")]
    leaves = [field.name for field in fields if not field.metadata.get("static")]
    jax.tree_util.register_dataclass(made, data_fields=leaves, meta_fields=constant)
    return made  # type: ignore[no-any-return]
