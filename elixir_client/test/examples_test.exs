defmodule SnakeBridge.ExamplesTest do
  @moduledoc "The projects in examples/ and the Livebook as a user runs them: compiled by mix, in a BEAM of their own."
  use ExUnit.Case, async: true

  alias SnakeBridge.Test.Page

  @root Path.expand("../..", __DIR__)

  @tag timeout: 300_000
  test "examples/sessions: its wrappers are generated without a warning, its tests pass, and the second compilation writes nothing" do
    project = Path.join(@root, "examples/sessions")
    build = Path.join(System.tmp_dir!(), "snakebridge-examples-#{System.pid()}")
    on_exit(fn -> File.rm_rf!(build) end)
    python = System.get_env("SNAKEBRIDGE_PYTHON") || Path.join(@root, ".venv/bin/python")
    environment = [{"MIX_ENV", "test"}, {"MIX_BUILD_PATH", build}, {"SNAKEBRIDGE_PYTHON", python}]

    mix = fn arguments ->
      System.cmd("mix", arguments, cd: project, env: environment, stderr_to_stdout: true)
    end

    assert {_, 0} = mix.(["deps.compile"])
    {compiled, status} = mix.(["compile", "--force", "--warnings-as-errors"])
    assert status == 0, compiled
    {tested, status} = mix.(["test"])
    assert status == 0, tested
    assert tested =~ ~r/^5 tests, 0 failures$/m

    written = for file <- generated(project), into: %{}, do: {file, File.stat!(file, time: :posix).mtime}
    assert map_size(written) == 10

    assert {_, 0} =
             System.cmd("mix", ["compile"],
               cd: project,
               env: [{"SNAKEBRIDGE_PYTHON", "/nowhere"} | environment]
             )

    assert written ==
             for(file <- generated(project), into: %{}, do: {file, File.stat!(file, time: :posix).mtime})
  end

  @tag timeout: 180_000
  test "the Livebook runs from top to bottom, in a BEAM of its own" do
    tour = Path.join(@root, "docs/tour.livemd")
    directory = Path.join(System.tmp_dir!(), "snakebridge-tour-#{System.pid()}")
    script = Path.join(directory, "tour.exs")
    File.mkdir_p!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    [{"elixir", setup, _} | _] = tour |> File.read!() |> Page.blocks()

    File.write!(script, """
    #{String.replace(setup, "__DIR__", inspect(Path.dirname(tour)))}
    Code.require_file(#{inspect(Path.join(@root, "elixir_client/test/support/page.ex"))})
    [_setup | cells] = #{inspect(tour)} |> File.read!() |> SnakeBridge.Test.Page.blocks()
    SnakeBridge.Test.Page.run!(cells, "docs/tour.livemd")
    IO.puts("\#{length(cells)} cells ran")
    """)

    environment = [{"MIX_INSTALL_DIR", directory}, {"MIX_ENV", "prod"}, {"MIX_BUILD_PATH", nil}]
    elixir = System.find_executable("elixir")
    {output, status} = System.cmd(elixir, [script], env: environment, stderr_to_stdout: true, cd: directory)
    assert status == 0, output
    assert output =~ ~r/\d+: \d+\.\d+ dB/
    assert output =~ ~r/^1\d cells ran$/m
  end

  defp generated(project), do: Path.wildcard(Path.join(project, "lib/snakebridge_generated/**/*.ex"))
end
