defmodule SnakeBridge.Codec.Composites do
  @moduledoc """
  The composites of `packed`: types that are made of other values and travel as an array that starts with a MARK, the extension `0x10`
  with the kind as its payload.

  The table is the one place where such a type is declared: its kind on the wire, its struct here (nil for what is no struct), whether its
  parts are values of the user (`:elements`, which count for the limits) or its own `:fields`, and the functions that take it apart and
  build it. Types that have a name on the wire are one kind here and have their own table, `SnakeBridge.Codec.Typed`.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2, malformed: 2, show: 1]

  alias SnakeBridge.Codec.{Arrays, Keys, Options, Segment, Typed}
  alias SnakeBridge.{Bytes, FrozenSet, Graph, OrderedMap, Ref, StreamRef, ZeroCopyRef}

  @table [
    {0x01, nil, :elements, nil, :build_tuple},
    {0x02, MapSet, :elements, :split_set, :build_set},
    {0x03, SnakeBridge.FrozenSet, :elements, :split_frozen_set, :build_frozen_set},
    {0x04, nil, :elements, nil, :build_pairs},
    {0x05, SnakeBridge.Ref, :fields, :split_ref, :build_ref},
    {0x06, SnakeBridge.StreamRef, :fields, :split_stream_ref, :build_stream_ref},
    {0x07, nil, :fields, nil, :build_callback},
    {0x08, SnakeBridge.Tensor, :fields, :split_tensor, :build_tensor},
    {0x08, :"Elixir.Nx.Tensor", :fields, :split_tensor, :build_tensor},
    {0x09, nil, :elements, nil, :build_typed},
    {0x0A, nil, :elements, nil, :build_set},
    {0x0B, SnakeBridge.Codec.Segment, :fields, :split_segment, :build_segment},
    {0x0C, SnakeBridge.Graph, :elements, :split_graph, :build_graph},
    {0x0D, SnakeBridge.Graph.Node, :fields, :split_node, :build_node},
    {0x0E, SnakeBridge.Graph.Nodes, :elements, :split_nodes, :build_nodes}
  ]
  @kinds Enum.uniq_by(@table, &elem(&1, 0))

  @type level :: :elements | :fields
  @type split :: {kind :: byte(), level(), parts :: [term()]}

  @doc """
  Kind and parts of a struct that is a composite; size and fields of one that is a map in an order of its own; nil for a struct without a
  counterpart in Python.
  """
  @spec split(struct()) :: split() | {:map, size :: non_neg_integer(), fields :: [term()]} | nil
  for {kind, struct, level, split, _build} <- @table, struct != nil do
    def split(%{__struct__: unquote(struct)} = value) do
      case unquote(split)(value) do
        {:members, parts} -> members(unquote(kind), parts)
        parts -> {unquote(kind), unquote(level), parts}
      end
    end
  end

  def split(%OrderedMap{} = map), do: split_ordered(map)
  def split(%ZeroCopyRef{} = ref), do: Segment.split_ref(ref)

  # The encoder writes those with a binary itself.
  def split(%Bytes{} = bytes),
    do: fail(:encode_error, "#{show(bytes)} cannot be sent: its data must be a binary")

  def split(other) do
    case Typed.dump(other) do
      {tag, payload} -> {0x09, :elements, [tag, payload]}
      nil -> nil
    end
  end

  @doc "Whether the parts of a kind are values of the user or its own fields; nil when there is no such kind."
  @spec level(byte()) :: level() | nil
  for {kind, _struct, level, _split, _build} <- @kinds do
    def level(unquote(kind)), do: unquote(level)
  end

  def level(_), do: nil

  @doc "The term of a composite. Throws when the parts are not those of its kind."
  @spec build(byte(), [term()], Options.t()) :: term()
  for {kind, _struct, _level, _split, build} <- @kinds do
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

  defp split_frozen_set(%FrozenSet{items: %MapSet{} = items}), do: Keys.frozen_elements(items)

  defp split_frozen_set(other),
    do:
      fail(
        :encode_error,
        "the items of #{show(other)} must be a MapSet; SnakeBridge.FrozenSet.new/1 makes one"
      )

  defp build_frozen_set(parts, opts), do: %FrozenSet{items: build_set(parts, opts)}

  # Python has no frozenset of what it cannot hash, and nothing else that goes back as one.
  defp members(0x03, _parts), do: nil
  defp members(0x02, parts), do: {0x0A, :elements, parts}

  # maps that Python cannot hold as dicts, or in an order of their own

  defp build_pairs(parts, opts) do
    pairs = pairs(parts, parts)
    map = Map.new(pairs)

    cond do
      map_size(map) != length(pairs) -> malformed("a map in which keys are equal", parts)
      # Python could make any struct of such a map, and structs are trusted with more than data.
      is_map_key(map, :__struct__) -> malformed("a map with the atom __struct__ as a key", parts)
      opts.maps == :ordered -> %OrderedMap{pairs: pairs}
      true -> map
    end
  end

  defp pairs([key, value | rest], parts), do: [{key, value} | pairs(rest, parts)]
  defp pairs([], _parts), do: []
  defp pairs([_], parts), do: malformed("a map with a key that has no value", parts)

  defp split_ordered(%OrderedMap{pairs: pairs} = map) do
    unless is_list(pairs) and Enum.all?(pairs, &match?({_, _}, &1)) and
             map_size(Map.new(pairs)) == length(pairs),
           do:
             fail(
               :encode_error,
               "#{show(map)} cannot be sent: its pairs must be a list of {key, value} whose keys differ; SnakeBridge.OrderedMap.new/1 makes one"
             )

    case Keys.ordered_fields(pairs) do
      {:pairs, fields} -> {0x04, :elements, fields}
      fields -> {:map, length(pairs), fields}
    end
  end

  # named types

  defp build_typed([tag, payload], opts) when is_binary(tag) do
    if String.valid?(tag),
      do: Typed.load(tag, payload, opts),
      else: malformed("a tag that is not text", inspect(tag))
  end

  defp build_typed(parts, _), do: malformed("a typed value that is not a tag and a payload", parts)

  # values with shared parts

  defp split_graph(%Graph{root: root, nodes: nodes} = graph) do
    if is_list(nodes) and not List.improper?(nodes),
      do: [root, %Graph.Nodes{nodes: nodes}],
      else: fail(:encode_error, "#{show(graph)} cannot be sent: its nodes must be a list")
  end

  defp build_graph([root, %Graph.Nodes{nodes: nodes}], _), do: %Graph{root: root, nodes: nodes}
  defp build_graph(parts, _), do: malformed("a graph that is not a root and nodes", parts)

  defp split_nodes(%Graph.Nodes{nodes: nodes}), do: nodes
  defp build_nodes(nodes, _), do: %Graph.Nodes{nodes: nodes}

  defp split_node(%Graph.Node{index: index} = node) do
    if is_integer(index) and index >= 0,
      do: [index],
      else: fail(:encode_error, "#{show(node)} cannot be sent: its index must be an integer >= 0")
  end

  defp build_node([index], _) when is_integer(index) and index >= 0, do: %Graph.Node{index: index}
  defp build_node(parts, _), do: malformed("a node that is not an index", parts)

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
  @spec split_function(function(), (function() -> Options.callback_record())) :: split()
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

  defp split_tensor(array), do: Arrays.split(array)
  defp build_tensor(parts, opts), do: Arrays.build(parts, opts)

  # shared memory

  defp split_segment(segment), do: Segment.split(segment)
  defp build_segment(parts, opts), do: Segment.build(parts, opts)
end
