"""Python libraries described for the generator of Elixir wrappers: what there is, how it is called, under which Elixir names.

    python -P -m bridge_adapter.tools.introspect REQUEST ANSWER

REQUEST and ANSWER are files of one packed term each (nil, booleans, integers, floats, text, lists, maps with text keys). The exit status is
0 when ANSWER is written. A library that cannot be imported is no failure of the command but an entry under `problems`.

    REQUEST   {"format": 1, "libraries": [LIBRARY]}
    LIBRARY   library   import name, "sklearn" or "jax.numpy"
              root      Elixir module that stands for it; "Jax.Numpy" by default
              all       true: the library and its public submodules, tests, vendored code and private parts left out
              symbols   Python paths below the library; a module or class means all of it, "" the library's own module
              uses      [{module, function, optional}]: calls found in Elixir code, under Elixir's names. `x_stream` means x, as a stream,
                        where nothing is called x_stream. optional: that nothing is called so is no problem
              stream    Python paths that are streams whatever their annotation says

    ANSWER    {format, python: {version, implementation, platform, executable}, adapter, packages: {name: version},
               own: {library: [files of a library that is the project's own]}, modules: [MODULE],
               problems: [{library, symbol, message, kind, use}]}
              kind of a problem: import, unknown (the message names what is near), clash, failed (the symbol could not be described)
    MODULE    {elixir, kind: module|class, library, python_module, class (dotted inside of classes), doc, version, source_url, bases,
               whole (false: only what was asked for), functions: [FUNCTION]}
    FUNCTION  {elixir, python (relative to the module or class), kind, params: [PARAM], returns: SPEC, stream, doc, signature, source,
               overloads: [{params, returns}], hash}
              kind: function, new, method, class_method, static_method, property, constant, set_property
              source of the parameters: signature, stub, docstring, text_signature, or none: then they are *args and **kwargs
    PARAM     {name, kind, required, default (text), spec: SPEC, doc}, without self; kinds as `inspect` names them, in lower case
    SPEC      text of an Elixir type. Parameters say what may be given, variadic ones per element; results what comes without options

A description depends on the library alone: not on what else is asked for or loaded, nor on the run. Modules and functions are sorted by
their Elixir names.

The way of a request: `request` reads it, `resolve` finds it in the `surface` of modules and classes, which `naming` gives their names, and
`describe` asks `signatures` (with `forms`, `sources` for stubs, `hints` for annotations, `defaults`), `specs` and `docstrings` (with
`markup`). `importing` is the one place where libraries are imported, `reading` looks at them, `environment` knows the installed
distributions.
"""

from .describe import describe
from .request import FORMAT, InvalidRequest

__all__ = ["FORMAT", "InvalidRequest", "describe"]
