defmodule SnakeBridge.Decimal do
  @moduledoc """
  A Python `Decimal`: `sign * coef * 10 ** exp`. In place of an exponent `exp` is "F" for an infinity, "n" for a NaN, "N" for a signalling
  NaN, as in Python's `as_tuple()`; the coefficient of a NaN is its payload.

  Where the package `decimal` is there, its `Decimal` comes in place of this, but for the few values that it does not have.
  """

  @enforce_keys [:coef]
  defstruct sign: 1, coef: nil, exp: 0

  @type t :: %__MODULE__{sign: 1 | -1, coef: non_neg_integer(), exp: integer() | String.t()}

  defimpl String.Chars do
    def to_string(%{sign: sign, coef: coef, exp: exp}) do
      minus = if sign == -1, do: "-", else: ""

      case exp do
        "F" -> minus <> "Infinity"
        "n" -> minus <> "NaN" <> payload(coef)
        "N" -> minus <> "sNaN" <> payload(coef)
        0 -> minus <> Integer.to_string(coef)
        exp when exp in -40..-1 -> minus <> point(Integer.to_string(coef), -exp)
        exp -> "#{minus}#{coef}E#{if exp > 0, do: "+"}#{exp}"
      end
    end

    defp payload(0), do: ""
    defp payload(coef), do: Integer.to_string(coef)

    defp point(digits, places) do
      {whole, fraction} = digits |> String.pad_leading(places + 1, "0") |> String.split_at(-places)
      whole <> "." <> fraction
    end
  end
end

defmodule SnakeBridge.Fraction do
  @moduledoc "A Python `Fraction`, in lowest terms and with a denominator above 0."

  @enforce_keys [:numerator, :denominator]
  defstruct [:numerator, :denominator]

  @type t :: %__MODULE__{numerator: integer(), denominator: pos_integer()}

  @doc """
  A fraction in lowest terms. Raises `ArithmeticError` for a denominator of 0.

      iex> SnakeBridge.Fraction.new(2, -4)
      %SnakeBridge.Fraction{numerator: -1, denominator: 2}
  """
  @spec new(integer(), integer()) :: t()
  def new(numerator, denominator) when is_integer(numerator) and is_integer(denominator) do
    divisor = Integer.gcd(numerator, denominator) * if(denominator < 0, do: -1, else: 1)
    %__MODULE__{numerator: div(numerator, divisor), denominator: div(denominator, divisor)}
  end

  defimpl String.Chars do
    def to_string(%{numerator: numerator, denominator: denominator}), do: "#{numerator}/#{denominator}"
  end
end
