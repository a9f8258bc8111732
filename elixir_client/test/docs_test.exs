defmodule SnakeBridge.DocsTest do
  @moduledoc """
  Runs the Elixir examples of README and docs. In a block, `#=> term` is what the expression before it gives; the blocks of a page share their
  variables. A block with `config :app` in it is read as a file of configuration. ```python file=name.py is written to where the workers find
  it, for the blocks after it.
  """
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO
  import ExUnit.CaptureLog

  @root Path.expand("../..", __DIR__)
  @pages [
           Path.join(@root, "README.md")
           | Path.wildcard(Path.join(@root, "docs/*.md")) ++
               Path.wildcard(Path.join(@root, "examples/*/README.md"))
         ]
         |> Enum.sort()
  @block ~r/^```(elixir|python file=[\w.]+)\n(.*?)^```$/ms

  for page <- @pages, File.read!(page) =~ ~r/^```elixir$/m do
    @external_resource page
    @tag timeout: 120_000
    test "the examples of #{Path.relative_to(page, @root)} do what they say" do
      text = File.read!(unquote(page))
      # What examples print is not for the terminal.
      quietly(fn ->
        for [at | _] = parts <- Regex.scan(@block, text, return: :index), reduce: [] do
          binding ->
            [_, kind, code] = for {start, length} <- parts, do: binary_part(text, start, length)

            where = {Path.relative_to(unquote(page), @root), text |> line(at)}
            block(kind, code, where, binding)
        end
      end)
    end
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

  defp quietly(run),
    do: capture_log(fn -> capture_io(:stderr, fn -> capture_io(run) end) end)

  defp line(text, {start, _}),
    do: text |> binary_part(0, start) |> :binary.matches("\n") |> length() |> Kernel.+(2)

  defp block("python file=" <> name, code, _, binding) do
    "SNAKEBRIDGE_DOCS_PYTHON" |> System.fetch_env!() |> Path.join(name) |> File.write!(code)
    SnakeBridge.call!("importlib", "invalidate_caches")
    binding
  end

  defp block("elixir", code, where, binding) do
    if code =~ ~r/^config :/m do
      configuration(code, where)
      binding
    else
      code |> steps(elem(where, 1)) |> Enum.reduce(binding, &step(&1, elem(where, 0), &2))
    end
  end

  defp configuration(code, {page, line}) do
    file = Path.join(System.tmp_dir!(), "snakebridge-docs-#{System.pid()}.exs")
    File.write!(file, "import Config\n" <> code)

    try do
      assert [_ | _] = Config.Reader.read!(file), "#{page}:#{line} configures nothing"
    after
      File.rm!(file)
    end
  end

  # Code, where it begins, and the term it is said to give, if any.
  defp steps(code, line) do
    {steps, {rest, from}} =
      code
      |> String.split("\n")
      |> Enum.with_index(line)
      |> Enum.reduce({[], {[], line}}, fn
        {"#=> " <> expected, at}, {steps, {code, from}} -> {[{code, from, expected} | steps], {[], at + 1}}
        {text, _}, {steps, {code, from}} -> {steps, {[text | code], from}}
      end)

    for {lines, from, expected} <- Enum.reverse([{rest, from, nil} | steps]),
        code = lines |> Enum.reverse() |> Enum.join("\n"),
        String.trim(code) != "",
        do: {code, from, expected}
  end

  defp step({code, line, expected}, page, binding) do
    {value, binding} = Code.eval_string(code, binding, file: page, line: line)

    if expected do
      {said, _} = Code.eval_string(expected, binding, file: page, line: line)

      assert value == said,
             "#{page}:#{line}\n#{code}\ngave #{inspect(value)}\nbut the page says #{inspect(said)}"
    end

    binding
  end
end
