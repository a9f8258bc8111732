defmodule SnakeBridge.Bytes do
  @moduledoc """
  Python `bytes`. An Elixir binary that is valid UTF-8 travels as `str`; wrap it in this struct to send it as `bytes`, whatever it holds.

      SnakeBridge.call("hashlib", "sha256", [SnakeBridge.Bytes.new("abc")])

  `to_string/1` gives the plain binary.
  """

  @enforce_keys [:data]
  defstruct [:data]

  @type t :: %__MODULE__{data: binary()}

  @doc "Marks a binary as bytes."
  @spec new(binary()) :: t()
  def new(data) when is_binary(data), do: %__MODULE__{data: data}

  defimpl String.Chars do
    def to_string(%{data: data}), do: data
  end

  defimpl Inspect do
    @shown 32

    def inspect(%{data: data}, _opts) when is_binary(data) and byte_size(data) <= @shown,
      do: "SnakeBridge.Bytes.new(#{Kernel.inspect(data)})"

    def inspect(%{data: data}, _opts) when is_binary(data) do
      start = Kernel.inspect(binary_part(data, 0, @shown), limit: @shown)
      "#SnakeBridge.Bytes<#{byte_size(data)} bytes, #{start} ...>"
    end

    def inspect(bytes, opts), do: Inspect.Any.inspect(bytes, opts)
  end
end
