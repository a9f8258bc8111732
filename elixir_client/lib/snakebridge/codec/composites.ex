defmodule SnakeBridge.Codec.Composites do
  @moduledoc """
  The composites of `packed`: types that are made of other values and travel as an array that starts with a MARK, the extension `0x10`
  with the kind as its payload.

  The table is the one place where such a type is declared: its kind on the wire, its struct here (nil for what is no struct), whether its
  parts are values of the user (`:elements`, which count for the limits) or its own `:fields`, and the functions that take it apart and
  build it.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2, show: 1]

  alias SnakeBridge.Codec.{Keys, Options}
  alias SnakeBridge.{FrozenSet, Ref, StreamRef, Tensor}

  @table [
    {0x01, nil, :elements, nil, :build_tuple},
    {0x02, MapSet, :elements, :split_set, :build_set},
    {0x03, SnakeBridge.FrozenSet, :elements, :split_frozen_set, :build_frozen_set},
    {0x05, SnakeBridge.Ref, :fields, :split_ref, :build_ref},
    {0x06, SnakeBridge.StreamRef, :fields, :split_stream_ref, :build_stream_ref},
    {0x07, nil, :fields, nil, :build_callback},
    {0x08, SnakeBridge.Tensor, :fields, :split_tensor, :build_tensor}
  ]

  @type level :: :elements | :fields
  @type split :: {kind :: byte(), level(), parts :: [term()]}

  @doc "Kind and parts of a struct that is a composite, else nil."
  @spec split(struct()) :: split() | nil
  for {kind, struct, level, split, _build} <- @table, struct != nil do
    def split(%{__struct__: unquote(struct)} = value),
      do: {unquote(kind), unquote(level), unquote(split)(value)}
  end

  def split(_), do: nil

  @doc "Whether the parts of a kind are values of the user or its own fields; nil when there is no such kind."
  @spec level(byte()) :: level() | nil
  for {kind, _struct, level, _split, _build} <- @table do
    def level(unquote(kind)), do: unquote(level)
  end

  def level(_), do: nil

  @doc "The term of a composite. Throws when the parts are not those of its kind."
  @spec build(byte(), [term()], Options.t()) :: term()
  for {kind, _struct, _level, _split, build} <- @table do
    def build(unquote(kind), parts, opts), do: unquote(build)(parts, opts)
  end

  @doc "Appends the mark of a kind."
  @spec mark(binary(), byte()) :: binary()
  def mark(out, kind), do: <<out::binary, 0xD4, 0x10, kind>>

  # tuples: the encoder takes them apart itself

  @doc "Appends the mark of a tuple."
  @spec tuple_head(binary()) :: binary()
  def tuple_head(out), do: mark(out, 0x01)

  defp build_tuple(parts, _), do: List.to_tuple(parts)

  # sets

  defp split_set(set), do: Keys.elements(set)

  defp build_set(parts, _) do
    set = MapSet.new(parts)

    if MapSet.size(set) == length(parts),
      do: set,
      else: malformed("a set in which elements are equal", parts)
  end

  defp split_frozen_set(%FrozenSet{items: %MapSet{} = items}), do: Keys.elements(items)

  defp split_frozen_set(other),
    do:
      fail(
        :encode_error,
        "the items of #{show(other)} must be a MapSet; SnakeBridge.FrozenSet.new/1 makes one"
      )

  defp build_frozen_set(parts, opts), do: %FrozenSet{items: build_set(parts, opts)}

  # refs

  defp split_ref(%Ref{} = ref), do: ref_fields(ref, [:id, :session_id, :python_module, :library, :type_name])

  defp build_ref([id, session, module, library, type_name] = parts, opts) do
    check_texts("a ref", parts)
    %{opts.ref | id: id, session_id: session, python_module: module, library: library, type_name: type_name}
  end

  defp build_ref(parts, _), do: malformed("a ref that is not five texts", parts)

  defp split_stream_ref(%StreamRef{} = ref),
    do: ref_fields(ref, [:id, :session_id, :python_module, :library, :type_name, :stream_type])

  defp build_stream_ref([id, session, module, library, type_name, stream_type] = parts, opts) do
    check_texts("a stream_ref", parts)

    %{
      opts.stream_ref
      | id: id,
        session_id: session,
        python_module: module,
        library: library,
        type_name: type_name,
        stream_type: stream_type
    }
  end

  defp build_stream_ref(parts, _), do: malformed("a stream_ref that is not six texts", parts)

  defp ref_fields(%{id: id, session_id: session} = ref, names)
       when is_binary(id) and id != "" and is_binary(session) do
    for name <- names do
      case Map.fetch!(ref, name) do
        nil -> ""
        text when is_binary(text) -> text
        other -> fail(:encode_error, "the field #{name} of #{show(ref)} must be text, not #{show(other)}")
      end
    end
  end

  defp ref_fields(ref, _),
    do:
      fail(
        :encode_error,
        "#{show(ref)} names no object: its id and session_id must be texts; use a ref that a call answered"
      )

  # Invalid UTF-8 never gets here as a string, so any binary among the parts is a str, or a BINARY that nobody sends.
  defp check_texts(what, [id | _] = parts) do
    unless id != "" and Enum.all?(parts, &(is_binary(&1) and String.valid?(&1))),
      do: malformed("#{what} with parts that are not texts", parts)
  end

  # functions

  @doc "Kind and parts of a function, named by the option `:callback`."
  @spec split_function(function(), (function() -> Options.callback_record()) | nil) :: split()
  def split_function(function, nil) do
    fail(
      :encode_error,
      "#{show(function)} cannot be sent here: a function travels only as an argument of a call, where Python can call it back"
    )
  end

  def split_function(function, callback) do
    %{id: id, arity: arity, owner: owner} = callback.(function)
    {0x07, :fields, [id, arity, owner]}
  end

  defp build_callback([id, arity, owner] = parts, opts)
       when is_binary(id) and is_integer(arity) and is_binary(owner) do
    cond do
      arity not in 0..255 ->
        malformed("a callback of an impossible arity", parts)

      opts.callback == nil ->
        fail(:decode_error, "the function #{show(id)} came in where no functions are expected")

      true ->
        opts.callback.(%{id: id, arity: arity, owner: owner})
    end
  end

  defp build_callback(parts, _), do: malformed("a callback that is not an id, an arity and an owner", parts)

  # arrays

  defp split_tensor(%Tensor{} = tensor) do
    case Tensor.check(tensor) do
      :ok -> [tensor.dtype, Tuple.to_list(tensor.shape), %SnakeBridge.Bytes{data: tensor.data}]
      {:error, rule} -> fail(:encode_error, "#{show(tensor)} cannot be sent: #{rule}")
    end
  end

  defp build_tensor([dtype, shape, data], _) when is_binary(dtype) and is_list(shape) do
    data = if is_struct(data, SnakeBridge.Bytes), do: data.data, else: data
    tensor = %Tensor{dtype: :binary.copy(dtype), shape: List.to_tuple(shape), data: data}

    case Tensor.check(tensor) do
      :ok -> tensor
      {:error, what} -> malformed("an array", what)
    end
  end

  defp build_tensor(parts, _), do: malformed("an array that is not a dtype, a shape and bytes", parts)

  # everything else

  @doc "Why a term has no form in Python, and what to send instead."
  @spec unsupported(term()) :: String.t()
  def unsupported(term), do: "#{show(term)} has no form in Python; #{remedy(term)}"

  defp remedy(%Range{}), do: "send Enum.to_list/1 of it, or its first, last and step"
  defp remedy(%Regex{}), do: "send its source as text (Regex.source/1)"
  defp remedy(%URI{}), do: "send it as text (URI.to_string/1)"
  defp remedy(%SnakeBridge.Bytes{}), do: "its data must be a binary"
  defp remedy(%{__exception__: true}), do: "send Exception.message/1 of it"

  defp remedy(%struct{}),
    do: "convert the #{inspect(struct)} to a map (Map.from_struct/1), to text or to a number first"

  defp remedy(term) when is_pid(term), do: "send a function that sends to this process, or inspect/1 of it"
  defp remedy(term) when is_reference(term), do: "keep it in a map here and send the key"
  defp remedy(term) when is_port(term), do: "ports cannot leave the node; send a function that uses it"
  defp remedy(term) when is_bitstring(term), do: "pad it to whole bytes and send its bit_size/1 along"
  defp remedy(_), do: "convert it to plain data first"

  defp malformed(what, parts) do
    shown = if is_binary(parts), do: parts, else: show(parts)
    fail(:decode_error, "#{what} came in: #{shown}; the sender's encoder is broken or the message is corrupt")
  end
end
