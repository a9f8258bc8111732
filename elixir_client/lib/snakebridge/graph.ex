defmodule SnakeBridge.Graph do
  @moduledoc """
  A Python value in which lists, dicts, sets or tuples are shared or contain themselves, as it comes with `preserve_identity: true`.

  Each part that is met more than once is one of `nodes`; `root` and the nodes hold a `SnakeBridge.Graph.Node` with its index where it
  stands. It goes back to Python as the same graph. `expand/1` makes a plain term.
  """

  alias SnakeBridge.{Error, Fold, FrozenSet, Graph, NamedTuple, Namespace, OrderedMap, Slice}

  @enforce_keys [:root]
  defstruct [:root, nodes: []]

  @type t :: %__MODULE__{root: term(), nodes: [term()]}

  defmodule Node do
    @moduledoc "Stands in a `SnakeBridge.Graph` for the node of that index."

    @enforce_keys [:index]
    defstruct [:index]

    @type t :: %__MODULE__{index: non_neg_integer()}
  end

  defmodule Nodes do
    @moduledoc false
    defstruct nodes: []
  end

  # Structs of the codec that hold values of the user.
  @containers [Fold, NamedTuple, Namespace, OrderedMap, SnakeBridge.Enum, SnakeBridge.Extension, Slice]

  @doc """
  The plain term: each node in every place where it stands. An error for a graph with a cycle, which no Elixir term can have, and for a node
  that does not exist.
  """
  @spec expand(t()) :: {:ok, term()} | {:error, Error.t()}
  def expand(%__MODULE__{root: root, nodes: nodes}) do
    {term, _done} = walk(root, {List.to_tuple(nodes), %{}})
    {:ok, term}
  catch
    {__MODULE__, message} -> {:error, Error.new(:decode_error, message)}
  end

  # A node is expanded once: the copies of it share their memory. state: the nodes, and those that are done (or :open) by index.
  defp walk(%Graph.Node{index: index}, {nodes, done} = state) do
    case done do
      %{^index => {:done, term}} ->
        {term, state}

      %{^index => :open} ->
        throw(
          {__MODULE__,
           "node #{index} of the graph contains itself, and no Elixir term can; work on the SnakeBridge.Graph"}
        )

      _ when is_integer(index) and index >= 0 and index < tuple_size(nodes) ->
        {term, {nodes, done}} = walk(elem(nodes, index), {nodes, Map.put(done, index, :open)})
        {term, {nodes, Map.put(done, index, {:done, term})}}

      _ ->
        throw(
          {__MODULE__, "the graph has #{tuple_size(nodes)} nodes, but a place names node #{inspect(index)}"}
        )
    end
  end

  defp walk([head | tail], state) do
    {head, state} = walk(head, state)
    {tail, state} = walk(tail, state)
    {[head | tail], state}
  end

  defp walk(tuple, state) when is_tuple(tuple) do
    {items, state} = tuple |> Tuple.to_list() |> walk(state)
    {List.to_tuple(items), state}
  end

  defp walk(%MapSet{} = set, state) do
    {items, state} = set |> MapSet.to_list() |> walk(state)
    {MapSet.new(items), state}
  end

  defp walk(%FrozenSet{items: items}, state) do
    {items, state} = walk(items, state)
    {%FrozenSet{items: items}, state}
  end

  defp walk(%module{} = struct, state) when module in @containers do
    {fields, state} = struct |> Map.from_struct() |> walk(state)
    {struct!(module, fields), state}
  end

  defp walk(%_{} = struct, state), do: {struct, state}

  defp walk(%{} = map, state) do
    {pairs, state} = map |> Map.to_list() |> walk(state)
    {Map.new(pairs), state}
  end

  defp walk(other, state), do: {other, state}
end
