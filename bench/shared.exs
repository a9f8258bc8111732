# A 16 MB array from Elixir to Python and back: through shared memory, and through the socket.
Code.require_file("row.exs", __DIR__)

defmodule Bench.Shared do
  @moduledoc """
  The two take turns in blocks, so that noise meets them alike, and what one leaves behind (memory to be freed, cold caches) is not charged to the
  other: the first calls of a block are not counted. Figures are medians over all blocks.
  """

  alias SnakeBridge.{Pool, Tensor, ZeroCopyRef}

  @blocks 3
  @uncounted 5
  @rounds 21
  @pool :bench_shared

  def run do
    {:ok, _} = Pool.start_link(name: @pool, size: 1)
    bytes = :crypto.strong_rand_bytes(16_000_000)
    tensor = %Tensor{dtype: "float64", shape: {2_000_000}, data: bytes}
    {:ok, ref} = SnakeBridge.share(tensor)

    works = [
      socket: fn -> echo(tensor, shared: false) end,
      shared: fn -> shared(tensor) end,
      passed: fn -> ref |> echo([]) |> ZeroCopyRef.release() end
    ]

    samples = for _ <- 1..@blocks, {name, work} <- works, sample <- block(work), do: {name, sample}
    medians = Map.new(works, fn {name, _} -> {name, median(for {^name, sample} <- samples, do: sample)} end)

    for {name, us} <- medians,
        do: Bench.row("array_16mb.#{name}", us / 1000, "ms", @blocks * @rounds)

    ratio = medians.socket / medians.shared
    Bench.row("shared_vs_socket", ratio, "ratio", @blocks * @rounds, nil, nil, ratio, "array_16mb.socket")
  end

  defp block(work) do
    Bench.each(@uncounted, work)
    Bench.each(@rounds, work)
  end

  defp median(samples), do: samples |> Enum.sort() |> Enum.at(div(length(samples), 2))

  defp shared(tensor) do
    ref = SnakeBridge.share!(tensor)
    result = echo(ref, [])
    copy = SnakeBridge.unshare!(result)
    ZeroCopyRef.release(ref)
    copy
  end

  # Answers the value itself.
  defp echo(value, runtime),
    do: SnakeBridge.call!("operator", "getitem", [[value], 0], __runtime__: [pool: @pool] ++ runtime)
end

Bench.Shared.run()
