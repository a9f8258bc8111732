defmodule SnakeBridge.Generator.Plan do
  @moduledoc """
  What has to be asked of Python: pure decisions over what is wanted (libraries with symbols and uses), what the manifest has, and what the state
  still knows.
  """

  alias SnakeBridge.Generator.{Library, Manifest, State}

  @doc "The libraries with what is wanted and not there yet. `settled` is what Python has said it does not have."
  @spec missing([Library.t()], Manifest.t(), %{term() => String.t()}) :: [Library.t()]
  def missing(libraries, manifest, settled) do
    for library <- libraries, library = reduce(library, manifest, settled), wanted?(library), do: library
  end

  defp reduce(library, manifest, settled) do
    %{
      library
      | all: library.all and not MapSet.member?(manifest.asked, {library.name, "*"}),
        symbols:
          for {symbol, mark} <- marked(library),
              not MapSet.member?(manifest.asked, {library.name, mark}),
              not is_map_key(settled, {:symbol, library.name, symbol}),
              uniq: true do
            symbol
          end,
        uses:
          Enum.reject(library.uses, fn {module, function, _} ->
            Manifest.covers?(manifest, module, function) or is_map_key(settled, {:use, module, function})
          end)
    }
  end

  # Each symbol with how the manifest notes that it was asked for. What shall be a stream is asked for, too, and noted with a `~`: that a function
  # was described before says nothing about its `_stream` form.
  defp marked(library), do: Enum.map(library.symbols, &{&1, &1}) ++ Enum.map(library.stream, &{&1, "~" <> &1})

  defp wanted?(library), do: library.all or library.symbols != [] or library.uses != []

  @doc "True when something is missing that the project needs; a use that may as well be something else is not needed."
  @spec needed?([Library.t()]) :: boolean()
  def needed?(missing) do
    Enum.any?(missing, fn library ->
      library.all or library.symbols != [] or Enum.any?(library.uses, fn {_, _, optional} -> not optional end)
    end)
  end

  @doc "True when the state still has the descriptions that the manifest tells of, so that Python need not repeat them."
  @spec remembered?(State.t(), Manifest.t()) :: boolean()
  def remembered?(%State{described: described}, %Manifest{} = manifest) do
    hashes =
      for {name, module} <- described, function <- module["functions"], into: %{} do
        {{name, function["elixir"]}, function["hash"]}
      end

    Enum.all?(manifest.modules, fn {name, _} -> is_map_key(described, name) end) and
      Enum.all?(manifest.functions, fn {key, {_, _, _, hash}} -> hashes[key] == hash end)
  end

  @doc "The descriptions of what the manifest tells of."
  @spec described(State.t(), Manifest.t()) :: %{String.t() => map()}
  def described(%State{described: described}, %Manifest{} = manifest) do
    for {name, module} <- described, is_map_key(manifest.modules, name), into: %{} do
      functions = Enum.filter(module["functions"], &is_map_key(manifest.functions, {name, &1["elixir"]}))
      {name, %{module | "functions" => functions}}
    end
  end

  @doc "The libraries with all that the manifest has of them added, and the manifest's other libraries."
  @spec with_manifest([Library.t()], Manifest.t()) :: [Library.t()]
  def with_manifest(libraries, manifest) do
    others =
      for {name, root} <- manifest.libraries, not Enum.any?(libraries, &(&1.name == name)) do
        %Library{name: name, root: root}
      end

    for library <- libraries ++ others do
      asked = for {name, mark} <- manifest.asked, name == library.name, do: mark
      {streams, symbols} = Enum.split_with(asked, &String.starts_with?(&1, "~"))
      streams = library.stream ++ Enum.map(streams, &String.trim_leading(&1, "~"))

      %{
        library
        | all: library.all or "*" in symbols,
          symbols: library.symbols ++ List.delete(symbols, "*") ++ streams,
          stream: streams,
          uses: library.uses ++ Manifest.uses(manifest, library.name)
      }
    end
  end

  @doc "Of these libraries those named, with all that the manifest has of them: they are described anew."
  @spec anew([Library.t()], Manifest.t(), [String.t()]) :: [Library.t()]
  def anew(libraries, manifest, names) do
    libraries
    |> Enum.filter(&(&1.name in names))
    |> with_manifest(%{manifest | libraries: Map.take(manifest.libraries, names)})
  end

  @doc "Which symbols these libraries ask for by name."
  @spec asked([Library.t()]) :: [{String.t(), String.t()}]
  def asked(libraries) do
    for library <- libraries,
        marks = Enum.map(marked(library), &elem(&1, 1)),
        mark <- if(library.all, do: ["*" | marks], else: marks),
        do: {library.name, mark}
  end

  @doc "Descriptions with further ones: functions of a module are joined, and the newer description of each holds."
  @spec merge(%{String.t() => map()}, [map()]) :: %{String.t() => map()}
  def merge(described, modules) do
    Enum.reduce(modules, described, fn module, described ->
      Map.update(described, module["elixir"], module, &join(&1, module))
    end)
  end

  defp join(_, %{"whole" => true} = new), do: new

  defp join(old, new) do
    functions = Map.new(old["functions"] ++ new["functions"], &{&1["elixir"], &1})
    functions = functions |> Map.values() |> Enum.sort_by(&{&1["elixir"], &1["python"]})
    %{new | "functions" => functions, "whole" => old["whole"]}
  end
end
