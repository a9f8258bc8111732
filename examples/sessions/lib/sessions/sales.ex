defmodule Sessions.Sales do
  @moduledoc """
  A table from Elixir to pandas and back. It travels as Arrow; what comes back is a `SnakeBridge.Arrow` (an Explorer frame with `frames: :explorer`).
  """

  @doc "The sum of `units` for each region, largest first, as `[{region, units}]`."
  def by_region(rows) do
    columns = for name <- ["region", "units"], into: %{}, do: {name, Enum.map(rows, & &1[name])}
    frame = Pandas.DataFrame.new!(columns, __runtime__: [result: :ref])

    frame
    |> Pandas.DataFrame.groupby!("region", sort: false)
    |> SnakeBridge.call_method!(:agg, [%{"units" => "sum"}])
    |> SnakeBridge.call_method!(:sort_values, ["units"], ascending: false, __runtime__: [result: :ref])
    |> SnakeBridge.call_method!(:reset_index, [], __runtime__: [result: :ref])
    |> SnakeBridge.call_method!(:itertuples, [], index: false, name: nil)
    |> Enum.to_list()
  end

  @doc "A frame as an Arrow table in Elixir, and that table as a frame in Python again: is it the same frame?"
  def round_trip(columns) do
    frame = Pandas.DataFrame.new!(columns, __runtime__: [result: :ref])
    table = Pandas.DataFrame.copy!(frame)
    {table, Pandas.DataFrame.equals!(frame, table)}
  end
end
