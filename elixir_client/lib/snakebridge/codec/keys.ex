defmodule SnakeBridge.Codec.Keys do
  @moduledoc """
  Which Elixir terms can be keys of one Python dict, or elements of one Python set: those that Python can hash and can keep apart.

  Elixir keeps `1`, `1.0` and `true` apart, Python does not, and one of the values would be lost without a word. Most maps have keys of one
  kind, which one glance at each key shows to be fine; only mixed and structured keys are compared the way Python would
  (`SnakeBridge.Codec.Image`).
  """

  import SnakeBridge.Codec.Failure, only: [show: 1]

  alias SnakeBridge.Codec.Image
  alias SnakeBridge.Enum, as: PythonEnum

  @doc """
  Keys and values of a map in turn: `[k1, v1, k2, v2, ...]`, as they are for a dict, in `{:pairs, fields}` when Python could not hold the keys
  in one dict, or when only Python can know.
  """
  @spec fields(map()) :: [term()] | {:pairs, [term()]}
  def fields(map), do: map |> :maps.to_list() |> ordered_fields()

  @doc "The same for pairs in an order of their own."
  @spec ordered_fields([{term(), term()}]) :: [term()] | {:pairs, [term()]}
  def ordered_fields(pairs) do
    if uniform_keys?(pairs) or conflict(for {key, _} <- pairs, do: key) == nil,
      do: flat(pairs),
      else: {:pairs, flat(pairs)}
  end

  @doc "The elements of a set, in `{:members, elements}` when Python could not hold them in one set."
  @spec elements(MapSet.t()) :: [term()] | {:members, [term()]}
  def elements(set) do
    items = MapSet.to_list(set)
    if uniform?(items) or conflict(items) == nil, do: items, else: {:members, items}
  end

  @doc "The same for the elements of a frozenset, for which Python has no other form: only those that it surely cannot hold are members."
  @spec frozen_elements(MapSet.t()) :: [term()] | {:members, [term()]}
  def frozen_elements(set) do
    with {:members, items} <- elements(set) do
      case conflict(items) do
        {:doubtful, _, _} -> items
        # Whether a member of an enum is equal to its value is known in Python only.
        {:equal, left, right} when is_struct(left, PythonEnum) or is_struct(right, PythonEnum) -> items
        _ -> {:members, items}
      end
    end
  end

  @doc "Why Python cannot hold these keys together, and what to do; nil when it can."
  @spec refusal([term()], String.t()) :: String.t() | nil
  def refusal(keys, what) do
    case conflict(keys) do
      nil ->
        nil

      {:unhashable, key} ->
        "#{show(key)} is among #{what}, and Python cannot hash it; use a tuple, or send a list of pairs"

      {_equal, left, right} ->
        "the #{what} #{show(left)} and #{show(right)} are equal in Python; make them differ, or send a list of pairs"
    end
  end

  defp conflict(keys), do: conflict(keys, %{})

  defp conflict([key | keys], seen) do
    case Image.of(key) do
      :unhashable ->
        {:unhashable, key}

      # What may be equal to something else is so only next to something else.
      :doubtful when keys == [] and seen == %{} ->
        nil

      :doubtful ->
        {:doubtful, seen |> Map.values() |> Enum.concat(keys) |> hd(), key}

      {:image, image} when is_map_key(seen, image) ->
        {:equal, Map.fetch!(seen, image), key}

      {:image, image} ->
        conflict(keys, Map.put(seen, image, key))
    end
  end

  defp conflict([], _seen), do: nil

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
end
