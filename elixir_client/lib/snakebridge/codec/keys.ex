defmodule SnakeBridge.Codec.Keys do
  @moduledoc """
  Which Elixir terms can be keys of one Python dict, or elements of one Python set: those that Python can hash and can keep apart.

  Elixir keeps `1`, `1.0` and `true` apart, Python does not, and one of the values would be lost without a word. Most maps have keys of one
  kind, which one glance at each key shows to be fine; only mixed and structured keys are compared the way Python would.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2, show: 1]

  alias SnakeBridge.{Bytes, Complex, FrozenSet, Ref, StreamRef, Tensor, Text}

  @doc "Keys and values of a map in turn: `[k1, v1, k2, v2, ...]`. Throws when Python could not hold the keys in one dict."
  @spec fields(map()) :: [term()]
  def fields(map) do
    pairs = :maps.to_list(map)
    unless uniform_keys?(pairs), do: check(Map.keys(map), "map keys")
    flat(pairs)
  end

  @doc "The elements of a set. Throws when Python could not hold them in one set."
  @spec elements(MapSet.t()) :: [term()]
  def elements(set) do
    items = MapSet.to_list(set)
    unless uniform?(items), do: check(items, "set elements")
    items
  end

  defp flat([{key, value} | pairs]), do: [key, value | flat(pairs)]
  defp flat([]), do: []

  defp uniform_keys?([]), do: true
  defp uniform_keys?([{key, _} | pairs]) when is_binary(key), do: binary_keys?(pairs)
  defp uniform_keys?([{key, _} | pairs]) when is_atom(key), do: atom_keys?(pairs)
  defp uniform_keys?([{key, _} | pairs]) when is_integer(key), do: integer_keys?(pairs)
  defp uniform_keys?(_), do: false

  defp binary_keys?([{key, _} | pairs]), do: is_binary(key) and binary_keys?(pairs)
  defp binary_keys?([]), do: true

  defp atom_keys?([{key, _} | pairs]), do: is_atom(key) and atom_keys?(pairs)
  defp atom_keys?([]), do: true

  defp integer_keys?([{key, _} | pairs]), do: is_integer(key) and integer_keys?(pairs)
  defp integer_keys?([]), do: true

  defp uniform?([]), do: true
  defp uniform?([item | items]) when is_binary(item), do: Enum.all?(items, &is_binary/1)
  defp uniform?([item | items]) when is_atom(item), do: Enum.all?(items, &is_atom/1)
  defp uniform?([item | items]) when is_integer(item), do: Enum.all?(items, &is_integer/1)
  defp uniform?(_), do: false

  defp check(keys, what) do
    Enum.reduce(keys, %{}, fn key, seen ->
      image = image(key, what)

      case seen do
        %{^image => other} ->
          fail(
            :encode_error,
            "the #{what} #{show(other)} and #{show(key)} are equal in Python; make them differ, or send a list of pairs"
          )

        _ ->
          Map.put(seen, image, key)
      end
    end)

    :ok
  end

  # The image of a key: two keys are equal in Python exactly when their images are the same term.
  defp image(nil, _), do: nil
  defp image(true, _), do: 1
  defp image(false, _), do: 0
  defp image(special, _) when special in [:nan, :infinity, :neg_infinity], do: special
  defp image(atom, _) when is_atom(atom), do: {:str, Atom.to_string(atom)}
  defp image(n, _) when is_integer(n), do: n
  defp image(x, _) when is_float(x), do: if(trunc(x) == x, do: trunc(x), else: x)
  defp image(text, _) when is_binary(text), do: {if(String.valid?(text), do: :str, else: :bytes), text}

  defp image(tuple, what) when is_tuple(tuple),
    do: {:tuple, tuple |> Tuple.to_list() |> Enum.map(&image(&1, what))}

  defp image(function, _) when is_function(function), do: {:function, function}
  defp image(%SnakeBridge.Atom{name: name}, _), do: {:str, name}
  defp image(%Text{wtf8: wtf8}, _), do: {:str, wtf8}
  defp image(%Bytes{data: data}, _), do: {:bytes, data}

  defp image(%Complex{real: real, imag: imag}, what) do
    case image(imag, what) do
      0 -> image(real, what)
      imag -> {:complex, image(real, what), imag}
    end
  end

  defp image(%Date{} = date, _), do: date
  defp image(%Time{hour: h, minute: m, second: s, microsecond: {us, _}}, _), do: {:time, h, m, s, us}
  defp image(%NaiveDateTime{microsecond: {us, _}} = naive, _), do: %{naive | microsecond: {us, 6}}
  defp image(%DateTime{} = moment, _), do: {:instant, DateTime.to_unix(moment, :microsecond)}
  defp image(%Ref{} = ref, _), do: {:object, ref.session_id, ref.id}
  defp image(%StreamRef{} = ref, _), do: {:object, ref.session_id, ref.id}
  defp image(%FrozenSet{items: items}, what), do: {:set, MapSet.new(items, &image(&1, what))}

  defp image(unhashable, what) when is_list(unhashable),
    do:
      fail(
        :encode_error,
        "the list #{show(unhashable)} is among #{what}, and Python cannot hash it; use a tuple"
      )

  defp image(%MapSet{} = set, what),
    do:
      fail(
        :encode_error,
        "#{show(set)} is among #{what}, and Python cannot hash it; use a SnakeBridge.FrozenSet"
      )

  defp image(%Tensor{} = tensor, what),
    do:
      fail(
        :encode_error,
        "#{show(tensor)} is among #{what}, and Python cannot hash it; use its bytes and shape in a tuple"
      )

  defp image(map, what) when is_map(map) and not is_struct(map),
    do:
      fail(
        :encode_error,
        "the map #{show(map)} is among #{what}, and Python cannot hash it; use a tuple of its pairs"
      )

  # Not sendable at all; the encoder comes to it and says so.
  defp image(other, _), do: {:other, other}
end
