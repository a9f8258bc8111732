defmodule SnakeBridge.Codec.Utf8 do
  @moduledoc """
  Whether a binary is valid UTF-8, which decides between text and bytes for every binary on the wire, in both directions.

  The runtime's own check costs a nanosecond and more for each byte. Most text is plain ASCII, which the runtime sees three times as fast.
  """

  # That quick look does not give the scheduler its turn, so it is for texts of which it sees all within microseconds.
  @quick 64 * 1024

  @spec valid?(binary()) :: boolean()
  def valid?(text) when byte_size(text) <= @quick,
    do: :unicode.bin_is_7bit(text) or is_binary(:unicode.characters_to_binary(text))

  def valid?(text), do: is_binary(:unicode.characters_to_binary(text))
end
