"""What every policy but `open` refuses unless it is allowed by name (docs/permissions.md has the same lists, and a test compares them).

Functions that run text as code, that load code from data, that run programs, that look names up later, and ways into interpreter state.
"""

from __future__ import annotations

TEXT_AS_CODE = (
    *(f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__", "breakpoint", "globals", "locals", "vars")),
    *("code.*", "codeop.*", "runpy.*", "timeit.*", "pdb.*", "bdb.*", "trace.*", "profile.*", "cProfile.*", "doctest.*", "pydoc.*"),
    *("types.FunctionType", "types.CodeType", "builtins.function", "builtins.code"),
    *("typing.get_type_hints", "inspect.get_annotations", "functools.singledispatch.*", "functools.singledispatchmethod.*"),
    *("dataclasses.dataclass", "dataclasses.make_dataclass", "pandas.eval", "pandas.core.computation.*", "numexpr.evaluate"),
    *("numpy.testing.runstring", "numpy.testing.measure", "numpy.testing.rundocs", "jinja2.Template", "jinja2.Environment", "mako.*"),
    *("sys.breakpointhook", "inspect.Signature.from_callable"),
)

LOADED_CODE = (
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "pickle._load", "pickle._loads", "pickle._Unpickler"),
    *("marshal.*", "shelve.*", "dill.*", "cloudpickle.*", "joblib.load", "torch.load", "pandas.read_pickle", "logging.config.*"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"),
    *(f"yaml.{kind}Loader" for kind in ("", "Unsafe", "Full", "C", "CUnsafe", "CFull")),
    *("yaml.constructor.Constructor", "yaml.constructor.UnsafeConstructor", "yaml.constructor.FullConstructor"),
    *("ctypes.*", "cffi.*", "imp.*", "zipimport.*", "pkgutil.resolve_name", "pkgutil.get_loader", "pkgutil.find_loader"),
    *(
        "importlib.reload",
        "importlib.machinery.*",
        "importlib.util.spec_from_file_location",
        "importlib.util.module_from_spec",
        "importlib.abc.*",
        "importlib._bootstrap.*",
    ),
    *("importlib._bootstrap_external.*", "importlib.util.LazyLoader", "pkgutil.get_importer", "pkgutil.iter_importers"),
    *("site.*", "ensurepip.*", "pip.*", "unittest.*", "pytest.*", "numpy.test", "scipy.test", "pandas.test"),
    *(
        "numpy.lib.format.read_array",
        "numpy.lib.npyio.NpzFile",
        "numpy.lib.npyio.NpzFile.allow_pickle",
        "numpy.ctypeslib.*",
        "pandas.compat.pickle_compat.*",
    ),
    *("pandas.read_hdf", "pandas.HDFStore", "joblib.externals.*", "joblib.numpy_pickle.NumpyUnpickler", "joblib.numpy_pickle_compat.*"),
    *("multiprocessing.connection.*", "multiprocessing.managers.*", "torch.hub.*", "torch.package.*", "torch.utils.cpp_extension.*"),
    *("tracemalloc.Snapshot.load", "pstats.*", "lib2to3.*"),
    *("sqlite3.Connection.load_extension", "sqlite3.Connection.enable_load_extension"),
)

PROGRAMS = (
    *(f"os.{name}" for name in ("system", "popen", "startfile", "posix_spawn", "posix_spawnp", "fork", "forkpty")),
    *(f"os.exec{kind}" for kind in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *(f"os.spawn{kind}" for kind in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")),
    *("subprocess.*", "pty.*", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "webbrowser.*", "venv.*"),
    *("distutils.*", "setuptools.*", "numpy.f2py.*", "numpy.distutils.*", "test.*", "idlelib.*", "tkinter.*"),
    *("asyncio.base_events.BaseEventLoop.subprocess_exec", "asyncio.base_events.BaseEventLoop.subprocess_shell", "uvloop.*"),
    *("multiprocessing.util.spawnv_passfds", "multiprocessing.context.BaseContext.set_executable", "multiprocessing.spawn.*"),
    *("multiprocessing.forkserver.*", "multiprocessing.popen_fork.*", "multiprocessing.popen_forkserver.*"),
    *("multiprocessing.popen_spawn_posix.*", "pipes.*", "mailcap.*", "imaplib.IMAP4_stream", "http.server.CGIHTTPRequestHandler"),
)

# Modules that a caller may not go through. Flows, values and messages are for callers; the rest of the worker is not. It is a rule about
# modules alone: some of our functions stand in the place of Python's own (`time.sleep`).
OUR_OWN = (r"re:bridge_adapter\.(?!(kernels|codec|elixir|__version__)\b).*",)

LATER_NAMES = (
    "operator.attrgetter",
    "operator.methodcaller",
    "inspect.getattr_static",
    "inspect.getmembers",
    "inspect.getmembers_static",
    "string.Formatter",
    "builtins.help",
    "importlib.metadata.EntryPoint.load",
    "rlcompleter.*",
    "xmlrpc.server.*",
)

INTERPRETER = (
    *(
        "gc.get_objects",
        "gc.get_referrers",
        "gc.get_referents",
        "sys.settrace",
        "sys.setprofile",
        "sys.addaudithook",
        "sys.modules",
        "sys.meta_path",
        "sys.path_hooks",
    ),
    *("inspect.currentframe", "inspect.stack", "inspect.trace", "inspect.getouterframes", "inspect.getinnerframes"),
)

REFUSED = (*TEXT_AS_CODE, *LOADED_CODE, *PROGRAMS, *LATER_NAMES, *INTERPRETER)

# Parts of a path, wherever they stand in it. Special methods and attributes that a caller may name; any other `__x__` is refused.
_OPERATORS = (
    "lt le eq ne gt ge add sub mul matmul truediv floordiv mod divmod pow lshift rshift and xor or radd rsub rmul rmatmul rtruediv "
    "rfloordiv rmod rdivmod rpow rlshift rrshift rand rxor ror iadd isub imul imatmul itruediv ifloordiv imod ipow ilshift irshift iand "
    "ixor ior neg pos abs invert round trunc floor ceil"
)
_PROTOCOLS = (
    "call len length_hint getitem setitem delitem missing contains iter next reversed aiter anext await enter exit aenter aexit "
    "str repr bytes format hash bool int float complex index init copy deepcopy fspath array array_ufunc array_function "
    "dataframe dlpack dlpack_device arrow_array arrow_c_array arrow_c_stream arrow_c_schema"
)
_FACTS = "name qualname module doc version all class file package author license text_signature"
SPECIAL = frozenset(f"__{name}__" for name in f"{_OPERATORS} {_PROTOCOLS} {_FACTS}".split())

# Names with an underscore that are public: of named tuples, and `os._exit`, which does less than `os.abort` and `os.kill`.
PUBLIC = frozenset(("_asdict", "_fields", "_field_defaults", "_make", "_replace", "_exit"))

# Attributes that lead from an object to frames, code and namespaces.
_STATE = (
    "gi_frame gi_code gi_yieldfrom cr_frame cr_code cr_await cr_origin ag_frame ag_code ag_await f_globals f_locals f_builtins "
    "f_back f_code f_trace tb_frame tb_next co_code co_consts func_globals func_code"
)
INTERNAL = frozenset(_STATE.split())
