defmodule SnakeBridge.Flow.Plain do
  @moduledoc """
  Descriptions as Python takes them: maps with text keys, lists, numbers, texts and arrays. Keyword lists and structs become maps, tuples lists,
  atoms texts; tensors and what lies in shared memory stay what they are. A key that is said twice raises ArgumentError.
  """
  alias SnakeBridge.{Tensor, ZeroCopyRef}

  @arrays [Tensor, ZeroCopyRef, :"Elixir.Nx.Tensor"]

  @doc "A description in plain form. Keys that are nil in a struct are left out."
  @spec plain(term()) :: term()
  def plain(%kind{} = array) when kind in @arrays, do: array
  def plain(%_{} = struct), do: struct |> Map.from_struct() |> Map.reject(&match?({_, nil}, &1)) |> plain()
  def plain(%{} = map), do: unique(Map.to_list(map))

  def plain([{key, _} | _] = list) when is_atom(key),
    do: if(Keyword.keyword?(list), do: unique(list), else: Enum.map(list, &plain/1))

  def plain(list) when is_list(list), do: Enum.map(list, &plain/1)
  def plain(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> plain()
  def plain(atom) when is_atom(atom) and atom not in [nil, true, false], do: Atom.to_string(atom)
  def plain(other), do: other

  # Of two values under one name (twice in a keyword list, or as an atom and as a text) one would be lost.
  defp unique(pairs) do
    Enum.reduce(pairs, %{}, fn {key, value}, fields ->
      key = key(key)

      if is_map_key(fields, key),
        do: raise(ArgumentError, "the key #{inspect(key)} is said twice; say it once")

      Map.put(fields, key, plain(value))
    end)
  end

  defp key(key) when is_atom(key), do: Atom.to_string(key)
  defp key(key), do: key
end
