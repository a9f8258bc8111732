defmodule SnakeBridge.Codec.Encoder do
  @moduledoc """
  Writes a term as `packed` bytes: one tail-recursive walk that appends to one binary, which the runtime grows in place.

  A container's elements become the list being walked, and what followed it waits on a stack, so nesting uses no process stack. Binaries of
  64 KiB and more are not appended: what was written so far and the binary itself become parts of an iolist.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2]

  require SnakeBridge.Codec.Leaves

  alias SnakeBridge.Bytes
  alias SnakeBridge.Codec.{Canonical, Composites, Keys, Leaves, Opaque, Options, Utf8}

  @referenced 64 * 1024

  @doc "The bytes of a term that stands in `depth` containers. Throws what `SnakeBridge.Codec.Failure` catches."
  @spec run(term(), Options.t(), non_neg_integer()) :: iodata()
  def run(term, %Options{} = options, depth \\ 0),
    do: items([term], <<>>, [], [], depth, options.elements, options)

  # items(terms, out, parts, stack, depth, room, options)
  # out: written since the last part; parts: iodata before that; stack: depth and remaining terms around each open container;
  # depth: open containers; room: how many more elements the message may have. The list of terms may end in {:entries, pairs}, the rest of
  # a map.
  defp items([x | _] = xs, out, parts, stack, depth, room, opts) when is_float(x),
    do: floats(xs, out, parts, stack, depth, room, opts)

  defp items([x | _] = xs, out, parts, stack, depth, room, opts) when is_integer(x),
    do: integers(xs, out, parts, stack, depth, room, opts)

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_binary(x) do
    if Utf8.valid?(x),
      do: text(xs, x, byte_size(x), out, parts, stack, depth, room, opts),
      else: blob(x, ext(out, Leaves.binary_code(), byte_size(x)), xs, parts, stack, depth, room, opts)
  end

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_atom(x),
    do: items(xs, atom(out, x), parts, stack, depth, room, opts)

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_list(x) do
    case list_length(x) do
      nil ->
        opaque(x, xs, out, parts, stack, depth, room, opts)

      size ->
        out = array(out, size)
        items(x, out, parts, [depth, xs | stack], deeper(depth, opts), take(room, size, opts), opts)
    end
  end

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_tuple(x) do
    out = Composites.tuple_head(array(out, tuple_size(x) + 1))
    room = take(room, tuple_size(x), opts)
    items(Tuple.to_list(x), out, parts, [depth, xs | stack], deeper(depth, opts), room, opts)
  end

  defp items([%Bytes{data: data} | xs], out, parts, stack, depth, room, opts) when is_binary(data),
    do: blob(data, bin(out, byte_size(data)), xs, parts, stack, depth, room, opts)

  defp items([%Canonical{bytes: bytes} | xs], out, parts, stack, depth, room, opts),
    do: blob(bytes, out, xs, parts, stack, depth, room, opts)

  defp items([%{__struct__: _} = x | xs], out, parts, stack, depth, room, opts) do
    case Leaves.dump(x) do
      {code, payload} ->
        out = <<ext(out, code, byte_size(payload))::binary, payload::binary>>
        items(xs, out, parts, stack, depth, room, opts)

      nil ->
        case Composites.split(x) do
          nil -> opaque(x, xs, out, parts, stack, depth, room, opts)
          split -> composite(split, xs, out, parts, stack, depth, room, opts)
        end
    end
  end

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_map(x) do
    pairs = :maps.to_list(x)

    if texts?(pairs) and not opts.canonical do
      room = take(room, map_size(x), opts)
      entries(pairs, map(out, map_size(x)), parts, [depth, xs | stack], deeper(depth, opts), room, opts)
    else
      mixed(x, xs, out, parts, stack, depth, room, opts)
    end
  end

  defp items([x | xs], out, parts, stack, depth, room, opts)
       when is_function(x) and opts.callback != nil,
       do: composite(Composites.split_function(x, opts.callback), xs, out, parts, stack, depth, room, opts)

  defp items([x | xs], out, parts, stack, depth, room, opts),
    do: opaque(x, xs, out, parts, stack, depth, room, opts)

  defp items({:entries, pairs}, out, parts, stack, depth, room, opts),
    do: entries(pairs, out, parts, stack, depth, room, opts)

  defp items([], out, parts, [depth, xs | stack], _depth, room, opts),
    do: items(xs, out, parts, stack, depth, room, opts)

  defp items([], out, [], [], _depth, _room, _opts), do: out
  defp items([], out, parts, [], _depth, _room, _opts), do: [parts | out]

  # Appending costs more than what is appended, so a run of numbers is appended several at a time.
  defp floats([a, b, c, d, e, f, g, h | xs], out, parts, stack, depth, room, opts)
       when is_float(a) and is_float(b) and is_float(c) and is_float(d) and is_float(e) and is_float(f) and
              is_float(g) and is_float(h) do
    out =
      <<out::binary, 0xCB, a::float, 0xCB, b::float, 0xCB, c::float, 0xCB, d::float, 0xCB, e::float, 0xCB,
        f::float, 0xCB, g::float, 0xCB, h::float>>

    floats(xs, out, parts, stack, depth, room, opts)
  end

  defp floats([a, b | xs], out, parts, stack, depth, room, opts) when is_float(a) and is_float(b),
    do: floats(xs, <<out::binary, 0xCB, a::float, 0xCB, b::float>>, parts, stack, depth, room, opts)

  defp floats([x | xs], out, parts, stack, depth, room, opts) when is_float(x),
    do: floats(xs, <<out::binary, 0xCB, x::float>>, parts, stack, depth, room, opts)

  defp floats(xs, out, parts, stack, depth, room, opts), do: items(xs, out, parts, stack, depth, room, opts)

  defguardp is_fixed(x) when is_integer(x) and x >= 0 and x <= 0x7F
  defguardp is_u16(x) when is_integer(x) and x > 0xFF and x <= 0xFFFF
  defguardp is_u32(x) when is_integer(x) and x > 0xFFFF and x <= 0xFFFFFFFF
  # Those that the runtime keeps in a word; larger ones need a multi-word integer to be taken apart.
  defguardp is_u59(x) when is_integer(x) and x > 0xFFFFFFFF and x <= 0x7FFFFFFFFFFFFFF

  # Head and number are written as one: half the segments take less time.
  @u32 0xCE00000000

  defp integers([a, b, c, d, e, f, g, h | xs], out, parts, stack, depth, room, opts)
       when is_u32(a) and is_u32(b) and is_u32(c) and is_u32(d) and is_u32(e) and is_u32(f) and is_u32(g) and
              is_u32(h) do
    out =
      <<out::binary, @u32 + a::40, @u32 + b::40, @u32 + c::40, @u32 + d::40, @u32 + e::40, @u32 + f::40,
        @u32 + g::40, @u32 + h::40>>

    integers(xs, out, parts, stack, depth, room, opts)
  end

  defp integers([a, b, c, d | xs], out, parts, stack, depth, room, opts)
       when is_u32(a) and is_u32(b) and is_u32(c) and is_u32(d) do
    out = <<out::binary, 0xCE, a::32, 0xCE, b::32, 0xCE, c::32, 0xCE, d::32>>
    integers(xs, out, parts, stack, depth, room, opts)
  end

  defp integers([a, b, c, d, e, f, g, h | xs], out, parts, stack, depth, room, opts)
       when is_fixed(a) and is_fixed(b) and is_fixed(c) and is_fixed(d) and is_fixed(e) and is_fixed(f) and
              is_fixed(g) and is_fixed(h),
       do: integers(xs, <<out::binary, a, b, c, d, e, f, g, h>>, parts, stack, depth, room, opts)

  defp integers([a, b, c, d | xs], out, parts, stack, depth, room, opts)
       when is_u16(a) and is_u16(b) and is_u16(c) and is_u16(d) do
    out = <<out::binary, 0xCD, a::16, 0xCD, b::16, 0xCD, c::16, 0xCD, d::16>>
    integers(xs, out, parts, stack, depth, room, opts)
  end

  defp integers([a, b, c, d | xs], out, parts, stack, depth, room, opts)
       when is_u59(a) and is_u59(b) and is_u59(c) and is_u59(d) do
    out = <<out::binary, 0xCF, a::64, 0xCF, b::64, 0xCF, c::64, 0xCF, d::64>>
    integers(xs, out, parts, stack, depth, room, opts)
  end

  defp integers([x | xs], out, parts, stack, depth, room, opts) when is_fixed(x),
    do: integers(xs, <<out::binary, x>>, parts, stack, depth, room, opts)

  defp integers([x | xs], out, parts, stack, depth, room, opts) when is_integer(x) and x > 0 do
    cond do
      x <= 0xFF -> integers(xs, <<out::binary, 0xCC, x>>, parts, stack, depth, room, opts)
      x <= 0xFFFF -> integers(xs, <<out::binary, 0xCD, x::16>>, parts, stack, depth, room, opts)
      x <= 0xFFFFFFFF -> integers(xs, <<out::binary, 0xCE, x::32>>, parts, stack, depth, room, opts)
      x <= 0xFFFFFFFFFFFFFFFF -> integers(xs, <<out::binary, 0xCF, x::64>>, parts, stack, depth, room, opts)
      true -> integers(xs, long(out, x, opts), parts, stack, depth, room, opts)
    end
  end

  defp integers([x | xs], out, parts, stack, depth, room, opts) when is_integer(x) do
    cond do
      x >= -0x20 -> integers(xs, <<out::binary, x>>, parts, stack, depth, room, opts)
      x >= -0x80 -> integers(xs, <<out::binary, 0xD0, x>>, parts, stack, depth, room, opts)
      x >= -0x8000 -> integers(xs, <<out::binary, 0xD1, x::16>>, parts, stack, depth, room, opts)
      x >= -0x80000000 -> integers(xs, <<out::binary, 0xD2, x::32>>, parts, stack, depth, room, opts)
      x >= -0x8000000000000000 -> integers(xs, <<out::binary, 0xD3, x::64>>, parts, stack, depth, room, opts)
      true -> integers(xs, long(out, x, opts), parts, stack, depth, room, opts)
    end
  end

  defp integers(xs, out, parts, stack, depth, room, opts), do: items(xs, out, parts, stack, depth, room, opts)

  # A valid text, not written yet. Short ones are appended up to three together.
  defp text([y, z | xs], x, size, out, parts, stack, depth, room, opts)
       when size < 32 and is_binary(y) and byte_size(y) < 32 and is_binary(z) and byte_size(z) < 32 do
    if Utf8.valid?(y) and Utf8.valid?(z) do
      out =
        <<out::binary, 0xA0 + size, x::binary, 0xA0 + byte_size(y), y::binary, 0xA0 + byte_size(z),
          z::binary>>

      items(xs, out, parts, stack, depth, room, opts)
    else
      items([y, z | xs], <<out::binary, 0xA0 + size, x::binary>>, parts, stack, depth, room, opts)
    end
  end

  defp text([y | xs], x, size, out, parts, stack, depth, room, opts)
       when size < 32 and is_binary(y) and byte_size(y) < 32 do
    if Utf8.valid?(y) do
      out = <<out::binary, 0xA0 + size, x::binary, 0xA0 + byte_size(y), y::binary>>
      items(xs, out, parts, stack, depth, room, opts)
    else
      out = <<out::binary, 0xA0 + size, x::binary>>
      blob(y, ext(out, Leaves.binary_code(), byte_size(y)), xs, parts, stack, depth, room, opts)
    end
  end

  defp text(xs, x, size, out, parts, stack, depth, room, opts) when size < 32,
    do: items(xs, <<out::binary, 0xA0 + size, x::binary>>, parts, stack, depth, room, opts)

  defp text(xs, x, size, out, parts, stack, depth, room, opts) when size <= 0xFF,
    do: items(xs, <<out::binary, 0xD9, size, x::binary>>, parts, stack, depth, room, opts)

  defp text(xs, x, size, out, parts, stack, depth, room, opts),
    do: blob(x, str(out, size), xs, parts, stack, depth, room, opts)

  # Most maps have texts as keys, and those need no comparison.
  defp texts?([{key, _} | pairs]), do: is_binary(key) and texts?(pairs)
  defp texts?([]), do: true

  defp entries([{key, value} | pairs], out, parts, stack, depth, room, opts) do
    size = byte_size(key)

    cond do
      not Utf8.valid?(key) ->
        blob(
          key,
          ext(out, Leaves.binary_code(), size),
          [value | {:entries, pairs}],
          parts,
          stack,
          depth,
          room,
          opts
        )

      size < 32 ->
        entry(value, pairs, key, size, out, parts, stack, depth, room, opts)

      true ->
        text([value | {:entries, pairs}], key, size, out, parts, stack, depth, room, opts)
    end
  end

  defp entries([], out, parts, stack, depth, room, opts), do: items([], out, parts, stack, depth, room, opts)

  # A valid key of less than 32 bytes, not written yet, is appended together with its value where that is simple.
  defp entry(x, pairs, key, size, out, parts, stack, depth, room, opts)
       when is_binary(x) and byte_size(x) < 32 do
    if Utf8.valid?(x) do
      out = <<out::binary, 0xA0 + size, key::binary, 0xA0 + byte_size(x), x::binary>>
      entries(pairs, out, parts, stack, depth, room, opts)
    else
      out = <<out::binary, 0xA0 + size, key::binary>>

      blob(
        x,
        ext(out, Leaves.binary_code(), byte_size(x)),
        {:entries, pairs},
        parts,
        stack,
        depth,
        room,
        opts
      )
    end
  end

  defp entry(x, pairs, key, size, out, parts, stack, depth, room, opts) when is_float(x),
    do:
      entries(
        pairs,
        <<out::binary, 0xA0 + size, key::binary, 0xCB, x::float>>,
        parts,
        stack,
        depth,
        room,
        opts
      )

  defp entry(x, pairs, key, size, out, parts, stack, depth, room, opts)
       when is_fixed(x) or (is_integer(x) and x >= -0x20 and x < 0),
       do: entries(pairs, <<out::binary, 0xA0 + size, key::binary, x>>, parts, stack, depth, room, opts)

  for {first, last, code, bits} <- [
        {0x80, 0xFF, 0xCC, 8},
        {0x100, 0xFFFF, 0xCD, 16},
        {0x10000, 0xFFFFFFFF, 0xCE, 32},
        {-0x80, -0x21, 0xD0, 8},
        {-0x8000, -0x81, 0xD1, 16},
        {-0x80000000, -0x8001, 0xD2, 32}
      ] do
    defp entry(x, pairs, key, size, out, parts, stack, depth, room, opts)
         when is_integer(x) and x >= unquote(first) and x <= unquote(last) do
      out = <<out::binary, 0xA0 + size, key::binary, unquote(code), x::unquote(bits)>>
      entries(pairs, out, parts, stack, depth, room, opts)
    end
  end

  for {x, code} <- [{nil, 0xC0}, {false, 0xC2}, {true, 0xC3}] do
    defp entry(unquote(x), pairs, key, size, out, parts, stack, depth, room, opts),
      do:
        entries(
          pairs,
          <<out::binary, 0xA0 + size, key::binary, unquote(code)>>,
          parts,
          stack,
          depth,
          room,
          opts
        )
  end

  defp entry(x, pairs, key, size, out, parts, stack, depth, room, opts) when is_list(x) do
    case list_length(x) do
      count when is_integer(count) and count <= 15 ->
        out = <<out::binary, 0xA0 + size, key::binary, 0x90 + count>>
        stack = [depth, {:entries, pairs} | stack]
        items(x, out, parts, stack, deeper(depth, opts), take(room, count, opts), opts)

      _ ->
        out = <<out::binary, 0xA0 + size, key::binary>>
        items([x | {:entries, pairs}], out, parts, stack, depth, room, opts)
    end
  end

  defp entry(x, pairs, key, size, out, parts, stack, depth, room, opts)
       when is_map(x) and not is_map_key(x, :__struct__) and map_size(x) <= 15 do
    inner = :maps.to_list(x)

    if texts?(inner) do
      out = <<out::binary, 0xA0 + size, key::binary, 0x80 + map_size(x)>>
      stack = [depth, {:entries, pairs} | stack]
      entries(inner, out, parts, stack, deeper(depth, opts), take(room, map_size(x), opts), opts)
    else
      out = <<out::binary, 0xA0 + size, key::binary>>
      items([x | {:entries, pairs}], out, parts, stack, depth, room, opts)
    end
  end

  defp entry(x, pairs, key, size, out, parts, stack, depth, room, opts),
    do:
      items(
        [x | {:entries, pairs}],
        <<out::binary, 0xA0 + size, key::binary>>,
        parts,
        stack,
        depth,
        room,
        opts
      )

  defp mixed(x, xs, out, parts, stack, depth, room, opts) do
    case Keys.fields(x) do
      {:pairs, fields} ->
        composite({0x04, :elements, fields}, xs, out, parts, stack, depth, room, opts)

      fields when opts.canonical ->
        fields = Canonical.fields(fields, deeper(depth, opts), opts)
        dict(map_size(x), fields, xs, out, parts, stack, depth, room, opts)

      fields ->
        dict(map_size(x), fields, xs, out, parts, stack, depth, room, opts)
    end
  end

  defp blob(data, out, xs, parts, stack, depth, room, opts) when byte_size(data) < @referenced,
    do: items(xs, <<out::binary, data::binary>>, parts, stack, depth, room, opts)

  defp blob(data, out, xs, parts, stack, depth, room, opts),
    do: items(xs, <<>>, [parts, out | data], stack, depth, room, opts)

  defp dict(size, fields, xs, out, parts, stack, depth, room, opts) do
    room = take(room, size, opts)
    items(fields, map(out, size), parts, [depth, xs | stack], deeper(depth, opts), room, opts)
  end

  defp opaque(x, xs, out, parts, stack, depth, room, opts) do
    {code, payload} = Opaque.dump(x, opts)
    blob(payload, ext(out, code, byte_size(payload)), xs, parts, stack, depth, room, opts)
  end

  # A map with an order of its own.
  defp composite({:map, size, fields}, xs, out, parts, stack, depth, room, opts),
    do: dict(size, fields, xs, out, parts, stack, depth, room, opts)

  defp composite({kind, :elements, elements}, xs, out, parts, stack, depth, room, opts) do
    elements =
      if opts.canonical,
        do: Canonical.elements(kind, elements, deeper(depth, opts), opts),
        else: elements

    size = length(elements)
    out = Composites.mark(array(out, size + 1), kind)
    room = take(room, size, opts)
    items(elements, out, parts, [depth, xs | stack], deeper(depth, opts), room, opts)
  end

  # The fields of a ref or a tensor are no level of nesting and no elements. A shape, the one list among them, stands a level higher so
  # that it always fits.
  defp composite({kind, :fields, fields}, xs, out, parts, stack, depth, room, opts) do
    out = Composites.mark(array(out, length(fields) + 1), kind)
    items(fields, out, parts, [depth, xs | stack], depth - 1, room, opts)
  end

  defp deeper(depth, opts) do
    if depth < opts.depth,
      do: depth + 1,
      else:
        fail(
          :limit_exceeded,
          "the value nests deeper than depth = #{opts.depth}; flatten it, or raise the limit on both sides"
        )
  end

  defp take(room, size, _opts) when size <= room, do: room - size

  defp take(_room, _size, opts) do
    fail(
      :limit_exceeded,
      "the value has more than elements = #{opts.elements} elements; send it in parts, or numbers as a SnakeBridge.Tensor"
    )
  end

  # The length of a list; nil for an improper one.
  defp list_length(list) do
    length(list)
  rescue
    ArgumentError -> nil
  end

  defp long(out, x, opts) do
    {code, payload} = Leaves.dump_integer(x, opts.int_bits)
    <<ext(out, code, byte_size(payload))::binary, payload::binary>>
  end

  defp atom(out, nil), do: <<out::binary, 0xC0>>
  defp atom(out, false), do: <<out::binary, 0xC2>>
  defp atom(out, true), do: <<out::binary, 0xC3>>
  defp atom(out, :nan), do: <<out::binary, 0xCB, 0x7FF8000000000000::64>>
  defp atom(out, :infinity), do: <<out::binary, 0xCB, 0x7FF0000000000000::64>>
  defp atom(out, :neg_infinity), do: <<out::binary, 0xCB, 0xFFF0000000000000::64>>

  defp atom(out, atom) do
    name = Atom.to_string(atom)
    <<ext(out, Leaves.atom_code(), byte_size(name))::binary, name::binary>>
  end

  defp str(out, size) when size <= 0xFFFF, do: <<out::binary, 0xDA, size::16>>
  defp str(out, size) when size <= 0xFFFFFFFF, do: <<out::binary, 0xDB, size::32>>
  defp str(_out, size), do: too_long(size)

  defp bin(out, size) when size <= 0xFF, do: <<out::binary, 0xC4, size>>
  defp bin(out, size) when size <= 0xFFFF, do: <<out::binary, 0xC5, size::16>>
  defp bin(out, size) when size <= 0xFFFFFFFF, do: <<out::binary, 0xC6, size::32>>
  defp bin(_out, size), do: too_long(size)

  defp ext(out, code, 1), do: <<out::binary, 0xD4, code>>
  defp ext(out, code, 2), do: <<out::binary, 0xD5, code>>
  defp ext(out, code, 4), do: <<out::binary, 0xD6, code>>
  defp ext(out, code, 8), do: <<out::binary, 0xD7, code>>
  defp ext(out, code, 16), do: <<out::binary, 0xD8, code>>
  defp ext(out, code, size) when size <= 0xFF, do: <<out::binary, 0xC7, size, code>>
  defp ext(out, code, size) when size <= 0xFFFF, do: <<out::binary, 0xC8, size::16, code>>
  defp ext(out, code, size) when size <= 0xFFFFFFFF, do: <<out::binary, 0xC9, size::32, code>>
  defp ext(_out, _code, size), do: too_long(size)

  defp array(out, size) when size <= 15, do: <<out::binary, 0x90 + size>>
  defp array(out, size) when size <= 0xFFFF, do: <<out::binary, 0xDC, size::16>>
  defp array(out, size), do: <<out::binary, 0xDD, size::32>>

  defp map(out, size) when size <= 15, do: <<out::binary, 0x80 + size>>
  defp map(out, size) when size <= 0xFFFF, do: <<out::binary, 0xDE, size::16>>
  defp map(out, size), do: <<out::binary, 0xDF, size::32>>

  defp too_long(size),
    do:
      fail(:limit_exceeded, "a binary of #{size} bytes is larger than MessagePack's 4 GiB; send it in parts")
end
