# Elixir consumes a lazy stream of integers over the lane, and looks at its own memory while it does.
Code.require_file("row.exs", __DIR__)

{:ok, _} = SnakeBridge.Pool.start_link(name: :one, size: 1)
open = fn n -> SnakeBridge.stream("builtins", "range", [n], pool: :one) end
10_000 = open.(10_000) |> Enum.count()

n = 100_000
{us, ^n} = :timer.tc(fn -> open.(n) |> Enum.reduce(0, fn _, count -> count + 1 end) end)
Bench.row("stream_lane", n / (us / 1.0e6), "items/s", n)

# Ten times as many items must not need more memory: the highest reading of the second half against that of the first.
memory = fn ->
  :erlang.garbage_collect()
  :erlang.memory(:total) / 1_048_576
end

long = 1_000_000

{low, high} =
  open.(long)
  |> Stream.with_index()
  |> Enum.reduce({0.0, 0.0}, fn
    {_, i}, {low, high} when rem(i, 50_000) == 0 ->
      if i < div(long, 2), do: {max(low, memory.()), high}, else: {low, max(high, memory.())}

    _, acc ->
      acc
  end)

Bench.row("stream_memory", high - low, "MB grown", long)
