# The codec by itself: `packed` against the runtime's own external term format, and against jiffy where that is installed.
Code.require_file("row.exs", __DIR__)

defmodule Bench.Codec do
  @moduledoc """
  The shapes of bench/codec.py, each in a process of its own that holds nothing else. Contenders take turns, a garbage collection before
  each, so that noise meets them alike; figures are medians.
  """

  alias SnakeBridge.{Bytes, Codec.Packed, Tensor}

  @rounds 11
  # A sample of something short is as many runs as fit in this.
  @sample_us 4_000

  @json ~w(small records floats ints strings)

  def run do
    jiffy = jiffy?()

    unless jiffy,
      do:
        IO.puts("NOTE\tjiffy is not installed (Debian: erlang-jiffy); rows that compare with it are left out")

    for {shape, make} <- shapes(),
        do: Task.await(Task.async(fn -> measure(shape, make.(), jiffy and shape in @json) end), :infinity)
  end

  defp shapes do
    [
      {"small", &small/0},
      {"records", &records/0},
      {"floats", fn -> for i <- 1..100_000, do: i / 7 end},
      {"ints", fn -> Enum.to_list(0..999_999) end},
      {"strings", fn -> for i <- 0..9_999, do: "string number " <> padded(i, 16) end},
      {"bytes", fn -> %Bytes{data: :binary.copy(<<0, 255, 128, 7>>, 4_000_000)} end},
      {"array", fn -> tensor(1_000_000) end}
    ] ++ tables()
  end

  # What an Arrow table is here: bytes with a name.
  defp tables do
    if Code.ensure_loaded?(SnakeBridge.Arrow),
      do: [
        {"table", fn -> struct!(SnakeBridge.Arrow, kind: "table", data: :binary.copy(<<7>>, 3_200_000)) end}
      ],
      else: []
  end

  defp tensor(n), do: %Tensor{dtype: "float64", shape: {n}, data: :binary.copy(<<1.5::float-64-little>>, n)}
  defp padded(i, width), do: String.pad_leading(Integer.to_string(i), width, "0")

  defp small do
    %{
      "library" => "math",
      "python_module" => "math",
      "function" => "sqrt",
      "args" => [16],
      "kwargs" => %{},
      "session_id" => "session_12_1",
      "call_type" => "function",
      "idempotent" => false
    }
  end

  defp records, do: %{"page" => 1, "records" => Enum.map(0..999, &record/1)}

  defp record(i) do
    %{
      "id" => 1_000_003 * i,
      "name" => "Reader Number #{i}",
      "email" => "reader.#{i}@example.org",
      "score" => i / 7,
      "active" => rem(i, 2) == 0,
      "parent" => nil,
      "tags" => ["alpha", "beta", "tag-#{rem(i, 10)}"],
      "address" => %{
        "street" => "#{i} Long Street",
        "zip" => Integer.to_string(10_000 + i),
        "position" => [i / 11 - 45.0, i / 13 + 8.0]
      }
    }
  end

  defp measure(shape, value, jiffy) do
    wire = value |> packed() |> IO.iodata_to_binary()
    {:ok, ^value} = Packed.decode(wire)
    etf = :erlang.term_to_binary(value)

    # What a socket needs of iodata counts as encoding.
    encode = [
      packed: fn -> :erlang.iolist_to_iovec(packed(value)) end,
      etf: fn -> :erlang.term_to_binary(value) end
    ]

    decode = [packed: fn -> Packed.decode(wire) end, etf: fn -> :erlang.binary_to_term(etf) end]
    {more_encode, more_decode} = if jiffy, do: with_jiffy(value), else: {[], []}

    rows("#{shape}.elixir.encode", byte_size(wire), medians(encode ++ more_encode))
    rows("#{shape}.elixir.decode", byte_size(wire), medians(decode ++ more_decode))
  end

  defp packed(value) do
    {:ok, iodata} = Packed.encode(value)
    iodata
  end

  defp with_jiffy(value) do
    encode = fn -> :erlang.iolist_to_iovec(apply(:jiffy, :encode, [value, [:use_nil]])) end
    json = IO.iodata_to_binary(encode.())
    {[jiffy: encode], [jiffy: fn -> apply(:jiffy, :decode, [json, [:return_maps, :use_nil]]) end]}
  end

  # Debian puts it where it is not looked for when mix runs.
  defp jiffy? do
    for path <- Path.wildcard("/usr/lib/erlang/lib/jiffy-*/ebin"), do: :code.add_path(to_charlist(path))
    Code.ensure_loaded?(:jiffy)
  end

  defp rows(id, size, %{packed: us, etf: etf} = taken) do
    Bench.row(id, size / us, "MB/s", @rounds, nil, nil, etf / us, "etf")

    if jiffy = taken[:jiffy],
      do: Bench.row("#{id}.vs_jiffy", jiffy / us, "x", @rounds, nil, nil, jiffy / us, "jiffy")
  end

  defp medians(contenders) do
    counted = for {name, fun} <- contenders, do: {name, fun, repeats(fun)}

    samples =
      for _ <- 1..@rounds, {name, fun, n} <- counted do
        :erlang.garbage_collect()
        {us, :ok} = :timer.tc(fn -> times(n, fun) end)
        {name, us / n}
      end

    for {name, taken} <- Enum.group_by(samples, &elem(&1, 0), &elem(&1, 1)), into: %{} do
      {name, taken |> Enum.sort() |> Enum.at(div(@rounds, 2))}
    end
  end

  defp repeats(fun) do
    fun.()
    {us, _} = :timer.tc(fn -> times(8, fun) end)
    max(1, div(8 * @sample_us, max(us, 1)))
  end

  defp times(0, _fun), do: :ok

  defp times(n, fun) do
    fun.()
    times(n - 1, fun)
  end
end

Bench.Codec.run()
