# The Elixir half of tests/codec/test_across.py: decodes what comes over a socket, encodes it again, and answers. Argument: path of the socket.
#
# A request is a letter and parts, an answer as many parts; a part is a u32 length and bytes. Each part is answered for itself: "+" and the
# bytes of its value, or "-" and why there are none.
#   p  packed -> packed, dicts as plain maps       o  packed -> packed, dicts in their order
#   c  packed -> packed, canonical                 w  packed -> tagged schema 2
#   r  tagged schema 2 -> packed                   t  (no parts) -> terms that only this node can read, packed
#   n  how many atoms there are
defmodule Echo do
  alias SnakeBridge.Codec.Packed
  alias SnakeBridge.Test.Json
  alias SnakeBridge.Types

  def serve(path) do
    SnakeBridge.Codec.Opaque.create_key()
    {:ok, socket} = :gen_tcp.connect({:local, path}, 0, [:binary, active: false, packet: 4])
    answer(socket)
  end

  defp answer(socket) do
    case :gen_tcp.recv(socket, 0) do
      {:ok, <<mode, parts::binary>>} ->
        :ok =
          :gen_tcp.send(socket, for(part <- parts(mode, parts), do: [<<IO.iodata_length(part)::32>>, part]))

        answer(socket)

      {:error, :closed} ->
        :ok
    end
  end

  defp parts(?t, ""), do: for(term <- terms(), do: packed(term, maps: :plain))
  defp parts(mode, parts), do: for(<<size::32, part::binary-size(size) <- parts>>, do: guarded(mode, part))

  # What the codec does not catch itself would be its bug: it is an answer that no test expects.
  defp guarded(mode, part) do
    convert(mode, part)
  rescue
    error in SnakeBridge.Error -> ["-", Exception.message(error)]
    error -> ["!", Exception.format(:error, error, __STACKTRACE__)]
  end

  defp convert(?n, _), do: ["+", Integer.to_string(:erlang.system_info(:atom_count))]
  defp convert(?p, bytes), do: bytes |> term(maps: :plain) |> packed(maps: :plain)
  defp convert(?o, bytes), do: bytes |> term(maps: :ordered) |> packed(maps: :ordered)
  defp convert(?c, bytes), do: bytes |> term(maps: :plain) |> packed(maps: :plain, canonical: true)

  defp convert(?w, bytes) do
    json = bytes |> term(maps: :plain) |> Types.encode(options(schema: 2))
    ["+", Json.encode!(json)]
  end

  defp convert(?r, text), do: text |> Json.decode!() |> Types.decode(options([])) |> packed([])

  defp term(bytes, options) do
    case Packed.decode(bytes, options(options)) do
      {:ok, term} -> term
      {:error, error} -> raise error
    end
  end

  defp packed(term, options) do
    case Packed.encode(term, options(options)) do
      {:ok, bytes} -> ["+", bytes]
      {:error, error} -> raise error
    end
  end

  # A function that came in is one that gives its record again.
  defp options(options), do: [callback: &callback/1] ++ options
  defp callback(record) when is_map(record), do: fn -> record end
  defp callback(function), do: function.()

  defp terms do
    [self(), make_ref(), <<1::3>>, [1 | 2], %RuntimeError{message: "x"}, %{__struct__: 1}] ++
      [
        Port.open({:spawn, "true"}, []),
        ~D[-0001-01-01],
        %Date.Range{first: 1, last: 2, first_in_iso_days: 0, last_in_iso_days: 0, step: 1}
      ]
  end
end

System.argv() |> hd() |> Echo.serve()
