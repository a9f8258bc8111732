defmodule SnakeBridge.DocsTest do
  @moduledoc "Runs the Elixir examples of README, docs and the Livebook; `SnakeBridge.Test.Page` says how."
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO
  import ExUnit.CaptureLog

  alias SnakeBridge.Test.Page

  @root Path.expand("../..", __DIR__)
  @pages [
    Path.join(@root, "README.md")
    | Path.wildcard(Path.join(@root, "docs/**/*.md")) ++
        Path.wildcard(Path.join(@root, "examples/*/README.md"))
  ]

  for page <- @pages, File.read!(page) =~ ~r/^```elixir$/m do
    @external_resource page
    @tag timeout: 120_000
    test "the examples of #{Path.relative_to(page, @root)} do what they say" do
      # What examples print is not for the terminal.
      quietly(fn ->
        unquote(page) |> File.read!() |> Page.blocks() |> Page.run!(Path.relative_to(unquote(page), @root))
      end)
    end
  end

  defp quietly(run),
    do: capture_log(fn -> capture_io(:stderr, fn -> capture_io(run) end) end)

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

  test "the page about errors names every category" do
    text = File.read!(Path.join(@root, "docs/errors.md"))

    assert [] ==
             for(
               category <- SnakeBridge.Error.categories(),
               not String.contains?(text, "`:#{category}`"),
               do: category
             )
  end
end
