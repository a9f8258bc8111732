# A language model in a worker: what Elixir gets of it, and what a loop in the same Python gets.
Code.require_file("row.exs", __DIR__)

defmodule Bench.Generate do
  @moduledoc """
  A round is one text taken by Elixir and the same text taken by a loop in Python, in turns, so that noise meets both alike. Speeds are tokens after
  the first over the time since the first; the overhead is the median of the rounds' ratios.
  """

  @pool :bench_generate
  @rounds 9
  @tokens 64
  @prompt [%{"role" => "user", "content" => "Tell me a long story about a fox."}]
  @options [max_tokens: @tokens]

  def run do
    env = [{"PYTHONPATH", Path.expand("examples/generate/python")}]
    {:ok, _} = SnakeBridge.Pool.start_link(name: @pool, size: 1, env: env)
    {:ok, session} = SnakeBridge.create_session(concurrent: true)
    model = SnakeBridge.in_session(session, fn -> SnakeBridge.call!("smollm", "load", [], pool: @pool) end)

    # Everything is compiled before anything is counted.
    elixir(model)
    eight(model)
    rounds = for _ <- 1..@rounds, do: {elixir(model), python(model)}

    per_token = for {{_, seconds}, _} <- rounds, do: seconds
    Bench.row("tok_s_1", 1 / median(per_token), "tokens/s", @rounds)
    Bench.row("tok_s_1_python", 1 / median(for {_, seconds} <- rounds, do: seconds), "tokens/s", @rounds)
    Bench.row("ttft_ms", median(for {{first, _}, _} <- rounds, do: first * 1000), "ms", @rounds)
    overhead = median(for {{_, ours}, theirs} <- rounds, do: ours / theirs - 1)
    Bench.row("bridge_overhead", overhead, "ratio", @rounds, nil, nil, overhead, "tok_s_1_python")
    Bench.row("tok_s_8", median(for _ <- 1..3, do: eight(model)), "tokens/s", 3)
    Bench.row("bytes_per_token", SnakeBridge.get_attr!(model, :weight_bytes), "bytes", 1)
  end

  # Seconds to the first piece, and per token after it.
  defp elixir(model) do
    started = now()

    {first, last, count} =
      SnakeBridge.stream(model, :generate, [@prompt], @options)
      |> Enum.reduce({nil, nil, 0}, fn _, {first, _, count} ->
        moment = now()
        {first || moment, moment, count + 1}
      end)

    {first - started, (last - first) / (count - 1)}
  end

  defp python(model),
    do: 1 / SnakeBridge.call_method!(model, :complete, [@prompt], @options)["stats"]["tok_s"]

  # Tokens per second of eight texts together, from the call to the last piece.
  defp eight(model) do
    started = now()

    counts =
      1..8
      |> Enum.map(fn _ ->
        Task.async(fn -> SnakeBridge.stream(model, :generate, [@prompt], @options) |> Enum.count() end)
      end)
      |> Task.await_many(:infinity)

    Enum.sum(counts) / (now() - started)
  end

  defp now, do: System.monotonic_time(:nanosecond) / 1.0e9

  defp median(samples), do: samples |> Enum.sort() |> Enum.at(div(length(samples), 2))
end

Bench.Generate.run()
