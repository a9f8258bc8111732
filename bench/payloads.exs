# Large values from Elixir through Python and back over the lane.
Code.require_file("row.exs", __DIR__)

{:ok, _} = SnakeBridge.Pool.start_link(name: :one, size: 1)
opts = [pool: :one]
echo = fn value -> SnakeBridge.call!("copy", "copy", [value], opts) end

binary = :crypto.strong_rand_bytes(16_000_000)
^binary = echo.(binary)
Bench.row("bytes_16mb", Bench.median_ms(9, fn -> echo.(binary) end), "ms", 9)

floats = for _ <- 1..100_000, do: :rand.uniform()
^floats = echo.(floats)
Bench.row("floats_1e5", Bench.median_ms(15, fn -> echo.(floats) end), "ms", 15)

array = fn -> SnakeBridge.call!("numpy", "ones", [1_000_000], opts) end
%SnakeBridge.Tensor{dtype: "float64", shape: {1_000_000}, data: data} = array.()
8_000_000 = byte_size(data)
Bench.row("array_1e6", Bench.median_ms(15, array), "ms", 15)
