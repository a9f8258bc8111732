defmodule SnakeBridge.Generator.Library do
  @moduledoc """
  A Python library as the configuration or the command line names it, and what of it is asked for.

      config :snakebridge,
        libraries: [
          :json,
          numpy: [include: ["linalg.norm"], stream: ["nditer"]],
          "jax.numpy": [module: "Jnp"],
          {"sklearn.linear_model", all: true}
        ]
  """

  alias SnakeBridge.Generator.Names

  @enforce_keys [:name, :root]
  defstruct [:name, :root, all: false, only: false, symbols: [], stream: [], uses: []]

  @typedoc """
  `symbols` are Python paths relative to `name` (`""`: the module itself); with `only` the calls in the project add nothing to them. `uses` are
  functions of wrappers: module, function, and whether it may as well be something else.
  """
  @type t :: %__MODULE__{
          name: String.t(),
          root: String.t(),
          all: boolean(),
          only: boolean(),
          symbols: [String.t()],
          stream: [String.t()],
          uses: [{String.t(), String.t(), boolean()}]
        }

  @options [:module, :all, :only, :include, :stream]

  @doc "The libraries of a configuration. Raises ArgumentError where it cannot be meant."
  @spec parse([atom() | String.t() | {atom() | String.t(), keyword()}]) :: [t()]
  def parse(entries) when is_list(entries) do
    libraries = Enum.map(entries, &one/1)

    for {key, what} <- [name: "the library", root: "the module"],
        {value, [_, _ | _]} <- Enum.group_by(libraries, &Map.fetch!(&1, key)) do
      raise ArgumentError, "config :snakebridge, libraries: names #{what} #{value} twice; write one entry"
    end

    libraries
  end

  def parse(other),
    do:
      raise(
        ArgumentError,
        "config :snakebridge, libraries: must be a list of names, like [:json, numpy: []], not #{inspect(other)}"
      )

  defp one(name) when is_binary(name) or (is_atom(name) and name not in [nil, true, false]),
    do: one({name, []})

  defp one({name, options}) when is_list(options) do
    name = to_string(name)

    unless Keyword.keyword?(options) and Keyword.keys(options) -- @options == [] do
      raise ArgumentError,
            "config :snakebridge, libraries: #{name} has the options #{inspect(options)}; known are #{Enum.map_join(@options, ", ", &"#{&1}:")}"
    end

    %__MODULE__{
      name: name,
      root: root(name, options[:module]),
      all: options[:all] == true,
      only: Keyword.has_key?(options, :only),
      symbols: strings(options[:only]) ++ strings(options[:include]),
      stream: strings(options[:stream])
    }
  end

  defp one(other) do
    raise ArgumentError,
          "config :snakebridge, libraries: holds #{inspect(other)}; an entry is a name, or {name, options}"
  end

  defp root(name, nil), do: Names.root(name)

  defp root(name, module) do
    root = module |> to_string() |> String.replace_prefix("Elixir.", "")

    cond do
      not (root =~ ~r/\A[A-Z]\w*(\.[A-Z]\w*)*\z/) ->
        raise ArgumentError,
              "#{inspect(module)} is no module name for the library #{name}; use one like Numpy"

      Names.taken?(root) ->
        raise ArgumentError,
              "the library #{name} cannot be #{root}: Elixir has a module of that name; use module: \"Py#{root}\""

      true ->
        root
    end
  end

  defp strings(values), do: values |> List.wrap() |> Enum.map(&to_string/1)

  @doc "The library that a module belongs to: the one with the longest root."
  @spec owner([t()], String.t()) :: t() | nil
  def owner(libraries, module) do
    libraries
    |> Enum.filter(&(module == &1.root or String.starts_with?(module, &1.root <> ".")))
    |> Enum.max_by(&byte_size(&1.root), fn -> nil end)
  end

  @doc "What introspection is asked."
  @spec request(t()) :: map()
  def request(%__MODULE__{} = library) do
    %{
      "library" => library.name,
      "root" => library.root,
      "all" => library.all,
      "symbols" => library.symbols |> Enum.uniq() |> Enum.sort(),
      "stream" => library.stream |> Enum.uniq() |> Enum.sort(),
      "uses" =>
        for({module, function, optional} <- library.uses |> Enum.uniq() |> Enum.sort()) do
          use = %{"module" => module, "function" => function}
          if optional, do: Map.put(use, "optional", true), else: use
        end
    }
  end
end
