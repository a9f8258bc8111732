defmodule SnakeBridge.Payload.Fields do
  @moduledoc "The fields of a payload, from what the caller wrote: arguments and options, modules, classes, objects."

  alias SnakeBridge.Pool.Journal
  alias SnakeBridge.{Ref, Retry, StreamRef}

  @reserved [:idempotent, :idempotency_key, :mutates, :__args__, :__runtime__]

  @doc "Arguments and keyword arguments as fields of a payload, and the options that are ours. Raises ArgumentError."
  @spec split(keyword() | map(), [term()]) :: {map(), keyword()}
  def split(opts, args) when is_map(opts), do: split_fields(opts, [], args)

  def split(opts, args) when is_list(opts) do
    unless Keyword.keyword?(opts),
      do: raise(ArgumentError, "options must be a keyword list or a map, not #{inspect(opts, limit: 5)}")

    {ours, kwargs} = Keyword.split(opts, @reserved)
    # An atom cannot be what a Python function calls a pool.
    {pool, kwargs} =
      if is_atom(kwargs[:pool]) and kwargs[:pool] != nil, do: Keyword.pop(kwargs, :pool), else: {nil, kwargs}

    ours = if pool, do: Keyword.put(ours, :pool, pool), else: ours
    # Nor can these be what one calls retry.
    {retry, kwargs} = if policy?(kwargs[:retry]), do: Keyword.pop(kwargs, :retry), else: {nil, kwargs}
    split_fields(kwargs, if(retry, do: Keyword.put(ours, :retry, retry), else: ours), args)
  end

  defp policy?(%Retry{}), do: true
  defp policy?([_ | _] = given), do: Keyword.keyword?(given)
  defp policy?(_), do: false

  defp split_fields(kwargs, ours, args) do
    runtime = Keyword.get(ours, :__runtime__, [])
    pool = ours[:pool] || runtime[:pool] || runtime[:pool_name]
    runtime = if pool, do: Keyword.put(runtime, :pool, pool), else: runtime
    runtime = if ours[:retry], do: Keyword.put(runtime, :retry, ours[:retry]), else: runtime

    # What only reads may be made again, too.
    reads? = ours[:mutates] == false

    fields = %{
      "args" => args ++ Keyword.get(ours, :__args__, []),
      "kwargs" => stringify(kwargs),
      "idempotent" => reads? or Keyword.get(ours, :idempotent, false) == true
    }

    fields = if reads?, do: Map.put(fields, "mutates", false), else: fields

    case ours[:idempotency_key] do
      nil -> {fields, runtime}
      key -> {Map.merge(fields, %{"idempotent" => true, "idempotency_key" => Journal.check!(key)}), runtime}
    end
  end

  @doc "Pairs as a map with texts as keys."
  @spec stringify(Enumerable.t()) :: %{optional(String.t()) => term()}
  def stringify(pairs), do: Map.new(pairs, fn {key, value} -> {to_string(key), value} end)

  @doc "What names a Python module: its name, or a wrapper module that knows it."
  @spec names(module() | String.t()) :: map()
  def names(module) when is_binary(module) do
    %{"python_module" => module, "module_path" => module, "library" => library(module)}
  end

  def names(module) when is_atom(module) do
    name = exported(module, [:__snakebridge_python_name__, :__snakebridge_python_module__]) || missing(module)
    %{"python_module" => name, "library" => exported(module, [:__snakebridge_library__]) || library(name)}
  end

  @doc "The name of a class: of its wrapper module, or the last part of a dotted name."
  @spec class(module() | String.t()) :: String.t()
  def class(module) when is_atom(module) do
    exported(module, [:__snakebridge_python_class__]) || module |> Module.split() |> List.last()
  end

  def class(module) when is_binary(module), do: module |> String.split(".") |> List.last()

  defp exported(module, names) do
    Code.ensure_loaded(module)

    Enum.find_value(names, fn name ->
      if function_exported?(module, name, 0), do: to_string(apply(module, name, []))
    end)
  end

  defp missing(module) do
    raise ArgumentError,
          "#{inspect(module)} is no SnakeBridge wrapper: it does not export __snakebridge_python_name__/0; name Python modules as strings, like \"numpy\""
  end

  defp library(module), do: module |> String.split(".") |> hd()

  @doc "What names the object whose method or attribute is meant: a ref, or a value."
  @spec instance(term()) :: map()
  def instance(%kind{} = ref) when kind in [Ref, StreamRef],
    do: %{"instance" => ref, "python_module" => ref.python_module || "", "library" => ref.library || ""}

  # A value: Python makes its object of it, for this one call.
  def instance(value), do: %{"instance" => value, "python_module" => "", "library" => ""}
end
