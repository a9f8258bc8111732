defmodule SnakeBridge.Generator.Names do
  @moduledoc """
  Names on the Elixir side: the module that stands for a library, the file of a module, the variable of a parameter. The names of generated
  functions are Python's part (`bridge_adapter.tools.introspect`).
  """

  # A wrapper under one of these would replace a module of Elixir itself.
  @taken [:elixir, :logger, :mix, :ex_unit, :eex, :iex]
         |> Enum.flat_map(fn app ->
           Application.load(app)
           Application.spec(app, :modules) || []
         end)
         |> Enum.map(&inspect/1)
         |> Enum.concat(["SnakeBridge"])
         |> MapSet.new()

  @reserved ~w(true false nil when and or not in fn do end catch rescue after else opts ref value callback
               __MODULE__ __CALLER__ __ENV__ __DIR__ __STACKTRACE__)

  @doc "The module that stands for a library unless the configuration names another: `\"jax.numpy\"` is `\"Jax.Numpy\"`, `\"time\"` is `\"PyTime\"`."
  @spec root(String.t()) :: String.t()
  def root(library) do
    root = library |> String.split(".") |> Enum.map_join(".", &camelize/1)
    if taken?(root), do: "Py" <> root, else: root
  end

  @doc "True for the names of Elixir's own modules."
  @spec taken?(String.t()) :: boolean()
  def taken?(module), do: MapSet.member?(@taken, module)

  defp camelize(segment) do
    segment
    |> String.split("_", trim: true)
    |> Enum.map_join(fn <<first::utf8, rest::binary>> -> String.upcase(<<first::utf8>>) <> rest end)
  end

  @doc "The file of a module below the folder of generated code."
  @spec file(String.t()) :: String.t()
  def file(module), do: Macro.underscore(module) <> ".ex"

  @doc "The files of modules. Where names differ only in capitals, the later ones get a number."
  @spec files([String.t()]) :: %{String.t() => String.t()}
  def files(modules) do
    modules
    |> Enum.group_by(&file/1)
    |> Enum.flat_map(fn {file, modules} ->
      for {module, index} <- modules |> Enum.sort() |> Enum.with_index(1),
          do: {module, if(index == 1, do: file, else: String.replace_suffix(file, ".ex", "_#{index}.ex"))}
    end)
    |> Map.new()
  end

  @doc "Variables for parameters, in their order; all different, and none that Elixir reserves."
  @spec variables([String.t()]) :: [String.t()]
  def variables(names) do
    {variables, _} = Enum.map_reduce(names, MapSet.new(@reserved), &variable/2)
    variables
  end

  defp variable(name, used) do
    base = name |> Macro.underscore() |> String.trim_leading("_")
    base = if base =~ ~r/\A[a-z][a-z0-9_]*\z/, do: base, else: "arg"

    variable =
      Stream.iterate(1, &(&1 + 1))
      |> Stream.map(&if(&1 == 1, do: base, else: "#{base}_#{&1}"))
      |> Enum.find(&(not MapSet.member?(used, &1)))

    {variable, MapSet.put(used, variable)}
  end

  @doc "An atom as it is written in source."
  @spec atom(String.t()) :: String.t()
  def atom(name), do: inspect(String.to_atom(name))
end
