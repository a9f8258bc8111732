defmodule SnakeBridge.Codec.TaggedEncoder do
  @moduledoc """
  Turns terms into `tagged` schema 1: JSON structure with `__type__` tags. A type is added by one clause of `value/3`.

  A map that a decoder would take for something else (it has a `__type__` key, or looks like a ref) travels as tag `dict`, whose pairs are
  never looked at that way.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2, show: 1]

  alias SnakeBridge.{Bytes, Complex, FrozenSet, Ref, StreamRef, Tensor, Text}
  alias SnakeBridge.Codec.{Composites, Keys, Moments, Options}

  @specials [:nan, :infinity, :neg_infinity]

  @doc "The tagged form of a term. Throws what `SnakeBridge.Codec.Failure` catches."
  @spec run(term(), Options.t()) :: term()
  def run(term, %Options{} = opts), do: value(term, opts.depth, opts)

  # levels: how many containers may still be opened around what comes.
  defp value(x, _levels, _opts) when is_nil(x) or is_boolean(x) or is_number(x), do: x
  defp value(x, _levels, _opts) when x in @specials, do: tag("special_float", %{"value" => Atom.to_string(x)})
  defp value(x, _levels, _opts) when is_atom(x), do: tag("atom", %{"value" => Atom.to_string(x)})
  defp value(x, _levels, _opts) when is_binary(x), do: if(String.valid?(x), do: x, else: bytes(x))

  defp value(x, levels, opts) when is_list(x) do
    if List.improper?(x),
      do:
        fail(
          :encode_error,
          "the improper list #{show(x)} has no form in Python; send a tuple or a proper list"
        )

    elements(x, levels, opts)
  end

  defp value(x, levels, opts) when is_tuple(x),
    do: tag("tuple", %{"elements" => x |> Tuple.to_list() |> elements(levels, opts)})

  defp value(%MapSet{} = set, levels, opts),
    do: tag("set", %{"elements" => set |> Keys.elements() |> elements(levels, opts)})

  defp value(%FrozenSet{items: %MapSet{} = items}, levels, opts),
    do: tag("frozenset", %{"elements" => items |> Keys.elements() |> elements(levels, opts)})

  defp value(%Bytes{data: data}, _levels, _opts) when is_binary(data), do: bytes(data)
  defp value(%Date{} = date, _levels, _opts), do: moment("date", date, &Date.to_iso8601/1)
  defp value(%Time{} = time, _levels, _opts), do: moment("time", time, &Time.to_iso8601/1)

  defp value(%NaiveDateTime{} = naive, _levels, _opts),
    do: moment("datetime", naive, &NaiveDateTime.to_iso8601/1)

  defp value(%DateTime{} = aware, _levels, _opts) do
    tagged = moment("datetime", aware, &DateTime.to_iso8601/1)

    if rem(aware.utc_offset + aware.std_offset, 60) == 0,
      do: tagged,
      else:
        fail(
          :encode_error,
          "#{show(aware)} cannot be sent: schema 1 has offsets of whole minutes; shift it to UTC first"
        )
  end

  defp value(%Complex{real: real, imag: imag} = complex, _levels, _opts) do
    if is_float(real) and is_float(imag),
      do: tag("complex", %{"real" => real, "imag" => imag}),
      else:
        fail(
          :encode_error,
          "#{show(complex)} cannot be sent: schema 1 has complex numbers of two floats only"
        )
  end

  defp value(%Ref{} = ref, _levels, _opts), do: tag("ref", ref_fields(ref))

  defp value(%StreamRef{} = ref, _levels, _opts),
    do: tag("stream_ref", ref |> ref_fields() |> Map.put("stream_type", ref.stream_type))

  defp value(%SnakeBridge.Atom{name: name} = atom, _levels, _opts) do
    if is_binary(name) and String.valid?(name),
      do: tag("atom", %{"value" => name}),
      else: fail(:encode_error, "#{show(atom)} cannot be sent: its name must be text")
  end

  defp value(%Text{} = text, _levels, _opts),
    do:
      fail(
        :encode_error,
        "#{show(text)} cannot be sent: JSON has no lone surrogates; send to_string/1 of it, or its bytes"
      )

  defp value(%Tensor{} = tensor, _levels, _opts),
    do:
      fail(
        :encode_error,
        "#{show(tensor)} cannot be sent: schema 1 has no arrays; send lists (SnakeBridge.Tensor.to_list/1) or its bytes"
      )

  defp value(x, _levels, _opts) when is_struct(x), do: fail(:encode_error, Composites.unsupported(x))

  defp value(map, levels, opts) when is_map(map) do
    levels = deeper(levels, opts)
    pairs = map |> Keys.fields() |> pairs()

    case object(pairs, %{}) do
      nil ->
        tag("dict", %{
          "pairs" => for({key, x} <- pairs, do: [value(key, levels, opts), value(x, levels, opts)])
        })

      object ->
        Map.new(object, fn {key, x} -> {key, value(x, levels, opts)} end)
    end
  end

  defp value(x, _levels, opts) when is_function(x) do
    {_kind, :fields, [id, arity, owner]} = Composites.split_function(x, opts.callback)
    tag("callback", %{"ref_id" => id, "pid" => owner, "arity" => arity})
  end

  defp value(x, _levels, _opts), do: fail(:encode_error, Composites.unsupported(x))

  defp tag(type, fields), do: Map.merge(fields, %{"__type__" => type, "__schema__" => 1})

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

  defp bytes(data), do: tag("bytes", %{"data" => Base.encode64(data)})

  defp moment(type, value, write) do
    case Moments.check(value) do
      :ok -> tag(type, %{"value" => write.(value)})
      {:error, rule} -> fail(:encode_error, "#{show(value)} cannot be sent: #{rule}")
    end
  end

  defp ref_fields(%{id: id, session_id: session} = ref)
       when is_binary(id) and id != "" and is_binary(session) do
    %{
      "id" => id,
      "session_id" => session,
      "python_module" => ref.python_module || "",
      "library" => ref.library || ""
    }
  end

  defp ref_fields(ref),
    do:
      fail(
        :encode_error,
        "#{show(ref)} names no object: its id and session_id must be texts; use a ref that a call answered"
      )

  defp pairs([key, value | rest]), do: [{key, value} | pairs(rest)]
  defp pairs([]), do: []

  # The fields of a map that can be a JSON object; nil when a key is no text, or when the object would be taken for a tag or a ref.
  defp object([{key, x} | pairs], fields) do
    case key_text(key) do
      nil -> nil
      "__type__" -> nil
      "__snakebridge_ref__" -> nil
      text -> object(pairs, Map.put(fields, text, x))
    end
  end

  defp object([], %{"id" => _, "session_id" => _}), do: nil
  defp object([], %{"id" => _, "ref_id" => _}), do: nil
  defp object([], fields), do: fields

  defp key_text(key) when is_binary(key), do: if(String.valid?(key), do: key)
  defp key_text(key) when is_nil(key) or is_boolean(key) or key in @specials, do: nil
  defp key_text(key) when is_atom(key), do: Atom.to_string(key)
  defp key_text(_), do: nil
end
