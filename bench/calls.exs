# Elixir calls math.sqrt over the lane: one caller and one worker, then sixteen callers and two workers.
Code.require_file("row.exs", __DIR__)

sqrt = fn pool -> {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: pool) end

{:ok, _} = SnakeBridge.Pool.start_link(name: :one, size: 1)
Bench.each(2_000, fn -> sqrt.(:one) end)
started = System.monotonic_time(:nanosecond)
durations = Bench.each(20_000, fn -> sqrt.(:one) end)
Bench.calls("lane_1", durations, (System.monotonic_time(:nanosecond) - started) / 1.0e9)
Supervisor.stop(SnakeBridge.Pool.whereis(:one))

{:ok, _} = SnakeBridge.Pool.start_link(name: :two, size: 2)

many = fn n ->
  1..16
  |> Enum.map(fn _ -> Task.async(fn -> Bench.each(n, fn -> sqrt.(:two) end) end) end)
  |> Task.await_many(120_000)
  |> List.flatten()
end

many.(200)
started = System.monotonic_time(:nanosecond)
durations = many.(4_000)
Bench.calls("lane_16", durations, (System.monotonic_time(:nanosecond) - started) / 1.0e9)
