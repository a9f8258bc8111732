defmodule SnakeBridge.Codec.Canonical do
  @moduledoc """
  The order of map pairs and set elements under the option `canonical: true`: that of their bytes, so that equal terms are encoded equally.

  What was encoded for the comparison is not encoded again: it goes on as one of these structs, which the encoder copies.
  """

  alias SnakeBridge.Codec.{Encoder, Options}

  @enforce_keys [:bytes]
  defstruct [:bytes]

  @type t :: %__MODULE__{bytes: binary()}

  @doc "The elements of a composite in their order. depth: that of the elements."
  @spec elements(byte(), [term()], non_neg_integer(), Options.t()) :: [term()]
  def elements(set, items, depth, opts) when set in [0x02, 0x03, 0x0A],
    do: items |> Enum.map(&written(&1, depth, opts)) |> Enum.sort_by(& &1.bytes)

  def elements(0x04, fields, depth, opts), do: fields(fields, depth, opts)
  def elements(_kind, items, _depth, _opts), do: items

  @doc "Keys and values in turn, in the order of the keys. depth: that of the keys."
  @spec fields([term()], non_neg_integer(), Options.t()) :: [term()]
  def fields(fields, depth, opts) do
    fields
    |> Enum.chunk_every(2)
    |> Enum.map(fn [key, value] -> [written(key, depth, opts), value] end)
    |> Enum.sort_by(fn [key, _] -> key.bytes end)
    |> Enum.concat()
  end

  defp written(term, depth, opts),
    do: %__MODULE__{bytes: term |> Encoder.run(opts, depth) |> IO.iodata_to_binary()}
end
