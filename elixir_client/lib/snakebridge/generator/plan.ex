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
          Enum.reject(
            library.symbols,
            &(MapSet.member?(manifest.asked, {library.name, &1}) or
                is_map_key(settled, {:symbol, library.name, &1}))
          ),
        uses:
          Enum.reject(library.uses, fn {module, function, _} ->
            Manifest.covers?(manifest, module, function) or is_map_key(settled, {:use, module, function})
          end)
    }
  end

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
      asked = for {name, symbol} <- manifest.asked, name == library.name, do: symbol

      %{
        library
        | all: library.all or "*" in asked,
          symbols: library.symbols ++ List.delete(asked, "*"),
          uses: library.uses ++ Manifest.uses(manifest, library.name)
      }
    end
  end

  @doc "Which symbols these libraries ask for by name."
  @spec asked([Library.t()]) :: [{String.t(), String.t()}]
  def asked(libraries) do
    for library <- libraries,
        symbol <- if(library.all, do: ["*" | library.symbols], else: library.symbols),
        do: {library.name, symbol}
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
