defmodule SnakeBridge.ExamplesTest do
  @moduledoc "The projects in examples/ as a user runs them: compiled by mix, wrappers generated, their own tests run."
  use ExUnit.Case, async: false

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

  defp generated(project), do: Path.wildcard(Path.join(project, "lib/snakebridge_generated/**/*.ex"))
end
