defmodule SnakeBridge.Complex do
  @moduledoc """
  A Python `complex`. Each part is a float or one of the atoms `:nan`, `:infinity` and `:neg_infinity`.
  """

  @enforce_keys [:real, :imag]
  defstruct [:real, :imag]

  @type part :: float() | :nan | :infinity | :neg_infinity
  @type t :: %__MODULE__{real: part(), imag: part()}

  @specials [:nan, :infinity, :neg_infinity]

  @doc "A complex number. Integer parts become floats, as in Python."
  @spec new(number() | part(), number() | part()) :: t()
  def new(real, imag \\ 0.0), do: %__MODULE__{real: part(real), imag: part(imag)}

  defp part(part) when is_float(part) or part in @specials, do: part
  defp part(part) when is_integer(part), do: part / 1
end
