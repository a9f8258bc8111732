defmodule SnakeBridge.DocsTest do
  @moduledoc "Runs the Elixir examples of README and docs; `SnakeBridge.Test.Page` says how."
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
