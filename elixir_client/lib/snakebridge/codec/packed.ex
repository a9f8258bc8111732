defmodule SnakeBridge.Codec.Packed do
  @moduledoc """
  `packed`: values as MessagePack with extension types, the native wire (docs/wire.md section 1).

  One pass in each direction and no intermediate tree. Large binaries are never copied: encoded, they are referenced by the iodata;
  decoded, they are parts of the message, which therefore lives as long as they do (`:binary.copy/1` what is kept for long).

  A type with a binary layout is one row in `SnakeBridge.Codec.Leaves`, a type made of other values one row in
  `SnakeBridge.Codec.Composites` or, with a name on the wire, in `SnakeBridge.Codec.Typed`. What has no counterpart in Python is an opaque
  term (`SnakeBridge.Codec.Opaque`). Options are those of `SnakeBridge.Codec.Options`.
  """

  alias SnakeBridge.Codec.{Decoder, Encoder, Failure, Options}
  alias SnakeBridge.Error

  @doc "The packed bytes of a term, as iodata."
  @spec encode(term(), keyword() | Options.t()) :: {:ok, iodata()} | {:error, Error.t()}
  def encode(term, options \\ []) do
    options = Options.new(options)
    Failure.catching(fn -> {:ok, Encoder.run(term, options)} end)
  end

  @doc "The term of packed bytes, which must hold exactly one value."
  @spec decode(binary(), keyword() | Options.t()) :: {:ok, term()} | {:error, Error.t()}
  def decode(bytes, options \\ []) when is_binary(bytes) do
    options = Options.new(options)

    Failure.catching(fn ->
      case Decoder.run(bytes, options) do
        {term, <<>>} ->
          {:ok, term}

        {_term, rest} ->
          Failure.fail(
            :decode_error,
            "#{byte_size(rest)} bytes are left over after the value; the sender's encoder is broken"
          )
      end
    end)
  end
end
