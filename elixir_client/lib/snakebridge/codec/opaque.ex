defmodule SnakeBridge.Codec.Opaque do
  @moduledoc """
  Terms that have no counterpart in Python travel as the extension OPAQUE: their external term format, signed. Python can keep such a term
  and send it back, and only what this node has sent in the same scope becomes a term again.

  The key of the signature is made once, when the application starts, and never leaves the node. The scope is the option `:opaque_scope`, so
  that what one pool has sent is worth nothing in another.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2]

  alias SnakeBridge.Codec.Options

  @code 0x0B
  @tag_size 32

  @doc "Makes the key, unless there is one. Called when the application starts."
  @spec create_key() :: :ok
  def create_key do
    if :persistent_term.get(__MODULE__, nil) == nil,
      do: :persistent_term.put(__MODULE__, :crypto.strong_rand_bytes(32))

    :ok
  end

  @doc "Code and payload of any term."
  @spec dump(term(), Options.t()) :: {byte(), binary()}
  def dump(term, opts) do
    kind = kind(term)
    signed = <<byte_size(kind), kind::binary, external(term)::binary>>
    {@code, <<sign(signed, opts)::binary, signed::binary>>}
  end

  @doc "The term of a payload. Throws unless this node has sent it in the same scope."
  @spec load(binary(), Options.t()) :: term()
  def load(<<tag::binary-size(@tag_size), signed::binary>>, opts) do
    # The signature comes first: what is not ours is never given to binary_to_term.
    with true <- equal?(tag, sign(signed, opts), 0),
         <<size, _kind::binary-size(size), external::binary>> <- signed do
      :erlang.binary_to_term(external)
    else
      _ -> foreign()
    end
  end

  def load(_payload, _opts), do: foreign()

  defp foreign,
    do:
      fail(
        :decode_error,
        "an opaque term came in that was not sent from here: it is forged, from another client or pool, or from before a restart; " <>
          "send back only opaque terms of the same connection, unchanged"
      )

  defp sign(signed, %{opaque_scope: scope}) do
    case :persistent_term.get(__MODULE__, nil) do
      nil ->
        fail(
          :encode_error,
          "a term without a form in Python needs the application :snakebridge, which is not started"
        )

      key ->
        :crypto.mac(:hmac, :sha256, key, [<<byte_size(scope)::32>>, scope, signed])
    end
  end

  # Takes the same time wherever the first difference is.
  defp equal?(<<x, xs::binary>>, <<y, ys::binary>>, difference),
    do: equal?(xs, ys, Bitwise.bor(difference, Bitwise.bxor(x, y)))

  defp equal?(<<>>, <<>>, difference), do: difference == 0

  # Equal terms give equal bytes where the runtime can do that (OTP 24.1 and later).
  defp external(term) do
    :erlang.term_to_binary(term, [:deterministic, minor_version: 2])
  rescue
    ArgumentError -> :erlang.term_to_binary(term, minor_version: 2)
  end

  defp kind(term) when is_pid(term), do: "pid"
  defp kind(term) when is_reference(term), do: "reference"
  defp kind(term) when is_port(term), do: "port"
  defp kind(term) when is_function(term), do: "function"
  defp kind(term) when is_bitstring(term), do: "bitstring"
  defp kind(term) when is_list(term), do: "improper list"

  defp kind(%module{}) do
    name = inspect(module)
    if byte_size(name) <= 255 and String.valid?(name), do: name, else: "struct"
  end

  defp kind(_), do: "map"
end
