defmodule SnakeBridge.NamedTuple do
  @moduledoc """
  An instance of a Python namedtuple. `type` is "module:qualified name" of its class, `fields` are the names, `values` the values in the same
  order.

  A field is read by name or by position, and the values are enumerated like those of a tuple:

      iex> point = SnakeBridge.NamedTuple.new("geo:Point", x: 1, y: 2)
      iex> {point[:x], point["y"], point[0], Enum.to_list(point)}
      {1, 2, 1, [1, 2]}
  """

  @behaviour Access

  @enforce_keys [:type, :fields, :values]
  defstruct [:type, :fields, :values]

  @type t :: %__MODULE__{type: String.t(), fields: [String.t()], values: [term()]}
  @type key :: String.t() | atom() | integer()

  @doc "A named tuple of pairs of a name and a value."
  @spec new(String.t(), [{String.t() | atom(), term()}]) :: t()
  def new(type, pairs) do
    {names, values} = Enum.unzip(pairs)
    %__MODULE__{type: type, fields: Enum.map(names, &to_string/1), values: values}
  end

  @impl Access
  def fetch(%__MODULE__{values: values} = tuple, key) do
    case position(tuple, key) do
      nil -> :error
      at -> Enum.fetch(values, at)
    end
  end

  @impl Access
  def get_and_update(%__MODULE__{values: values} = tuple, key, update) do
    at = position(tuple, key)

    if at == nil or at >= length(values) or at < -length(values),
      do: raise(KeyError, key: key, term: tuple)

    case update.(Enum.at(values, at)) do
      {read, value} -> {read, %{tuple | values: List.replace_at(values, at, value)}}
      :pop -> pop(tuple, key)
    end
  end

  @impl Access
  @spec pop(t(), key()) :: no_return()
  def pop(%__MODULE__{} = tuple, key),
    do:
      raise(
        ArgumentError,
        "#{inspect(key)} cannot be removed from #{inspect(tuple)}: a named tuple has all its fields"
      )

  defp position(_tuple, at) when is_integer(at), do: at
  defp position(tuple, name) when is_atom(name), do: position(tuple, Atom.to_string(name))
  defp position(%{fields: fields}, name), do: Enum.find_index(fields, &(&1 == name))

  defimpl Enumerable do
    def count(%{values: values}), do: {:ok, length(values)}
    def member?(%{values: values}, value), do: {:ok, value in values}
    def slice(_tuple), do: {:error, __MODULE__}
    def reduce(%{values: values}, acc, step), do: Enumerable.List.reduce(values, acc, step)
  end

  defimpl Inspect do
    import Inspect.Algebra

    def inspect(%{type: type, fields: fields, values: values}, opts)
        when is_binary(type) and is_list(fields) and is_list(values) and length(fields) == length(values) do
      each = fn {name, value}, opts -> concat("#{name}: ", to_doc(value, opts)) end
      container_doc("#SnakeBridge.NamedTuple<#{type} ", Enum.zip(fields, values), ">", opts, each)
    end

    def inspect(tuple, opts), do: Inspect.Any.inspect(tuple, opts)
  end
end

defmodule SnakeBridge.Enum do
  @moduledoc """
  A member of a Python Enum, IntEnum, StrEnum or Flag. `type` is "module:qualified name" of its class; `name` is nil for a combination of
  flags that has no name.
  """

  @enforce_keys [:type, :name, :value]
  defstruct [:type, :name, :value]

  @type t :: %__MODULE__{type: String.t(), name: String.t() | nil, value: term()}
end

defmodule SnakeBridge.Slice do
  @moduledoc "A Python `slice`: usually integers or nil, as in `x[start:stop:step]`."

  defstruct [:start, :stop, :step]

  @type t :: %__MODULE__{start: term(), stop: term(), step: term()}
end

defmodule SnakeBridge.Ellipsis do
  @moduledoc "Python's `Ellipsis`, the `...` of `x[..., 0]`."

  defstruct []

  @type t :: %__MODULE__{}
end

defmodule SnakeBridge.Namespace do
  @moduledoc "A Python `types.SimpleNamespace`. `fields` is a map of names (text) to values."

  defstruct fields: %{}

  @type t :: %__MODULE__{fields: %{String.t() => term()} | SnakeBridge.OrderedMap.t()}
end

defmodule SnakeBridge.Extension do
  @moduledoc """
  A value of a named type that is not registered here: its tag and its content. It goes back to Python as it came.
  `SnakeBridge.Types.register/2` turns a tag into terms of your own.
  """

  @enforce_keys [:tag, :value]
  defstruct [:tag, :value]

  @type t :: %__MODULE__{tag: String.t(), value: term()}
end

defmodule SnakeBridge.Arrow do
  @moduledoc """
  A table of pyarrow, pandas or polars, by value: an Arrow IPC stream, which `Explorer.DataFrame.load_ipc_stream!/1` and friends read.

  `kind` says what it is in Python: "table", "record_batch", "array", "chunked_array", "scalar", "pandas" or "polars".
  """

  @enforce_keys [:kind, :data]
  defstruct [:kind, :data]

  @type t :: %__MODULE__{kind: String.t(), data: binary()}

  defimpl Inspect do
    def inspect(%{kind: kind, data: data}, _opts) when is_binary(kind) and is_binary(data),
      do: "#SnakeBridge.Arrow<#{kind}, #{byte_size(data)} bytes>"

    def inspect(arrow, opts), do: Inspect.Any.inspect(arrow, opts)
  end
end

defmodule SnakeBridge.OrderedMap do
  @moduledoc """
  A map with an order: `pairs` of a key and a value. It travels as a Python dict in that order, and every dict comes back as one with the
  option `maps: :ordered`.

      iex> ordered = SnakeBridge.OrderedMap.new([{"b", 1}, {"a", 2}])
      iex> {Enum.to_list(ordered), ordered["a"], SnakeBridge.OrderedMap.to_map(ordered)}
      {[{"b", 1}, {"a", 2}], 2, %{"a" => 2, "b" => 1}}
  """

  @behaviour Access

  defstruct pairs: []

  @type t :: %__MODULE__{pairs: [{term(), term()}]}

  @doc "An ordered map of pairs. Of equal keys the last value counts, at the place of the first."
  @spec new(Enumerable.t()) :: t()
  def new(pairs \\ []) do
    values = Map.new(pairs)
    %__MODULE__{pairs: for({key, _} <- Enum.uniq_by(pairs, &elem(&1, 0)), do: {key, Map.fetch!(values, key)})}
  end

  @doc "The plain map."
  @spec to_map(t()) :: map()
  def to_map(%__MODULE__{pairs: pairs}), do: Map.new(pairs)

  @impl Access
  def fetch(%__MODULE__{pairs: pairs}, key) do
    case Enum.find(pairs, fn {name, _} -> name === key end) do
      {_, value} -> {:ok, value}
      nil -> :error
    end
  end

  @impl Access
  def get_and_update(%__MODULE__{pairs: pairs} = map, key, update) do
    value =
      case fetch(map, key) do
        {:ok, value} -> value
        :error -> nil
      end

    case update.(value) do
      {read, value} -> {read, new(pairs ++ [{key, value}])}
      :pop -> pop(map, key)
    end
  end

  @impl Access
  def pop(%__MODULE__{pairs: pairs}, key) do
    {taken, left} = Enum.split_with(pairs, fn {name, _} -> name === key end)

    value =
      case taken do
        [{_, value} | _] -> value
        [] -> nil
      end

    {value, %__MODULE__{pairs: left}}
  end

  defimpl Enumerable do
    def count(%{pairs: pairs}), do: {:ok, length(pairs)}
    def member?(%{pairs: pairs}, pair), do: {:ok, pair in pairs}
    def slice(_map), do: {:error, __MODULE__}
    def reduce(%{pairs: pairs}, acc, step), do: Enumerable.List.reduce(pairs, acc, step)
  end
end
