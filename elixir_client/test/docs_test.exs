defmodule SnakeBridge.DocsTest do
  @moduledoc """
  Runs the Elixir examples of the pages about values. In a block, `#=> term` is what the expression before it gives; the blocks of a page share
  their variables.
  """
  use ExUnit.Case, async: true

  for page <- ["types.md", "sharing.md"],
      path = Path.expand("../../docs/#{page}", __DIR__),
      File.exists?(path) do
    @external_resource path

    test "the examples of docs/#{page} do what they say" do
      blocks = Regex.scan(~r/^```elixir\n(.*?)^```/ms, File.read!(unquote(path)), capture: :all_but_first)
      assert blocks != []

      Enum.reduce(blocks, [], fn [block], binding ->
        block |> steps() |> Enum.reduce(binding, &step/2)
      end)
    end
  end

  # Code and the term it is said to give, if any.
  defp steps(block) do
    {steps, rest} =
      block
      |> String.split("\n")
      |> Enum.reduce({[], []}, fn
        "#=> " <> expected, {steps, code} -> {[{code, expected} | steps], []}
        line, {steps, code} -> {steps, [line | code]}
      end)

    Enum.reverse([{rest, nil} | steps])
    |> Enum.map(fn {lines, expected} -> {lines |> Enum.reverse() |> Enum.join("\n"), expected} end)
    |> Enum.reject(fn {code, _} -> String.trim(code) == "" end)
  end

  defp step({code, nil}, binding), do: code |> Code.eval_string(binding) |> elem(1)

  defp step({code, expected}, binding) do
    {value, binding} = Code.eval_string(code, binding)
    {said, _} = Code.eval_string(expected, binding)
    assert value == said, "#{code}\ngave #{inspect(value)}\nbut the page says #{inspect(said)}"
    binding
  end
end
