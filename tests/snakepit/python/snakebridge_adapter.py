"""Stands where SnakeBridge's own adapter module lies, beside its folder of helpers. Importing it is what must never happen."""

raise RuntimeError("the helper pack is found without importing the adapter of SnakeBridge")
