defmodule SnakeBridge.Generator.Sources do
  @moduledoc "The project's own sources and the uses of wrappers in them. A source that did not change is not read again."

  alias SnakeBridge.Generator.{Scanner, State}

  @type scanned :: %{Path.t() => {State.stat(), binary(), [Scanner.Use.t()]}}

  @doc "The Elixir sources below `paths`, without those below `out`."
  @spec files([Path.t()], Path.t()) :: [Path.t()]
  def files(paths, out) do
    paths
    |> Enum.flat_map(&if(File.dir?(&1), do: Path.wildcard(Path.join(&1, "**/*.ex")), else: [&1]))
    |> Enum.reject(&String.starts_with?(&1, out <> "/"))
    |> Enum.uniq()
    |> Enum.sort()
  end

  @doc "The uses in each file, from `known` where the file is still the same, and whether anything changed."
  @spec scan([Path.t()], scanned(), [String.t()]) :: {scanned(), boolean()}
  def scan(files, known, roots) do
    scanned = for file <- files, entry = entry(file, known[file], roots), into: %{}, do: {file, entry}
    {scanned, scanned != known}
  end

  defp entry(file, known, roots) do
    case {State.stat(file), known} do
      {nil, _} -> nil
      {stat, {stat, _, _}} -> known
      {stat, _} -> read(file, stat, known, roots)
    end
  end

  # A file that was only touched holds the same uses.
  defp read(file, stat, known, roots) do
    with {:ok, text} <- File.read(file) do
      hash = :erlang.md5(text)

      case known do
        {_, ^hash, uses} -> {stat, hash, uses}
        _ -> {stat, hash, Scanner.scan(text, roots)}
      end
    else
      _ -> nil
    end
  end

  @doc "Where a function of a wrapper is used: file and line."
  @spec places(scanned(), String.t(), String.t()) :: [{Path.t(), pos_integer()}]
  def places(scanned, module, function) do
    for {file, {_, _, uses}} <- Enum.sort(scanned),
        %{module: ^module, function: ^function, line: line} <- uses,
        do: {file, line}
  end
end
