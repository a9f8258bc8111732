defmodule SnakeBridge.Test.OwnPool do
  @moduledoc "A pool of the test's own, of one worker whose user code is tests/python; it ends with the test."

  import ExUnit.Callbacks, only: [start_supervised!: 2]

  alias SnakeBridge.Pool

  @spec start_pool(String.t(), keyword()) :: atom()
  @doc "Starts it and gives its name, which begins with `prefix`; `options` come before those that all such pools have."
  def start_pool(prefix, options) do
    name = :"#{prefix}_#{System.unique_integer([:positive])}"
    env = [{"PYTHONPATH", Path.expand("tests/python")}]
    defaults = [name: name, size: 1, python: Path.expand(".venv/bin/python"), env: env]
    start_supervised!({Pool, Keyword.merge(defaults, options)}, id: name)
    name
  end
end
