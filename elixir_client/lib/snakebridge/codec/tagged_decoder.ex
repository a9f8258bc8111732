defmodule SnakeBridge.Codec.TaggedDecoder do
  @moduledoc """
  Gives `tagged` its meaning: from JSON structure to terms. A tag is added by one clause of `tag/4`, a named type in
  `SnakeBridge.Codec.Typed`.

  Tags of schema 2 count only where `__schema__` is 2; else tags that are not known leave their map as it is, and older names of fields and
  tags are understood. What is malformed is an error: a guess would be a value that nobody sent.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2, show: 1]

  alias SnakeBridge.{Bytes, Complex, FrozenSet, OrderedMap}
  alias SnakeBridge.Codec.{Arrays, Composites, Leaves, Moments, Options, Typed}

  @doc "The term of a JSON structure. Throws what `SnakeBridge.Codec.Failure` catches."
  @spec run(term(), Options.t()) :: term()
  def run(json, %Options{} = opts), do: value(json, opts.depth, {opts, allowed_atoms()})

  defp allowed_atoms do
    case Application.get_env(:snakebridge, :atom_allowlist, ["ok", "error"]) do
      :all -> :all
      names -> MapSet.new(names, &to_string/1)
    end
  end

  # levels: how many containers may still be opened around what comes.
  defp value(items, levels, ctx) when is_list(items), do: items(items, levels, ctx)

  defp value(%{"__type__" => type} = fields, levels, ctx) when is_binary(type),
    do: tag(type, fields, levels, ctx)

  defp value(%{"__type__" => _} = fields, levels, ctx), do: object(fields, levels, ctx)
  defp value(%{"__snakebridge_ref__" => _} = fields, _levels, ctx), do: ref("ref", fields, ctx)
  defp value(%{} = fields, levels, ctx), do: object(fields, levels, ctx)
  defp value(plain, _levels, _ctx), do: plain

  # schema 2

  defp tag("frozenset", %{"__schema__" => 2} = fields, levels, ctx),
    do: %FrozenSet{items: fields |> elements() |> items(levels, ctx) |> set()}

  defp tag("atom", %{"__schema__" => 2} = fields, _levels, _ctx),
    do: fields |> text("value") |> SnakeBridge.Atom.existing()

  defp tag("leaf", %{"__schema__" => 2} = fields, _levels, {opts, _}) do
    case fields["code"] do
      code when code in 0..255 -> Leaves.load(code, data(fields), opts)
      other -> malformed(fields, "must hold the code of a leaf, not #{show(other)}")
    end
  end

  defp tag("ndarray", %{"__schema__" => 2} = fields, _levels, {opts, _}) do
    Arrays.build([fields["dtype"], fields["shape"], %Bytes{data: data(fields)}, fields["order"] || "C"], opts)
  end

  defp tag("pairs", %{"__schema__" => 2} = fields, levels, {opts, _} = ctx),
    do: Composites.build(0x04, fields |> elements() |> items(levels, ctx), opts)

  defp tag("members", %{"__schema__" => 2} = fields, levels, ctx),
    do: fields |> elements() |> items(levels, ctx) |> set()

  # Schema 1 has the first two names, too, for texts.
  defp tag(type, %{"__schema__" => 2, "value" => payload}, levels, {opts, _} = ctx)
       when type in ["time", "datetime"] and is_list(payload),
       do: Typed.load(type, value(payload, deeper(levels, ctx), ctx), opts)

  # schema 1

  defp tag("tuple", fields, levels, ctx), do: fields |> elements() |> items(levels, ctx) |> List.to_tuple()
  defp tag("set", fields, levels, ctx), do: fields |> elements() |> items(levels, ctx) |> set()
  defp tag("frozenset", fields, levels, ctx), do: fields |> elements() |> items(levels, ctx) |> set()
  defp tag("dict", fields, levels, ctx), do: dict(fields, deeper(levels, ctx), ctx)
  defp tag("atom", fields, _levels, ctx), do: fields |> text("value") |> atom(ctx)
  defp tag("bytes", fields, _levels, ctx), do: bytes(fields, ctx)
  defp tag("binary", fields, _levels, ctx), do: bytes(fields, ctx)

  defp tag("complex", fields, _levels, _ctx),
    do: %Complex{real: part(fields, "real"), imag: part(fields, "imag")}

  defp tag("datetime", fields, _levels, _ctx), do: parse(fields, &datetime/1)
  defp tag("date", fields, _levels, _ctx), do: parse(fields, &Date.from_iso8601/1)
  defp tag("time", fields, _levels, _ctx), do: parse(fields, &time/1)
  defp tag("special_float", fields, _levels, _ctx), do: fields |> text("value") |> special_float()
  defp tag("nan", _fields, _levels, _ctx), do: :nan
  defp tag("infinity", _fields, _levels, _ctx), do: :infinity
  defp tag("neg_infinity", _fields, _levels, _ctx), do: :neg_infinity
  defp tag("ref", fields, _levels, ctx), do: ref("ref", fields, ctx)
  defp tag("stream_ref", fields, _levels, ctx), do: ref("stream_ref", fields, ctx)

  defp tag("callback", fields, _levels, {%{callback: callback}, _}) when callback != nil,
    do: callback(fields, callback)

  defp tag(type, %{"__schema__" => 2, "value" => payload}, levels, {opts, _} = ctx),
    do: Typed.load(type, value(payload, deeper(levels, ctx), ctx), opts)

  defp tag(_unknown, fields, levels, ctx), do: object(fields, levels, ctx)

  defp items(items, levels, ctx) do
    levels = deeper(levels, ctx)
    Enum.map(items, &value(&1, levels, ctx))
  end

  defp object(fields, levels, {opts, _} = ctx) do
    levels = deeper(levels, ctx)
    pairs = for {key, item} <- fields, do: {key, value(item, levels, ctx)}
    if opts.maps == :ordered, do: %OrderedMap{pairs: pairs}, else: Map.new(pairs)
  end

  defp deeper(0, {opts, _}),
    do:
      fail(
        :limit_exceeded,
        "the message nests deeper than depth = #{opts.depth}; flatten it, or raise the limit on both sides"
      )

  defp deeper(levels, _ctx), do: levels - 1

  defp elements(fields) do
    case fields["elements"] || fields["value"] do
      items when is_list(items) -> items
      other -> malformed(fields, "must hold a list of elements, not #{show(other)}")
    end
  end

  defp set(items) do
    set = MapSet.new(items)

    if MapSet.size(set) == length(items),
      do: set,
      else:
        fail(:decode_error, "a set came in whose elements are equal in Elixir: #{show(items)}; send a list")
  end

  defp dict(%{"pairs" => pairs} = fields, levels, {opts, _} = ctx) when is_list(pairs) do
    pairs =
      Enum.map(pairs, fn
        [key, item] -> {value(key, levels, ctx), value(item, levels, ctx)}
        other -> malformed(fields, "must hold pairs of a key and a value, not #{show(other)}")
      end)

    map = Map.new(pairs)

    cond do
      map_size(map) != length(pairs) ->
        fail(
          :decode_error,
          "a dict came in whose keys are equal in Elixir: #{show(Map.keys(map))}; send a list of pairs"
        )

      # A struct made of a message would be trusted with more than data.
      is_map_key(map, :__struct__) ->
        fail(:decode_error, "a dict with the atom __struct__ as a key came in; send the key as text")

      opts.maps == :ordered ->
        %OrderedMap{pairs: pairs}

      true ->
        map
    end
  end

  defp dict(fields, _levels, _ctx), do: malformed(fields, "must hold a list of pairs")

  defp atom(name, {_, :all}), do: existing_or_text(name)
  defp atom(name, {_, allowed}), do: if(name in allowed, do: existing_or_text(name), else: name)

  defp existing_or_text(name) do
    case SnakeBridge.Atom.existing(name) do
      atom when is_atom(atom) -> atom
      %SnakeBridge.Atom{} -> name
    end
  end

  defp bytes(fields, {opts, _}) do
    data = data(fields)
    if opts.bytes == :struct, do: %Bytes{data: data}, else: data
  end

  defp data(fields) do
    with text when is_binary(text) <- fields["data"] || fields["value"],
         {:ok, data} <- Base.decode64(text) do
      data
    else
      :error -> malformed(fields, "holds malformed base64: #{show(fields["data"] || fields["value"])}")
      other -> malformed(fields, "must hold base64 text under \"data\", not #{show(other)}")
    end
  end

  defp part(fields, name) do
    case fields[name] do
      x when is_float(x) -> x
      n when is_integer(n) -> n / 1
      other -> malformed(fields, "must hold a number under #{inspect(name)}, not #{show(other)}")
    end
  rescue
    ArithmeticError -> malformed(fields, "has a part that is larger than any float64")
  end

  defp parse(fields, read) do
    text = text(fields, "value")

    case read.(text) do
      {:ok, value} -> value
      {:error, _} -> malformed(fields, "must hold a #{fields["__type__"]} in ISO 8601, not #{show(text)}")
    end
  end

  defp datetime(text) do
    case DateTime.from_iso8601(text) do
      {:ok, utc, offset} ->
        utc |> DateTime.to_naive() |> NaiveDateTime.add(offset) |> Moments.datetime(offset)

      {:error, :missing_offset} ->
        NaiveDateTime.from_iso8601(text)

      error ->
        error
    end
  end

  # Elixir's times have no zone, and its parser drops one silently.
  defp time(text),
    do: if(String.contains?(text, ["+", "-", "Z", "z"]), do: {:error, :zone}, else: Time.from_iso8601(text))

  defp special_float("nan"), do: :nan
  defp special_float("infinity"), do: :infinity
  defp special_float("neg_infinity"), do: :neg_infinity

  defp special_float(other),
    do: fail(:decode_error, "a special_float tag must hold nan, infinity or neg_infinity, not #{show(other)}")

  defp ref(type, fields, {opts, _}) do
    template = if type == "ref", do: opts.ref, else: opts.stream_ref
    mark = fields["__snakebridge_ref__"]

    names = %{
      id: fields["id"] || fields["ref_id"] || if(is_binary(mark), do: mark),
      session_id: fields["session_id"] || template.session_id,
      python_module: fields["python_module"] || "",
      library: fields["library"] || "",
      type_name: fields["type_name"] || fields["__type_name__"] || ""
    }

    names =
      if type == "ref",
        do: names,
        else: Map.put(names, :stream_type, fields["stream_type"] || template.stream_type)

    if names.id != "" and Enum.all?(names, fn {_, name} -> is_binary(name) end),
      do: struct!(template, names),
      else:
        fail(
          :invalid_ref,
          "a #{type} came in that does not name an object by texts under id and session_id: #{show(fields)}"
        )
  end

  defp callback(fields, callback) do
    case {fields["ref_id"] || fields["callback_id"], fields["arity"] || 0, fields["pid"] || ""} do
      {id, arity, owner} when is_binary(id) and arity in 0..255 and is_binary(owner) ->
        callback.(%{id: id, arity: arity, owner: owner})

      _ ->
        malformed(fields, "must hold the id, arity and owner of a function")
    end
  end

  defp text(fields, name) do
    case fields[name] do
      text when is_binary(text) -> text
      other -> malformed(fields, "must hold text under #{inspect(name)}, not #{show(other)}")
    end
  end

  defp malformed(%{"__type__" => type}, rule), do: fail(:decode_error, "a #{type} tag #{rule}")
end
