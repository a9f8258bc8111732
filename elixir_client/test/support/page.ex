defmodule SnakeBridge.Test.Page do
  @moduledoc """
  Runs the Elixir blocks of a page. In a block, `#=> term` is what the expression before it gives; the blocks of a page share their variables. A
  block with `config :app` in it is read as a file of configuration. ```python file=name.py is written to the folder in
  SNAKEBRIDGE_DOCS_PYTHON, where the workers find it, for the blocks after it.
  """

  @block ~r/^```(elixir|python file=[\w.]+)\n(.*?)^```$/ms

  @doc "The blocks of a text: kind, code, and the line where the code begins."
  @spec blocks(String.t()) :: [{kind :: String.t(), code :: String.t(), line :: pos_integer()}]
  def blocks(text) do
    for [_ | [_, {start, _}] = parts] <- Regex.scan(@block, text, return: :index) do
      [kind, code] = for {start, length} <- parts, do: binary_part(text, start, length)
      above = text |> binary_part(0, start) |> :binary.matches("\n") |> length()
      {kind, code, above + 1}
    end
  end

  @doc "Runs blocks; raises where one does not do what the page says."
  @spec run!([{String.t(), String.t(), pos_integer()}], Path.t(), keyword()) :: keyword()
  def run!(blocks, page, binding \\ []), do: Enum.reduce(blocks, binding, &block(&1, page, &2))

  defp block({"python file=" <> name, code, _}, _, binding) do
    "SNAKEBRIDGE_DOCS_PYTHON" |> System.fetch_env!() |> Path.join(name) |> File.write!(code)
    SnakeBridge.call!("importlib", "invalidate_caches")
    binding
  end

  defp block({"elixir", code, line}, page, binding) do
    if code =~ ~r/^config :/m do
      configuration(code, "#{page}:#{line}")
      binding
    else
      code |> steps(line) |> Enum.reduce(binding, &step(&1, page, &2))
    end
  end

  defp configuration(code, where) do
    file = Path.join(System.tmp_dir!(), "snakebridge-page-#{System.pid()}.exs")
    File.write!(file, "import Config\n" <> code)

    try do
      if Config.Reader.read!(file) == [], do: raise("#{where} configures nothing")
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

      if value != said,
        do: raise("#{page}:#{line}\n#{code}\ngave #{inspect(value)}\nbut the page says #{inspect(said)}")
    end

    binding
  end
end
