Code.require_file("bench/called.exs")

defmodule SnakeBridge.Generator.CalledTest do
  # Not async: the modules' names are everybody's, and the workers are busy.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias Bench.Called

  @python System.get_env("SNAKEBRIDGE_PYTHON") || Path.expand(".venv/bin/python")
  @libraries [:json, :math, :re, :datetime, :statistics, :operator, :numpy]

  @tag timeout: 180_000
  test "hundreds of generated functions answer what Python answers without them" do
    me = self()
    # What numpy warns of (a division by zero) is not of this test.
    capture_io(:stderr, fn ->
      capture_io(fn -> send(me, {:calls, Enum.flat_map(@libraries, &Called.calls(&1, python: @python))}) end)
    end)

    assert_received {:calls, calls}
    assert calls |> Enum.reject(&Called.same?/1) |> Enum.map(&Called.difference/1) == []
    assert length(calls) >= 300
    # None of the libraries has dropped out.
    assert calls |> Enum.map(& &1.library) |> Enum.uniq() |> length() == length(@libraries)
  end
end
