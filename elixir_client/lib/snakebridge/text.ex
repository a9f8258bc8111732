defmodule SnakeBridge.Text do
  @moduledoc """
  A Python `str` that holds lone surrogates, which no valid UTF-8 binary can (file names with undecodable bytes are such strings).

  `wtf8` is the text as Python's `"surrogatepass"` UTF-8, so that it goes back unchanged. `to_string/1` gives a valid UTF-8 binary with
  U+FFFD in place of each lone surrogate.
  """

  @enforce_keys [:wtf8]
  defstruct [:wtf8]

  @type t :: %__MODULE__{wtf8: binary()}

  @doc "Whether a binary is UTF-8 in which surrogates may stand for themselves."
  @spec wtf8?(binary()) :: boolean()
  def wtf8?(<<_::utf8, rest::bits>>), do: wtf8?(rest)
  def wtf8?(<<0xED, b, c, rest::bits>>) when b in 0xA0..0xBF and c in 0x80..0xBF, do: wtf8?(rest)
  def wtf8?(<<>>), do: true
  def wtf8?(_), do: false

  defimpl String.Chars do
    def to_string(%{wtf8: wtf8}), do: replace(wtf8, "")

    defp replace(<<char::utf8, rest::bits>>, acc), do: replace(rest, <<acc::binary, char::utf8>>)
    defp replace(<<0xED, _, _, rest::bits>>, acc), do: replace(rest, <<acc::binary, 0xFFFD::utf8>>)
    defp replace(<<_, rest::bits>>, acc), do: replace(rest, <<acc::binary, 0xFFFD::utf8>>)
    defp replace(<<>>, acc), do: acc
  end
end
