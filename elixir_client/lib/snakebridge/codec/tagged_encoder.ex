defmodule SnakeBridge.Codec.TaggedEncoder do
  @moduledoc """
  Turns terms into `tagged`: JSON structure with `__type__` tags. A type is added by one clause of `value/3`, a named one in
  `SnakeBridge.Codec.Typed`.

  Schema 1 says what today's peers understand and refuses the rest. Schema 2 has tags for everything: what no tag of schema 1 says exactly is
  a named type, or a leaf of `packed` as base64. A map that a decoder would take for something else (it has a `__type__` key, or looks like a
  ref) travels as tag `dict`, whose pairs are never looked at that way.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2, show: 1]

  alias SnakeBridge.{Bytes, Complex, FrozenSet, Graph, OrderedMap, Ref, StreamRef, Tensor, Text, ZeroCopyRef}
  alias SnakeBridge.Codec.{Arrays, Composites, Keys, Leaves, Moments, Opaque, Options, Typed}

  require Leaves

  @specials [:nan, :infinity, :neg_infinity]

  @doc "The tagged form of a term. Throws what `SnakeBridge.Codec.Failure` catches."
  @spec run(term(), Options.t()) :: term()
  def run(term, %Options{} = opts), do: value(term, opts.depth, opts)

  # levels: how many containers may still be opened around what comes.
  defp value(x, _levels, _opts) when is_nil(x) or is_boolean(x) or is_number(x), do: x
  defp value(x, _levels, _opts) when x in @specials, do: tag("special_float", %{"value" => Atom.to_string(x)})
  defp value(x, _levels, opts) when is_atom(x), do: tag("atom", %{"value" => Atom.to_string(x)}, opts.schema)

  defp value(x, _levels, opts) when is_binary(x) do
    cond do
      String.valid?(x) -> x
      opts.schema == 1 -> tag("bytes", %{"data" => Base.encode64(x)})
      true -> leaf({Leaves.binary_code(), x})
    end
  end

  defp value(x, levels, opts) when is_list(x),
    do: if(List.improper?(x), do: opaque(x, opts), else: elements(x, levels, opts))

  defp value(x, levels, opts) when is_tuple(x),
    do: tag("tuple", %{"elements" => x |> Tuple.to_list() |> elements(levels, opts)})

  defp value(%MapSet{} = set, levels, opts) do
    case Keys.elements(set) do
      {:members, items} when opts.schema == 1 -> fail(:encode_error, Keys.refusal(items, "set elements"))
      {:members, items} -> tag("members", %{"elements" => elements(items, levels, opts)}, 2)
      items -> tag("set", %{"elements" => elements(items, levels, opts)})
    end
  end

  defp value(%FrozenSet{items: %MapSet{} = items} = set, levels, opts) do
    case Keys.frozen_elements(items) do
      {:members, items} when opts.schema == 1 -> fail(:encode_error, Keys.refusal(items, "set elements"))
      {:members, _items} -> opaque(set, opts)
      items -> tag("frozenset", %{"elements" => elements(items, levels, opts)}, opts.schema)
    end
  end

  defp value(%Bytes{data: data}, _levels, opts) when is_binary(data),
    do: tag("bytes", %{"data" => Base.encode64(data)}, opts.schema)

  defp value(%Date{} = date, _levels, opts), do: moment("date", date, &Date.to_iso8601/1, opts)
  defp value(%Time{} = time, _levels, opts), do: moment("time", time, &Time.to_iso8601/1, opts)

  defp value(%NaiveDateTime{} = naive, _levels, opts),
    do: moment("datetime", naive, &NaiveDateTime.to_iso8601/1, opts)

  defp value(%DateTime{} = aware, _levels, opts),
    do: moment("datetime", aware, &DateTime.to_iso8601/1, opts)

  defp value(%Complex{real: real, imag: imag}, _levels, _opts) when is_float(real) and is_float(imag),
    do: tag("complex", %{"real" => real, "imag" => imag})

  defp value(%Ref{} = ref, _levels, opts), do: tag("ref", ref_fields(ref, opts))

  defp value(%StreamRef{} = ref, _levels, opts),
    do: tag("stream_ref", ref |> ref_fields(opts) |> Map.put("stream_type", ref.stream_type))

  defp value(%SnakeBridge.Atom{name: name} = atom, _levels, opts) do
    cond do
      is_binary(name) and String.valid?(name) -> tag("atom", %{"value" => name}, opts.schema)
      opts.schema == 2 -> atom |> Leaves.dump() |> leaf()
      true -> fail(:encode_error, "#{show(atom)} cannot be sent: its name must be text")
    end
  end

  defp value(%OrderedMap{} = map, levels, opts) do
    case Composites.split(map) do
      {:map, _size, fields} -> dict(pairs(fields), deeper(levels, opts), opts)
      {_kind, :elements, fields} -> unkeyed(fields, levels, opts)
    end
  end

  # JSON has no shared memory: the value itself travels.
  defp value(%ZeroCopyRef{} = ref, levels, opts) do
    case ZeroCopyRef.read(ref) do
      {:ok, copy} -> value(copy, levels, opts)
      {:error, error} -> fail(:encode_error, error.message)
    end
  end

  # What is malformed, too, says that first.
  defp value(%module{} = x, _levels, %{schema: 1}) do
    with true <- module in [Complex, Text, Bytes, FrozenSet, Tensor],
         do: Leaves.dump(x) || Composites.split(x)

    fail(:encode_error, unsupported(x))
  end

  defp value(%Tensor{} = tensor, _levels, _opts), do: tensor |> Arrays.split() |> ndarray()

  defp value(%{__struct__: :"Elixir.Nx.Tensor"} = tensor, _levels, _opts),
    do: tensor |> Arrays.split() |> ndarray()

  defp value(%module{} = graph, _levels, _opts) when module in [Graph, Graph.Node],
    do:
      fail(
        :encode_error,
        "#{show(graph)} cannot be sent: tagged does not keep identity; use packed, or SnakeBridge.Graph.expand/1"
      )

  defp value(%{__struct__: _} = x, levels, opts) do
    with nil <- Leaves.dump(x), nil <- Typed.dump(x) do
      opaque(x, opts)
    else
      {code, payload} when is_integer(code) -> leaf({code, payload})
      {type, payload} -> tag(type, %{"value" => value(payload, deeper(levels, opts), opts)}, 2)
    end
  end

  defp value(map, levels, opts) when is_map(map) do
    case Keys.fields(map) do
      {:pairs, fields} -> unkeyed(fields, levels, opts)
      fields -> fields |> pairs() |> keyed(deeper(levels, opts), opts)
    end
  end

  defp value(x, _levels, opts) when is_function(x) and opts.callback != nil do
    {_kind, :fields, [id, arity, owner]} = Composites.split_function(x, opts.callback)
    tag("callback", %{"ref_id" => id, "pid" => owner, "arity" => arity})
  end

  defp value(x, _levels, opts), do: opaque(x, opts)

  # What is the same in both schemas has the number 1.
  defp tag(type, fields, schema \\ 1), do: Map.merge(fields, %{"__type__" => type, "__schema__" => schema})

  defp leaf({code, payload}), do: tag("leaf", %{"code" => code, "data" => Base.encode64(payload)}, 2)

  defp opaque(x, %{schema: 1}), do: fail(:encode_error, unsupported(x))
  defp opaque(x, opts), do: x |> Opaque.dump(opts) |> leaf()

  defp ndarray([dtype, shape, %Bytes{data: data} | order]) do
    fields = %{
      "dtype" => json(dtype),
      "shape" => shape,
      "order" => List.first(order, "C"),
      "data" => Base.encode64(data)
    }

    tag("ndarray", fields, 2)
  end

  defp json(%OrderedMap{pairs: pairs}), do: Map.new(pairs, fn {key, item} -> {key, json(item)} end)
  defp json(list) when is_list(list), do: Enum.map(list, &json/1)
  defp json(plain), do: plain

  defp elements(items, levels, opts) do
    levels = deeper(levels, opts)
    Enum.map(items, &value(&1, levels, opts))
  end

  defp deeper(0, opts),
    do:
      fail(
        :limit_exceeded,
        "the value nests deeper than depth = #{opts.depth}; flatten it, or raise the limit on both sides"
      )

  defp deeper(levels, _opts), do: levels - 1

  defp moment(type, value, write, opts) do
    case Moments.check(value) do
      :ok when opts.schema == 1 ->
        tag(type, %{"value" => iso(value, write)})

      :ok ->
        if Moments.iso?(value),
          do: tag(type, %{"value" => write.(value)}),
          else: value |> Leaves.dump() |> leaf()

      {:foreign, _rule} when opts.schema == 2 ->
        opaque(value, opts)

      {_, rule} ->
        fail(:encode_error, "#{show(value)} cannot be sent: #{rule}")
    end
  end

  defp iso(%DateTime{} = aware, _write) when rem(aware.utc_offset + aware.std_offset, 60) != 0,
    do:
      fail(
        :encode_error,
        "#{show(aware)} cannot be sent: schema 1 has offsets of whole minutes; shift it to UTC first"
      )

  defp iso(value, write), do: write.(value)

  defp ref_fields(%{id: id, session_id: session} = ref, opts)
       when is_binary(id) and id != "" and is_binary(session) do
    fields = %{
      "id" => id,
      "session_id" => session,
      "python_module" => ref.python_module || "",
      "library" => ref.library || ""
    }

    if opts.schema == 1, do: fields, else: Map.put(fields, "type_name", ref.type_name || "")
  end

  defp ref_fields(ref, _opts),
    do:
      fail(
        :encode_error,
        "#{show(ref)} names no object: its id and session_id must be texts; use a ref that a call answered"
      )

  # maps

  defp keyed(pairs, levels, opts) do
    case object(pairs, %{}, opts.schema) do
      nil -> dict(pairs, levels, opts)
      object -> Map.new(object, fn {key, x} -> {key, value(x, levels, opts)} end)
    end
  end

  defp dict(pairs, levels, opts),
    do:
      tag("dict", %{"pairs" => for({key, x} <- pairs, do: [value(key, levels, opts), value(x, levels, opts)])})

  defp unkeyed(fields, _levels, %{schema: 1}),
    do: fail(:encode_error, Keys.refusal(Enum.take_every(fields, 2), "map keys"))

  defp unkeyed(fields, levels, opts), do: tag("pairs", %{"elements" => elements(fields, levels, opts)}, 2)

  defp pairs([key, value | rest]), do: [{key, value} | pairs(rest)]
  defp pairs([]), do: []

  # The fields of a map that can be a JSON object; nil when a key is no text, or when the object would be taken for a tag or a ref.
  defp object([{key, x} | pairs], fields, schema) do
    case key_text(key, schema) do
      nil -> nil
      "__type__" -> nil
      "__snakebridge_ref__" -> nil
      text -> object(pairs, Map.put(fields, text, x), schema)
    end
  end

  defp object([], %{"id" => _, "session_id" => _}, _schema), do: nil
  defp object([], %{"id" => _, "ref_id" => _}, _schema), do: nil
  defp object([], fields, _schema), do: fields

  defp key_text(key, _schema) when is_binary(key), do: if(String.valid?(key), do: key)
  defp key_text(key, _schema) when is_nil(key) or is_boolean(key) or key in @specials, do: nil
  # Schema 1 has always made text of them.
  defp key_text(key, 1) when is_atom(key), do: Atom.to_string(key)
  defp key_text(_, _schema), do: nil

  # what schema 1 does not have

  defp unsupported(term),
    do: "#{show(term)} cannot be sent: schema 1 has no such type; #{remedy(term)}, or use schema 2"

  defp remedy(%Range{}), do: "send Enum.to_list/1 of it, or its first, last and step"
  defp remedy(%Regex{}), do: "send its source as text (Regex.source/1)"
  defp remedy(%URI{}), do: "send it as text (URI.to_string/1)"
  defp remedy(%Complex{}), do: "send its parts as two floats"
  defp remedy(%Text{}), do: "send to_string/1 of it, or its bytes"
  defp remedy(%Tensor{}), do: "send lists (SnakeBridge.Tensor.to_list/1) or its bytes"
  defp remedy(%{__exception__: true}), do: "send Exception.message/1 of it"

  defp remedy(%module{}),
    do: "convert the #{inspect(module)} to a map (Map.from_struct/1), to text or to a number first"

  defp remedy(term) when is_pid(term), do: "send a function that sends to this process, or inspect/1 of it"
  defp remedy(term) when is_reference(term), do: "keep it in a map here and send the key"

  defp remedy(term) when is_function(term),
    do: "send it as an argument of a call, where Python can call it back"

  defp remedy(term) when is_bitstring(term), do: "pad it to whole bytes and send its bit_size/1 along"
  defp remedy(term) when is_list(term), do: "send a tuple or a proper list"
  defp remedy(_), do: "convert it to plain data first"
end
