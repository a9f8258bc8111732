"""An adapter whose module cannot be imported."""

raise RuntimeError("the model file is missing")
