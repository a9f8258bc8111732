defmodule Bench do
  @moduledoc "Prints rows for bench/elixir.py and measures calls one by one."

  @doc "One row: tab-separated, empty fields for what was not measured."
  def row(id, value, unit, n, p50 \\ nil, p99 \\ nil, ratio \\ nil, ratio_to \\ nil) do
    fields = ["ROW", id, value, unit, n, p50, p99, ratio, ratio_to]
    IO.puts(Enum.map_join(fields, "\t", &to_string/1))
  end

  @doc "Calls per second with percentiles, from each call's duration in microseconds."
  def calls(id, durations, seconds) do
    sorted = Enum.sort(durations)
    n = length(sorted)
    row(id, n / seconds, "calls/s", n, at(sorted, n, 0.5), at(sorted, n, 0.99))
  end

  @doc "Runs `fun` n times; the duration of each in microseconds."
  def each(n, fun) do
    for _ <- 1..n do
      started = System.monotonic_time(:nanosecond)
      fun.()
      (System.monotonic_time(:nanosecond) - started) / 1000
    end
  end

  @doc "Median of several runs, in milliseconds."
  def median_ms(runs, fun) do
    durations = Enum.sort(each(runs, fun))
    Enum.at(durations, div(runs, 2)) / 1000
  end

  defp at(sorted, n, share), do: Enum.at(sorted, min(n - 1, trunc(n * share)))
end
