defmodule SnakeBridge.Types do
  @moduledoc """
  `tagged` schema 1: values as what JSON can hold, with `__type__` tags for what it cannot. It is what Snakepit carries.

  `encode/2` gives plain maps, lists, texts and numbers, ready for any JSON library; `decode/2` takes what such a library read. Nothing is
  changed without a word, but schema 1 says less than `SnakeBridge.Codec.Packed`: it has one tag for sets and frozensets to decode, no
  time zone names, and atoms come back as text unless they are allowed:

      config :snakebridge, atom_allowlist: ["ok", "error"]   # the default; :all for every atom that exists

  Options are those of `SnakeBridge.Codec.Options`; a `session_id` among `:ref_defaults` is the session of refs that name none.
  """

  alias SnakeBridge.Codec.{Failure, Options, TaggedDecoder, TaggedEncoder}
  alias SnakeBridge.Error

  @doc """
  The tagged form of a term. Raises `SnakeBridge.Error` for a term that has none.

      iex> SnakeBridge.Types.encode(%{point: {1, 2}})
      %{"point" => %{"__type__" => "tuple", "__schema__" => 1, "elements" => [1, 2]}}
  """
  @spec encode(term(), keyword() | Options.t()) :: term()
  def encode(term, options \\ []) do
    options = Options.new(options)
    result(fn -> {:ok, TaggedEncoder.run(term, options)} end)
  end

  @doc """
  The term of a tagged form. Raises `SnakeBridge.Error` where a tag is malformed.

      iex> SnakeBridge.Types.decode(%{"__type__" => "tuple", "elements" => [1, 2]})
      {1, 2}
  """
  @spec decode(term(), keyword() | Options.t()) :: term()
  def decode(json, options \\ []) do
    options = Options.new(options)
    result(fn -> {:ok, TaggedDecoder.run(json, options)} end)
  end

  defp result(walk) do
    case Failure.catching(walk) do
      {:ok, value} -> value
      {:error, %Error{} = error} -> raise error
    end
  end
end
