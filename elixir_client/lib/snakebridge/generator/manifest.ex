defmodule SnakeBridge.Generator.Manifest do
  @moduledoc """
  What was generated: the symbols that were asked for, the modules and functions that came of it, with their signatures. The file
  (`snakebridge.manifest.exs`) is kept in version control; it tells whether Python has to be asked at all, and what a later one says differently.
  """

  alias SnakeBridge.Generator.TermFile

  defstruct libraries: %{}, asked: MapSet.new(), modules: %{}, functions: %{}

  @type module_entry :: {library :: String.t(), python :: String.t(), class :: String.t() | nil}
  @type function_entry ::
          {python :: String.t(), stream :: boolean(), signature :: String.t(), hash :: String.t()}

  @type t :: %__MODULE__{
          libraries: %{String.t() => String.t()},
          asked: MapSet.t({String.t(), String.t()}),
          modules: %{String.t() => module_entry()},
          functions: %{{String.t(), String.t()} => function_entry()}
        }

  @comment """
  What `mix snakebridge.gen` and the compiler generated. Written by them; in a merge conflict keep the lines of both sides and
  run `mix snakebridge.gen`.
  """

  @doc "Reads a manifest; an absent one is empty."
  @spec read(Path.t()) :: {:ok, t()} | {:error, String.t()}
  def read(path) do
    with {:ok, entries} <- TermFile.read(path), do: {:ok, Enum.reduce(entries, %__MODULE__{}, &add/2)}
  end

  defp add({:library, name, root}, manifest), do: put_in(manifest.libraries[name], root)

  defp add({:asked, name, symbol}, manifest),
    do: %{manifest | asked: MapSet.put(manifest.asked, {name, symbol})}

  defp add({:module, module, library, python, class}, manifest),
    do: put_in(manifest.modules[module], {library, python, class})

  defp add({:function, module, function, python, stream, signature, hash}, manifest),
    do: put_in(manifest.functions[{module, function}], {python, stream, signature, hash})

  # A line of a later version says something that this one does not know.
  defp add(_, manifest), do: manifest

  @doc "Writes a manifest; true when the file changed."
  @spec write(t(), Path.t()) :: boolean()
  def write(%__MODULE__{} = manifest, path) do
    entries =
      for({name, root} <- manifest.libraries, do: {:library, name, root}) ++
        for({name, symbol} <- manifest.asked, do: {:asked, name, symbol}) ++
        for(
          {module, {library, python, class}} <- manifest.modules,
          do: {:module, module, library, python, class}
        ) ++
        for(
          {{module, function}, {python, stream, signature, hash}} <- manifest.functions,
          do: {:function, module, function, python, stream, signature, hash}
        )

    TermFile.put(path, TermFile.text(@comment, entries))
  end

  @doc "The manifest of these descriptions."
  @spec new(%{String.t() => String.t()}, Enumerable.t(), %{String.t() => map()}) :: t()
  def new(libraries, asked, described) do
    %__MODULE__{
      libraries: libraries,
      asked: MapSet.new(asked),
      modules: Map.new(described, fn {name, m} -> {name, {m["library"], m["python_module"], m["class"]}} end),
      functions:
        for {name, module} <- described, function <- module["functions"], into: %{} do
          {{name, function["elixir"]},
           {function["python"], function["stream"] == true, function["signature"] || "", function["hash"]}}
        end
    }
  end

  @doc "True when a function of a wrapper is there."
  @spec covers?(t(), String.t(), String.t()) :: boolean()
  def covers?(_, _, "__" <> _), do: true

  def covers?(%__MODULE__{functions: functions}, module, function) do
    case functions do
      %{{^module, ^function} => _} -> true
      _ -> streamed?(functions, module, function)
    end
  end

  defp streamed?(functions, module, function) do
    base = String.replace_suffix(function, "_stream", "")
    base != function and match?(%{{^module, ^base} => {_, true, _, _}}, functions)
  end

  @doc "Uses that ask for all that the manifest has of a library, beyond the symbols that were asked for by name."
  @spec uses(t(), String.t()) :: [{String.t(), String.t(), boolean()}]
  def uses(%__MODULE__{} = manifest, library) do
    for {{module, function}, {_, stream, _, _}} <- manifest.functions,
        {^library, _, _} <- [manifest.modules[module]],
        name <- if(stream, do: [function, function <> "_stream"], else: [function]),
        do: {module, name, true}
  end
end
