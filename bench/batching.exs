# 32 callers ask a JAX model for one row at a time: each call by itself, and through a batcher, in turns.
Code.require_file("row.exs", __DIR__)

defmodule Bench.Batching do
  @moduledoc "Rows `unbatched_32`, `batched_32` and `batching_gain`: medians of the rounds."

  alias SnakeBridge.{Batcher, Pool, Session, Tensor}

  @callers 32
  @seconds 2
  @rounds 5
  @pool :bench_batching

  def run do
    {:ok, _} = Pool.start_link(name: @pool, size: 1, env: [{"PYTHONPATH", Path.expand(".")}])
    init = fn -> SnakeBridge.call("bench.batching_model", "Mlp") end
    {:ok, model} = Session.start_link(init: init, warm_up: &warm_up/1, pool: @pool)
    :ok = Session.await(model)

    {:ok, batcher} =
      Batcher.start_link(
        session: model,
        method: :predict,
        max_batch: @callers,
        max_delay: 5,
        pad_to: :powers_of_two
      )

    ways = [
      unbatched_32: fn row -> {:ok, _} = Session.call(model, :predict, [row]) end,
      batched_32: fn row -> {:ok, _} = Batcher.call(batcher, [row]) end
    ]

    for {_, way} <- ways, do: round(way, 0.5)
    rounds = for _ <- 1..@rounds, {id, way} <- ways, do: {id, round(way, @seconds)}

    rates =
      for {id, _} <- ways, into: %{} do
        of_it = for {^id, round} <- rounds, do: round
        durations = Enum.flat_map(of_it, &elem(&1, 0))
        Bench.calls(id, durations, length(durations) / median(for {_, rate} <- of_it, do: rate))
        {id, median(for {_, rate} <- of_it, do: rate)}
      end

    gain = rates.batched_32 / rates.unbatched_32
    Bench.row("batching_gain", gain, "x", @rounds, nil, nil, gain, "unbatched_32")
  end

  # Every size that the batcher may ask for is compiled beforehand.
  defp warm_up(model) do
    for size <- [1, 2, 4, 8, 16, 32], do: SnakeBridge.call!(model, :predict, [rows(size)])
    :ok
  end

  # The duration of each call in microseconds, and calls per second.
  defp round(way, seconds) do
    row = rows(1)
    started = System.monotonic_time()
    until = started + System.convert_time_unit(trunc(seconds * 1000), :millisecond, :native)

    durations =
      1..@callers
      |> Enum.map(fn _ -> Task.async(fn -> repeat(way, row, until, []) end) end)
      |> Task.await_many(60_000)
      |> List.flatten()

    elapsed = System.convert_time_unit(System.monotonic_time() - started, :native, :microsecond)
    {durations, length(durations) / (elapsed / 1.0e6)}
  end

  defp repeat(way, row, until, durations) do
    started = System.monotonic_time()

    if started >= until do
      durations
    else
      way.(row)
      took = System.convert_time_unit(System.monotonic_time() - started, :native, :nanosecond) / 1000
      repeat(way, row, until, [took | durations])
    end
  end

  defp rows(count),
    do: %Tensor{
      dtype: "float32",
      shape: {count, 784},
      data: for(_ <- 1..(count * 784), into: <<>>, do: <<0.5::float-32-little>>)
    }

  defp median(values), do: values |> Enum.sort() |> Enum.at(div(length(values), 2))
end

Bench.Batching.run()
