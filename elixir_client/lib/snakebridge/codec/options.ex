defmodule SnakeBridge.Codec.Options do
  @moduledoc """
  The options of the codec, checked and resolved once, before a walk. Whoever encodes or decodes often keeps one of these and passes it in
  place of the keyword list.

    * `:depth` - how deep containers may nest, 512
    * `:elements` - how many elements all containers of a message may have together, 2^24
    * `:int_bits` - the size of the largest integer, 2^22 bits
    * `:callback` - when encoding, a function that gives an Elixir function its name on the wire: `fun -> %{id: id, arity: n, owner: text}`;
      when decoding, a function that makes a term of such a map. Without it a function travels as an opaque term, and one that comes in is
      an error
    * `:bytes` - what Python `bytes` become: `:struct` (`SnakeBridge.Bytes`, the default) or `:binary`
    * `:maps` - what dicts become: `:plain` maps (the default) or `:ordered`, `SnakeBridge.OrderedMap`
    * `:canonical` - true: equal terms are encoded to equal bytes, map pairs and set elements sorted by their bytes; false is the default
    * `:tensors` - what numpy arrays become: `:snakebridge` (`SnakeBridge.Tensor`) or `:nx` where Nx has the type. The default is
      `config :snakebridge, tensors: ...`, else `:snakebridge`
    * `:frames` - what Arrow tables become: `:arrow` (`SnakeBridge.Arrow`) or `:explorer`, an `Explorer.DataFrame`. The default is
      `config :snakebridge, frames: ...`, else `:arrow`
    * `:schema` - the schema of `tagged` to encode: 1 (the default) or 2; both are always decoded
    * `:opaque_scope` - a text; opaque terms are only taken back in the scope in which they were sent. "" is the default
    * `:segments` - what becomes of a segment of shared memory: a function of its name, offset and length that answers a
      `SnakeBridge.ZeroCopyRef` or its bytes. Without it a segment that comes in is an error
    * `:ref_defaults` - a map of fields to put into refs that are decoded, such as `%{pool: MyPool}`
  """

  alias SnakeBridge.{Ref, StreamRef}

  @choices %{
    bytes: [:struct, :binary],
    maps: [:plain, :ordered],
    canonical: [false, true],
    tensors: [:snakebridge, :nx],
    frames: [:arrow, :explorer],
    schema: [1, 2]
  }
  @limits [:depth, :elements, :int_bits]
  @keys @limits ++ [:callback, :segments, :ref_defaults, :opaque_scope] ++ Map.keys(@choices)

  defstruct depth: 512,
            elements: 0x1000000,
            int_bits: 0x400000,
            callback: nil,
            bytes: :struct,
            maps: :plain,
            canonical: false,
            tensors: nil,
            frames: nil,
            segments: nil,
            schema: 1,
            opaque_scope: "",
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
          maps: :plain | :ordered,
          canonical: boolean(),
          tensors: :snakebridge | :nx | nil,
          frames: :arrow | :explorer | nil,
          segments:
            ({String.t(), non_neg_integer(), non_neg_integer()} ->
               {:ok, SnakeBridge.ZeroCopyRef.t() | binary()} | {:error, SnakeBridge.Error.t()})
            | nil,
          schema: 1 | 2,
          opaque_scope: String.t(),
          ref: Ref.t(),
          stream_ref: StreamRef.t()
        }

  @doc "Resolves a keyword list. Raises `ArgumentError` for an option that does not exist or cannot be."
  @spec new(keyword() | t()) :: t()
  def new(%__MODULE__{} = options), do: options

  def new(options) when is_list(options) do
    Enum.reduce(options, %__MODULE__{}, fn
      {key, limit}, acc when key in @limits and is_integer(limit) and limit > 0 ->
        Map.put(acc, key, limit)

      {:callback, callback}, acc when is_function(callback, 1) or is_nil(callback) ->
        %{acc | callback: callback}

      {:segments, segments}, acc when is_function(segments, 1) or is_nil(segments) ->
        %{acc | segments: segments}

      {:ref_defaults, defaults}, acc when is_map(defaults) ->
        %{acc | ref: struct(acc.ref, defaults), stream_ref: struct(acc.stream_ref, defaults)}

      {:opaque_scope, scope}, acc when is_binary(scope) ->
        %{acc | opaque_scope: scope}

      {key, choice}, acc when is_map_key(@choices, key) ->
        if choice in Map.fetch!(@choices, key), do: Map.put(acc, key, choice), else: refuse(key, choice)

      {key, value}, _acc when key in @keys ->
        refuse(key, value)

      other, _acc ->
        raise ArgumentError, "unknown codec option #{inspect(other)}; the options are #{inspect(@keys)}"
    end)
  end

  defp refuse(key, value),
    do: raise(ArgumentError, "the codec option #{inspect(key)} cannot be #{inspect(value)}")
end
