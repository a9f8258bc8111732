defmodule SnakeBridge.Codec.Encoder do
  @moduledoc """
  Writes a term as `packed` bytes: one tail-recursive walk that appends to one binary, which the runtime grows in place.

  A container's elements become the list being walked, and what followed it waits on a stack, so nesting uses no process stack. Binaries of
  64 KiB and more are not appended: what was written so far and the binary itself become parts of an iolist.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2, show: 1]

  require SnakeBridge.Codec.Leaves

  alias SnakeBridge.Bytes
  alias SnakeBridge.Codec.{Composites, Keys, Leaves, Options}

  @referenced 64 * 1024

  @doc "The bytes of a term. Throws what `SnakeBridge.Codec.Failure` catches."
  @spec run(term(), Options.t()) :: iodata()
  def run(term, %Options{} = options), do: items([term], <<>>, [], [], 0, options.elements, options)

  # items(terms, out, parts, stack, depth, room, options)
  # out: written since the last part; parts: iodata before that; stack: depth and remaining terms around each open container;
  # depth: open containers; room: how many more elements the message may have.
  defp items([x | xs], out, parts, stack, depth, room, opts) when is_float(x),
    do: items(xs, <<out::binary, 0xCB, x::float-64>>, parts, stack, depth, room, opts)

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_integer(x) and x in -32..127,
    do: items(xs, <<out::binary, x>>, parts, stack, depth, room, opts)

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_integer(x),
    do: items(xs, integer(out, x, opts), parts, stack, depth, room, opts)

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_binary(x) do
    # The runtime's own check: C, stops at the first invalid byte, gives the scheduler its turn.
    if is_binary(:unicode.characters_to_binary(x)) do
      blob(x, str(out, byte_size(x)), xs, parts, stack, depth, room, opts)
    else
      blob(x, ext(out, Leaves.binary_code(), byte_size(x)), xs, parts, stack, depth, room, opts)
    end
  end

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_atom(x),
    do: items(xs, atom(out, x), parts, stack, depth, room, opts)

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_list(x) do
    size = list_length(x)
    out = array(out, size)
    items(x, out, parts, [depth, xs | stack], deeper(depth, opts), take(room, size, opts), opts)
  end

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_tuple(x) do
    out = Composites.tuple_head(array(out, tuple_size(x) + 1))
    room = take(room, tuple_size(x), opts)
    items(Tuple.to_list(x), out, parts, [depth, xs | stack], deeper(depth, opts), room, opts)
  end

  defp items([%Bytes{data: data} | xs], out, parts, stack, depth, room, opts) when is_binary(data),
    do: blob(data, bin(out, byte_size(data)), xs, parts, stack, depth, room, opts)

  defp items([%_{} = x | xs], out, parts, stack, depth, room, opts) do
    case Leaves.dump(x) do
      {code, payload} ->
        out = <<ext(out, code, byte_size(payload))::binary, payload::binary>>
        items(xs, out, parts, stack, depth, room, opts)

      nil ->
        case Composites.split(x) do
          nil -> fail(:encode_error, Composites.unsupported(x))
          split -> composite(split, xs, out, parts, stack, depth, room, opts)
        end
    end
  end

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_map(x) do
    size = map_size(x)
    out = map(out, size)
    room = take(room, size, opts)
    items(Keys.fields(x), out, parts, [depth, xs | stack], deeper(depth, opts), room, opts)
  end

  defp items([x | xs], out, parts, stack, depth, room, opts) when is_function(x),
    do: composite(Composites.split_function(x, opts.callback), xs, out, parts, stack, depth, room, opts)

  defp items([x | _xs], _out, _parts, _stack, _depth, _room, _opts),
    do: fail(:encode_error, Composites.unsupported(x))

  defp items([], out, parts, [depth, xs | stack], _depth, room, opts),
    do: items(xs, out, parts, stack, depth, room, opts)

  defp items([], out, [], [], _depth, _room, _opts), do: out
  defp items([], out, parts, [], _depth, _room, _opts), do: [parts | out]

  defp blob(data, out, xs, parts, stack, depth, room, opts) when byte_size(data) < @referenced,
    do: items(xs, <<out::binary, data::binary>>, parts, stack, depth, room, opts)

  defp blob(data, out, xs, parts, stack, depth, room, opts),
    do: items(xs, <<>>, [parts, out | data], stack, depth, room, opts)

  defp composite({kind, :elements, elements}, xs, out, parts, stack, depth, room, opts) do
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

  defp list_length(list) do
    length(list)
  rescue
    ArgumentError ->
      fail(
        :encode_error,
        "the improper list #{show(list)} has no form in Python; send a tuple or a proper list"
      )
  end

  defp integer(out, x, _opts) when x >= 0 and x <= 0xFFFFFFFFFFFFFFFF do
    cond do
      x <= 0xFF -> <<out::binary, 0xCC, x>>
      x <= 0xFFFF -> <<out::binary, 0xCD, x::16>>
      x <= 0xFFFFFFFF -> <<out::binary, 0xCE, x::32>>
      true -> <<out::binary, 0xCF, x::64>>
    end
  end

  defp integer(out, x, _opts) when x < 0 and x >= -0x8000000000000000 do
    cond do
      x >= -0x80 -> <<out::binary, 0xD0, x>>
      x >= -0x8000 -> <<out::binary, 0xD1, x::16>>
      x >= -0x80000000 -> <<out::binary, 0xD2, x::32>>
      true -> <<out::binary, 0xD3, x::64>>
    end
  end

  defp integer(out, x, opts) do
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

  defp str(out, size) when size <= 31, do: <<out::binary, 0xA0 + size>>
  defp str(out, size) when size <= 0xFF, do: <<out::binary, 0xD9, size>>
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
