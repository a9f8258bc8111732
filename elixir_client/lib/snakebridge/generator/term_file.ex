defmodule SnakeBridge.Generator.TermFile do
  @moduledoc """
  Files of Elixir terms that people read, compare and merge: a comment and a sorted list, one entry per line. They are read as data: a file that
  holds code is refused.
  """

  @doc "The entries of a file; none where there is no file."
  @spec read(Path.t()) :: {:ok, [term()]} | {:error, String.t()}
  def read(path) do
    with {:ok, text} <- File.read(path),
         {:ok, ast} <- Code.string_to_quoted(text, emit_warnings: false),
         true <- is_list(ast) and Macro.quoted_literal?(ast) do
      {entries, _} = Code.eval_quoted(ast)
      {:ok, entries}
    else
      {:error, :enoent} ->
        {:ok, []}

      {:error, reason} when is_atom(reason) ->
        {:error, "#{path} cannot be read: #{:file.format_error(reason)}"}

      _ ->
        {:error,
         "#{path} is not a list of terms, perhaps because of a merge conflict: keep the lines of both sides, or delete the file, and run " <>
           "mix snakebridge.gen"}
    end
  end

  @doc "The text of a file with these entries."
  @spec text(String.t(), [term()]) :: String.t()
  def text(comment, entries) do
    lines =
      for entry <- entries |> Enum.uniq() |> Enum.sort(),
          do: ["  ", inspect(entry, limit: :infinity, printable_limit: :infinity, width: :infinity), ",\n"]

    comment = for line <- String.split(comment, "\n", trim: true), do: ["# ", line, "\n"]
    IO.iodata_to_binary([comment, "[\n", drop_comma(lines), "]\n"])
  end

  defp drop_comma([]), do: []
  defp drop_comma(lines), do: List.update_at(lines, -1, fn [indent, text, _] -> [indent, text, "\n"] end)

  @doc "Writes a file unless it says so already; true when it was written."
  @spec put(Path.t(), String.t()) :: boolean()
  def put(path, text) do
    case File.read(path) do
      {:ok, ^text} ->
        false

      _ ->
        File.mkdir_p!(Path.dirname(path))
        # A compiler or an editor that reads at this moment sees the old text or the new one.
        beside = "#{path}.#{System.pid()}"
        File.write!(beside, text)
        File.rename!(beside, path)
        true
    end
  end
end
