defmodule SnakeBridge.Codec.Options do
  @moduledoc """
  The options of the codec, checked and resolved once, before a walk. Whoever encodes or decodes often keeps one of these and passes it in
  place of the keyword list.

    * `:depth` - how deep containers may nest, 512
    * `:elements` - how many elements all containers of a message may have together, 2^24
    * `:int_bits` - the size of the largest integer, 2^22 bits
    * `:callback` - when encoding, a function that gives an Elixir function its name on the wire: `fun -> %{id: id, arity: n, owner: text}`;
      when decoding, a function that makes a term of such a map. Without it functions are errors
    * `:bytes` - what Python `bytes` become: `:struct` (`SnakeBridge.Bytes`, the default) or `:binary`
    * `:ref_defaults` - a map of fields to put into refs that are decoded, such as `%{pool: MyPool}`
  """

  alias SnakeBridge.{Ref, StreamRef}

  @keys [:depth, :elements, :int_bits, :callback, :bytes, :ref_defaults]

  defstruct depth: 512,
            elements: 0x1000000,
            int_bits: 0x400000,
            callback: nil,
            bytes: :struct,
            ref: %Ref{id: nil, session_id: nil},
            stream_ref: %StreamRef{id: nil, session_id: nil}

  @type callback_record :: %{
          required(:id) => String.t(),
          required(:arity) => arity(),
          required(:owner) => String.t(),
          optional(atom()) => term()
        }

  @type t :: %__MODULE__{
          depth: pos_integer(),
          elements: pos_integer(),
          int_bits: pos_integer(),
          callback: (function() -> callback_record()) | (callback_record() -> term()) | nil,
          bytes: :struct | :binary,
          ref: Ref.t(),
          stream_ref: StreamRef.t()
        }

  @doc "Resolves a keyword list. Raises `ArgumentError` for an option that does not exist or cannot be."
  @spec new(keyword() | t()) :: t()
  def new(%__MODULE__{} = options), do: options

  def new(options) when is_list(options) do
    Enum.reduce(options, %__MODULE__{}, fn
      {key, limit}, acc when key in [:depth, :elements, :int_bits] and is_integer(limit) and limit > 0 ->
        Map.put(acc, key, limit)

      {:callback, callback}, acc when is_function(callback, 1) or is_nil(callback) ->
        %{acc | callback: callback}

      {:bytes, bytes}, acc when bytes in [:struct, :binary] ->
        %{acc | bytes: bytes}

      {:ref_defaults, defaults}, acc when is_map(defaults) ->
        %{acc | ref: struct(acc.ref, defaults), stream_ref: struct(acc.stream_ref, defaults)}

      {key, value}, _acc when key in @keys ->
        raise ArgumentError, "the codec option #{inspect(key)} cannot be #{inspect(value)}"

      other, _acc ->
        raise ArgumentError, "unknown codec option #{inspect(other)}; the options are #{inspect(@keys)}"
    end)
  end
end
