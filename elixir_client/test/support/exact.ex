defmodule SnakeBridge.Test.Exact do
  @moduledoc """
  Equality that sees everything a codec may lose: the sign of zero, which `===` ignores on OTP 25, included.
  """

  @spec same?(term(), term()) :: boolean()
  def same?(left, right), do: bits(left) == bits(right)

  defp bits(term), do: :erlang.term_to_binary(term, [:deterministic])
end
