defmodule SnakeBridge.Flow.Plain do
  @moduledoc """
  Descriptions as Python takes them: maps with text keys, lists, numbers, texts and arrays. Keyword lists and structs become maps, tuples lists,
  atoms texts; tensors and what lies in shared memory stay what they are. A key that is said twice and an improper list raise ArgumentError, which
  names the place: `params.edges[2]`.
  """
  alias SnakeBridge.{Tensor, ZeroCopyRef}

  @arrays [Tensor, ZeroCopyRef, :"Elixir.Nx.Tensor"]

  @doc "A description in plain form. Keys that are nil in a struct are left out. `place`: what it stands in, from the inside out."
  @spec plain(term(), [String.t() | non_neg_integer()]) :: term()
  def plain(value, place \\ [])
  def plain(%kind{} = array, _) when kind in @arrays, do: array

  def plain(%_{} = struct, place),
    do: struct |> Map.from_struct() |> Map.reject(&match?({_, nil}, &1)) |> plain(place)

  def plain(%{} = map, place), do: map |> Map.to_list() |> unique(place)

  def plain(list, place) when is_list(list) do
    cond do
      List.improper?(list) -> improper(list, place)
      list != [] and Keyword.keyword?(list) -> unique(list, place)
      true -> Enum.with_index(list, &plain(&1, [&2 | place]))
    end
  end

  def plain(tuple, place) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> plain(place)
  def plain(atom, _) when is_atom(atom) and atom not in [nil, true, false], do: Atom.to_string(atom)
  def plain(other, _), do: other

  # Of two values under one name (twice in a keyword list, or as an atom and as a text) one would be lost.
  defp unique(pairs, place) do
    Enum.reduce(pairs, %{}, fn {key, value}, fields ->
      key = key(key)

      if is_map_key(fields, key),
        do: raise(ArgumentError, "#{at(place)}the key #{inspect(key)} is said twice; say it once")

      Map.put(fields, key, plain(value, [key | place]))
    end)
  end

  @spec improper(maybe_improper_list(), [String.t() | non_neg_integer()]) :: no_return()
  defp improper(list, place) do
    raise ArgumentError,
          "#{at(place)}#{inspect(list, limit: 5)} is an improper list, whose last tail is no list; end it with ], not with | and a value"
  end

  defp at([]), do: ""
  defp at(place), do: (place |> Enum.reverse() |> Enum.reduce("", &joined/2)) <> ": "

  defp joined(index, place) when is_integer(index), do: "#{place}[#{index}]"
  defp joined(key, ""), do: told(key)
  defp joined(key, place), do: "#{place}.#{told(key)}"

  defp told(key) when is_binary(key), do: key
  defp told(key), do: inspect(key)

  defp key(key) when is_atom(key), do: Atom.to_string(key)
  defp key(key), do: key
end
