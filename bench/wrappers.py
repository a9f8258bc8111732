"""Generated wrappers: how long a project that uses 200 symbols of numpy takes to have them, and how many of them do what Python does.

`gen_cold_s` is the mix compiler with nothing generated yet (Python introspects numpy) and the compilation of what it wrote;
`gen_warm_s` is the mix compiler when nothing changed. `callable_ratio` is the part of generated functions whose result equals that of the
direct call, over all for which some of the arguments tried are right (bench/wrappers_called.exs).
"""

from __future__ import annotations

import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from . import elixir
from .report import Row, note

SYMBOLS = 200

PROJECT = """
defmodule Wrapped.MixProject do
  use Mix.Project

  def project do
    [app: :wrapped, version: "0.1.0", compilers: [:snakebridge] ++ Mix.compilers(), deps: [{{:snakebridge, path: "{root}"}}]]
  end
end
"""

CONFIG = """
import Config
config :snakebridge, libraries: [:numpy], python: "{python}"
config :logger, level: :error
"""

# In one BEAM, so that the start of mix and its check of dependencies are not part of it.
TIMED = """
timed = fn tasks ->
  {microseconds, statuses} = :timer.tc(fn -> Enum.map(tasks, &elem(Mix.Task.rerun(&1), 0)) end)
  if :error in statuses, do: raise("the project does not compile")
  microseconds / 1.0e6
end

IO.puts("cold #{timed.(["compile.snakebridge", "compile.elixir"])}")
for _ <- 1..5, do: IO.puts("warm #{timed.(["compile.snakebridge"])}")
"""


def run() -> list[Row]:
    """Every row of the suite."""
    note(f"wrappers: a project that uses {SYMBOLS} symbols of numpy")
    with tempfile.TemporaryDirectory(prefix="snakebridge-bench-") as directory:
        rows = generation(Path(directory))
    note("wrappers: calls")
    return rows + elixir.run("wrappers_called.exs")


def generation(directory: Path) -> list[Row]:
    """The times of a fresh project in `directory`."""
    for name in ("lib", "config"):
        (directory / name).mkdir()
    (directory / "mix.exs").write_text(PROJECT.format(root=elixir.ROOT))
    (directory / "config" / "config.exs").write_text(CONFIG.format(python=sys.executable))
    (directory / "timed.exs").write_text(TIMED)
    # Compiles the dependency while there is nothing to wrap.
    mix(directory, "compile")
    shutil.rmtree(directory / "lib")
    (directory / "lib").mkdir()
    (directory / "lib" / "wrapped.ex").write_text(source())
    lines = [line.split() for line in mix(directory, "run", "--no-compile", "--no-start", "timed.exs").splitlines()]
    cold = [float(words[1]) for words in lines if words[:1] == ["cold"]]
    warm = sorted(float(words[1]) for words in lines if words[:1] == ["warm"])
    return [Row("gen_cold_s", cold[0], "s", 1), Row("gen_warm_s", warm[len(warm) // 2], "s", len(warm))]


def source() -> str:
    """A module that uses the first functions of numpy, with arguments that nobody counts."""
    import numpy

    def plain(name: str) -> bool:
        value = getattr(numpy, name)
        return name.islower() and callable(value) and not inspect.isclass(value)

    names = [name for name in sorted(numpy.__all__) if not name.startswith("_") and plain(name)][:SYMBOLS]
    functions = "\n".join(f"  def f{i}(arguments), do: apply(Numpy, :{name}, arguments)" for i, name in enumerate(names))
    return f"defmodule Wrapped do\n{functions}\nend\n"


def mix(directory: Path, *arguments: str) -> str:
    """What mix prints in the project. Raises RuntimeError when it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MIX_BUILD_PATH", "SNAKEBRIDGE_OFFLINE")}
    environment |= {"MIX_ENV": "prod", "LC_ALL": os.environ.get("LC_ALL", "C.UTF-8")}
    done = subprocess.run(["mix", *arguments], cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mix {' '.join(arguments)} failed with status {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout
