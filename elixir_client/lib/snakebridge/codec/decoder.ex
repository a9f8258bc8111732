defmodule SnakeBridge.Codec.Decoder do
  @moduledoc """
  Reads `packed` bytes: one tail-recursive walk over the message, so that the runtime keeps one match position and makes no intermediate
  binaries.

  An open container is a frame that remembers its kind and what was being read around it. Work and memory are bounded by the length of the
  message: a header that claims more elements than it has bytes is refused before anything is made.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2]

  alias SnakeBridge.{Bytes, OrderedMap}
  alias SnakeBridge.Codec.{Composites, Heap, Leaves, Options, Utf8}

  # Bytes: smaller messages hold no list that is worth a reservation of heap. Elements: such a list has more.
  @small 512
  @long 64

  @doc "The first value of a message and the bytes after it. Throws what `SnakeBridge.Codec.Failure` catches."
  @spec run(binary(), Options.t()) :: {term(), binary()}
  def run(bytes, %Options{} = opts) do
    size = byte_size(bytes)
    if size < @small, do: message(bytes, size, opts), else: Heap.scope(fn -> message(bytes, size, opts) end)
  end

  defp message(bytes, size, opts), do: items(bytes, 1, [], {:message, 0}, opts.elements, {size, opts})

  # items(bytes, missing, done, frame, room, limits)
  # missing: items that the innermost container still lacks; done: those it has, last first;
  # frame: {kind, depth} of the message, {kind, depth, missing, done, frame} of a container, where the last three are those around it;
  # room: how many more elements the message may have.
  defp items(<<rest::bits>>, 0, done, frame, room, limits), do: close(rest, done, frame, room, limits)

  defp items(<<x, rest::bits>>, n, done, frame, room, limits) when x < 0x80,
    do: items(rest, n - 1, [x | done], frame, room, limits)

  # From here on every head is a literal, so the compiler makes one jump of them.
  defp items(<<0xCB, x::float-64, rest::bits>>, n, done, frame, room, limits),
    do: items(rest, n - 1, [x | done], frame, room, limits)

  for head <- 0xA0..0xBF do
    defp items(<<unquote(head), rest::bits>>, n, done, frame, room, limits),
      do: str(rest, unquote(head - 0xA0), n, done, frame, room, limits)
  end

  for head <- 0x80..0x8F do
    defp items(<<unquote(head), rest::bits>>, n, done, frame, room, limits),
      do: map(rest, unquote(head - 0x80), n, done, frame, room, limits)
  end

  for head <- 0x90..0x9F do
    defp items(<<unquote(head), rest::bits>>, n, done, frame, room, limits),
      do: array(rest, unquote(head - 0x90), n, done, frame, room, limits)
  end

  for head <- 0xE0..0xFF do
    defp items(<<unquote(head), rest::bits>>, n, done, frame, room, limits),
      do: items(rest, n - 1, [unquote(head - 0x100) | done], frame, room, limits)
  end

  for {head, value} <- [{0xC0, nil}, {0xC2, false}, {0xC3, true}] do
    defp items(<<unquote(head), rest::bits>>, n, done, frame, room, limits),
      do: items(rest, n - 1, [unquote(value) | done], frame, room, limits)
  end

  for {head, bits} <- [{0xCC, 8}, {0xCD, 16}, {0xCE, 32}, {0xCF, 64}] do
    defp items(<<unquote(head), x::unquote(bits), rest::bits>>, n, done, frame, room, limits),
      do: items(rest, n - 1, [x | done], frame, room, limits)
  end

  for {head, bits} <- [{0xD0, 8}, {0xD1, 16}, {0xD2, 32}, {0xD3, 64}] do
    defp items(<<unquote(head), x::signed-unquote(bits), rest::bits>>, n, done, frame, room, limits),
      do: items(rest, n - 1, [x | done], frame, room, limits)
  end

  # A float that is not finite does not match as a float.
  defp items(<<0xCB, x::64, rest::bits>>, n, done, frame, room, limits),
    do: items(rest, n - 1, [Leaves.special_float(x) | done], frame, room, limits)

  defp items(<<0xCA, x::float-32, rest::bits>>, n, done, frame, room, limits),
    do: items(rest, n - 1, [x | done], frame, room, limits)

  defp items(<<0xCA, sign::1, 0xFF, fraction::23, rest::bits>>, n, done, frame, room, limits) do
    x =
      case {fraction, sign} do
        {0, 0} -> :infinity
        {0, 1} -> :neg_infinity
        _ -> :nan
      end

    items(rest, n - 1, [x | done], frame, room, limits)
  end

  for {head, bits} <- [{0xD9, 8}, {0xDA, 16}, {0xDB, 32}] do
    defp items(<<unquote(head), size::unquote(bits), rest::bits>>, n, done, frame, room, limits),
      do: str(rest, size, n, done, frame, room, limits)
  end

  for {head, bits} <- [{0xC4, 8}, {0xC5, 16}, {0xC6, 32}] do
    defp items(<<unquote(head), size::unquote(bits), rest::bits>>, n, done, frame, room, limits),
      do: bin(rest, size, n, done, frame, room, limits)
  end

  for {head, bits} <- [{0xDC, 16}, {0xDD, 32}] do
    defp items(<<unquote(head), size::unquote(bits), rest::bits>>, n, done, frame, room, limits),
      do: array(rest, size, n, done, frame, room, limits)
  end

  for {head, bits} <- [{0xDE, 16}, {0xDF, 32}] do
    defp items(<<unquote(head), size::unquote(bits), rest::bits>>, n, done, frame, room, limits),
      do: map(rest, size, n, done, frame, room, limits)
  end

  for {head, size} <- [{0xD4, 1}, {0xD5, 2}, {0xD6, 4}, {0xD7, 8}, {0xD8, 16}] do
    defp items(<<unquote(head), code, rest::bits>>, n, done, frame, room, limits),
      do: ext(rest, unquote(size), code, n, done, frame, room, limits)
  end

  for {head, bits} <- [{0xC7, 8}, {0xC8, 16}, {0xC9, 32}] do
    defp items(<<unquote(head), size::unquote(bits), code, rest::bits>>, n, done, frame, room, limits),
      do: ext(rest, size, code, n, done, frame, room, limits)
  end

  defp items(<<0xC1, _::bits>>, _n, _done, _frame, _room, _limits),
    do: fail(:decode_error, "the byte C1 is no MessagePack; the message is corrupt")

  defp items(_rest, _n, _done, _frame, _room, _limits), do: truncated()

  defp str(<<rest::bits>>, size, n, done, frame, room, limits) do
    case rest do
      <<text::binary-size(size), rest::bits>> ->
        if Utf8.valid?(text),
          do: items(rest, n - 1, [text | done], frame, room, limits),
          else:
            fail(:decode_error, "a string that is not valid UTF-8 came in; the sender must send it as bytes")

      _ ->
        truncated()
    end
  end

  defp bin(<<rest::bits>>, size, n, done, frame, room, {_, opts} = limits) do
    case rest do
      <<data::binary-size(size), rest::bits>> ->
        value = if opts.bytes == :struct, do: %Bytes{data: data}, else: data
        items(rest, n - 1, [value | done], frame, room, limits)

      _ ->
        truncated()
    end
  end

  defp ext(<<rest::bits>>, size, code, n, done, frame, room, {_, opts} = limits) do
    case rest do
      <<payload::binary-size(size), rest::bits>> ->
        items(rest, n - 1, [Leaves.load(code, payload, opts) | done], frame, room, limits)

      _ ->
        truncated()
    end
  end

  # A MARK may come in any of the forms that MessagePack has for an extension of one byte.
  for head <- [<<0xD4, 0x10>>, <<0xC7, 1, 0x10>>, <<0xC8, 1::16, 0x10>>, <<0xC9, 1::32, 0x10>>] do
    defp array(<<unquote(head), kind, rest::bits>>, size, n, done, frame, room, limits) when size > 0,
      do: composite(rest, kind, Composites.level(kind), size - 1, n, done, frame, room, limits)
  end

  defp array(<<rest::bits>>, size, n, done, frame, room, limits) do
    room = take(room, size, limits)
    frame = {:list, deeper(frame, limits), n, done, frame}

    if size < @long,
      do: items(rest, size, [], frame, room, limits),
      else: long(rest, size, frame, room, limits)
  end

  # A long list is mostly of one kind, and its first element shows which: how many words each will take on the heap (two cells of two words,
  # because the list is turned round in the end, and what the cell points to), and for numbers a loop that knows nothing else. That loop
  # hands over to `items` where another kind comes.
  defp long(<<0xCB, _::bits>> = rest, size, frame, room, limits) do
    Heap.reserve(7 * size)
    floats(rest, size, [], frame, room, limits)
  end

  defp long(<<head, _::bits>> = rest, size, frame, room, limits) when head <= 0x7F or head in 0xCC..0xCF do
    Heap.reserve(4 * size)
    integers(rest, size, [], frame, room, limits)
  end

  defp long(<<head, _::bits>> = rest, size, frame, room, limits) when head in 0xA0..0xBF or head == 0xD9 do
    Heap.reserve(9 * size)
    items(rest, size, [], frame, room, limits)
  end

  defp long(rest, size, frame, room, limits), do: items(rest, size, [], frame, room, limits)

  defp floats(
         <<0xCB, a::float, 0xCB, b::float, 0xCB, c::float, 0xCB, d::float, rest::bits>>,
         n,
         done,
         frame,
         room,
         limits
       )
       when n >= 4,
       do: floats(rest, n - 4, [d, c, b, a | done], frame, room, limits)

  defp floats(<<0xCB, x::float, rest::bits>>, n, done, frame, room, limits) when n > 0,
    do: floats(rest, n - 1, [x | done], frame, room, limits)

  defp floats(<<rest::bits>>, n, done, frame, room, limits), do: items(rest, n, done, frame, room, limits)

  for {head, bits} <- [{0xCE, 32}, {0xCD, 16}, {0xCC, 8}, {0xCF, 64}] do
    defp integers(<<unquote(head), x::unquote(bits), rest::bits>>, n, done, frame, room, limits) when n > 0,
      do: integers(rest, n - 1, [x | done], frame, room, limits)
  end

  defp integers(<<x, rest::bits>>, n, done, frame, room, limits) when x <= 0x7F and n > 0,
    do: integers(rest, n - 1, [x | done], frame, room, limits)

  defp integers(<<rest::bits>>, n, done, frame, room, limits), do: items(rest, n, done, frame, room, limits)

  defp map(<<rest::bits>>, size, n, done, frame, room, limits) do
    room = take(room, size, limits)
    items(rest, 2 * size, [], {:map, deeper(frame, limits), n, done, frame}, room, limits)
  end

  defp composite(<<rest::bits>>, kind, :elements, size, n, done, frame, room, limits) do
    room = take(room, size, limits)
    items(rest, size, [], {kind, deeper(frame, limits), n, done, frame}, room, limits)
  end

  # Fields are no level of their own; a shape, the one list among them, stands a level higher so that it always fits.
  defp composite(<<rest::bits>>, kind, :fields, size, n, done, frame, room, limits) do
    room = take(room, size, limits)
    items(rest, size, [], {kind, elem(frame, 1) - 1, n, done, frame}, room, limits)
  end

  defp composite(<<_::bits>>, kind, nil, _size, _n, _done, _frame, _room, _limits),
    do: fail(:decode_error, "unknown composite kind #{kind}; the peer speaks a newer version of the protocol")

  defp close(<<rest::bits>>, [value], {:message, _}, _room, _limits), do: {value, rest}

  defp close(<<rest::bits>>, items, {kind, _depth, n, done, frame}, room, limits),
    do: items(rest, n - 1, [build(kind, items, limits) | done], frame, room, limits)

  defp build(:list, items, _limits), do: :lists.reverse(items)

  defp build(:map, items, {_, opts}) do
    {pairs, size} = pairs(items, [], 0)
    map = :maps.from_list(pairs)

    cond do
      map_size(map) != size ->
        fail(:decode_error, "a map came in whose keys are equal in Elixir; send a list of pairs")

      # Python could make any struct of such a map, and structs are trusted with more than data.
      is_map_key(map, :__struct__) ->
        fail(:decode_error, "a map with the atom __struct__ as a key came in; send the key as text")

      opts.maps == :ordered ->
        %OrderedMap{pairs: pairs}

      true ->
        map
    end
  end

  defp build(kind, items, {_, opts}), do: Composites.build(kind, :lists.reverse(items), opts)

  defp pairs([value, key | items], pairs, size), do: pairs(items, [{key, value} | pairs], size + 1)
  defp pairs([], pairs, size), do: {pairs, size}

  defp deeper(frame, {_, opts}) do
    depth = elem(frame, 1)

    if depth < opts.depth,
      do: depth + 1,
      else:
        fail(
          :limit_exceeded,
          "the message nests deeper than depth = #{opts.depth}; flatten it, or raise the limit on both sides"
        )
  end

  defp take(_room, size, {message, _}) when size > message do
    fail(
      :decode_error,
      "a container claims #{size} elements in a message of #{message} bytes; it is truncated or forged"
    )
  end

  defp take(room, size, _) when size <= room, do: room - size

  defp take(_room, _size, {_, opts}),
    do:
      fail(
        :limit_exceeded,
        "the message has more than elements = #{opts.elements} elements; send it in parts or as an array"
      )

  defp truncated, do: fail(:decode_error, "the message ends inside a value; it is truncated or corrupt")
end
