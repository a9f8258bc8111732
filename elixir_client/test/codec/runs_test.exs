defmodule SnakeBridge.Codec.RunsTest do
  @moduledoc "What the encoder appends together and the decoder reads in a loop of its own is what it would be one by one."
  use ExUnit.Case, async: true

  alias SnakeBridge.{Bytes, Error}
  alias SnakeBridge.Codec.Packed

  @integers [
              0,
              127,
              128,
              255,
              256,
              65_535,
              65_536,
              0xFFFFFFFF,
              0x100000000,
              0x7FFFFFFFFFFFFFF,
              0x800000000000000
            ] ++
              [
                0xFFFFFFFFFFFFFFFF,
                0x10000000000000000,
                -1,
                -32,
                -33,
                -128,
                -129,
                -32_768,
                -32_769,
                -0x80000000
              ] ++
              [-0x80000001, -0x8000000000000000, -0x8000000000000001]
  @texts [
    "",
    "a",
    "grüße",
    "\0",
    String.duplicate("x", 31),
    String.duplicate("ü", 16),
    String.duplicate("y", 300)
  ]
  @others [
            nil,
            true,
            false,
            :nan,
            1.5,
            -0.0,
            <<255>>,
            <<"a", 200>>,
            %Bytes{data: "b"},
            {1, "t"},
            [],
            [1.0],
            %{},
            %{"k" => "v"}
          ] ++
            [%{1 => 2}, Enum.to_list(1..20), :ok]
  @all @integers ++ @texts ++ @others

  defp one_by_one(list) do
    parts = Enum.map(list, &encoded/1)
    size = length(list)
    head = if size <= 15, do: <<0x90 + size>>, else: <<0xDC, size::16>>
    IO.iodata_to_binary([head | parts])
  end

  defp encoded(term) do
    {:ok, iodata} = Packed.encode(term)
    IO.iodata_to_binary(iodata)
  end

  test "a stranger at any place of a run of numbers or texts changes nothing" do
    for filler <- [7, 200, 70_000, 0x100000000, 2.5, "text"],
        stranger <- @all,
        at <- [0, 1, 3, 7, 8, 15, 63, 69] do
      list = List.replace_at(List.duplicate(filler, 70), at, stranger)
      bytes = encoded(list)
      assert bytes == one_by_one(list)
      assert Packed.decode(bytes) == {:ok, list}
    end
  end

  test "every pair of neighbours is written as each alone" do
    for x <- @all, y <- @all, do: assert(encoded([x, y, x]) == one_by_one([x, y, x]))
  end

  test "every value behind every kind of key is written as each alone" do
    for key <- @texts ++ [<<255>>, 1, :key], value <- @all do
      assert encoded(%{key => value}) == <<0x81, encoded(key)::binary, encoded(value)::binary>>

      assert encoded(%{"k" => [%{key => value}, 1]}) ==
               <<0x81, 0xA1, "k", 0x92, encoded(%{key => value})::binary, 1>>
    end
  end

  test "the heap that a long list reserves is given up" do
    before = Process.info(self(), :min_heap_size)
    list = Enum.to_list(1..50_000)
    assert {:ok, ^list} = Packed.decode(encoded(list))
    assert Process.info(self(), :min_heap_size) == before

    assert {:error, %Error{}} =
             Packed.decode(<<0xDD, 40_000::32, String.duplicate(<<1>>, 40_000)::binary, 0xC1>>)

    assert {:error, %Error{}} = Packed.decode(<<0xDD, 60_000::32, String.duplicate(<<1>>, 59_999)::binary>>)
    assert Process.info(self(), :min_heap_size) == before
  end

  test "nested lists that all claim much reserve only once" do
    claims = String.duplicate(<<0xDD, 20_000::32>>, 400)
    assert {:error, %Error{}} = Packed.decode(<<claims::binary, String.duplicate(<<1>>, 20_000)::binary>>)
    {:total_heap_size, words} = Process.info(self(), :total_heap_size)
    assert words < 0x100000
  end
end
