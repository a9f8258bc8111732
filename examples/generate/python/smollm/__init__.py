"""SmolLM2 in JAX: `smollm.load()` gives a model that streams text. See examples/generate/README.md."""

from .generate import Model, load

__all__ = ["Model", "load"]
