defmodule SnakeBridge.FrozenSet do
  @moduledoc """
  A Python `frozenset`: a set that can be a map key or an element of another set.
  """

  defstruct items: MapSet.new()

  @type t :: %__MODULE__{items: MapSet.t()}

  @doc "A frozenset of the elements of an enumerable."
  @spec new(Enumerable.t()) :: t()
  def new(items \\ []), do: %__MODULE__{items: MapSet.new(items)}
end
