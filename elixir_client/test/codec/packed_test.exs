defmodule SnakeBridge.Codec.PackedTest do
  use ExUnit.Case, async: true

  import SnakeBridge.Test.Exact

  alias SnakeBridge.{Bytes, Complex, Error, FrozenSet, OrderedMap, Ref, StreamRef, Tensor}
  alias SnakeBridge.Codec.{Options, Packed}

  defp pack!(term, options \\ []) do
    assert {:ok, iodata} = Packed.encode(term, options)
    IO.iodata_to_binary(iodata)
  end

  defp unpack!(bytes, options \\ []) do
    assert {:ok, term} = Packed.decode(bytes, options)
    term
  end

  defp refused(term, options \\ []) do
    assert {:error, %Error{category: category, message: message}} = Packed.encode(term, options)
    {category, message}
  end

  defp assert_round_trip(term) do
    back = term |> pack!() |> unpack!()
    assert same?(back, term), "#{inspect(term, limit: 20)} came back as #{inspect(back, limit: 20)}"
  end

  # Terms of every kind, from a seed, so that a failure can be repeated.
  defp any_term(0), do: any_leaf()

  defp any_term(depth) do
    case :rand.uniform(8) do
      1 -> Enum.map(1..:rand.uniform(5), fn _ -> any_term(depth - 1) end)
      2 -> List.to_tuple(Enum.map(1..:rand.uniform(20), fn _ -> any_term(depth - 1) end))
      3 -> Map.new(1..:rand.uniform(20), fn i -> {"key #{i}", any_term(depth - 1)} end)
      4 -> Map.new(1..:rand.uniform(20), fn i -> {{i, :key, 0.5}, any_term(depth - 1)} end)
      5 -> MapSet.new([:rand.uniform(100) + 1, {2, any_binary()}, "text", %Bytes{data: any_binary()}])
      6 -> FrozenSet.new(["a", nil, -:rand.uniform(1_000_000)])
      _ -> any_leaf()
    end
  end

  defp any_leaf do
    case :rand.uniform(18) do
      1 ->
        nil

      2 ->
        :rand.uniform(2) == 1

      3 ->
        Enum.random([-1, 1]) * (:rand.uniform(Bitwise.bsl(1, :rand.uniform(64))) - 1)

      4 ->
        Enum.random([-1, 1]) * :rand.uniform(Bitwise.bsl(1, 60 + :rand.uniform(400)))

      5 ->
        (:rand.uniform() - 0.5) * :math.pow(10, :rand.uniform(200) - 100)

      6 ->
        Enum.random([0.0, -0.0, :nan, :infinity, :neg_infinity, 5.0e-324, 1.7976931348623157e308])

      7 ->
        any_binary()

      8 ->
        List.to_string(Enum.map(1..:rand.uniform(300), fn _ -> Enum.random([?a, ?é, ?日, 0x1F600, 0]) end))

      9 ->
        %Bytes{data: any_binary()}

      10 ->
        Enum.random([:ok, :error, String, :"", :"with space", :é])

      11 ->
        Date.add(~D[0001-01-01], :rand.uniform(3_652_058))

      12 ->
        Time.from_seconds_after_midnight(:rand.uniform(86_399), {Enum.random([0, 5, 999_999]), 6})

      13 ->
        NaiveDateTime.add(~N[2000-01-01 00:00:00.123], :rand.uniform(1_000_000_000))

      14 ->
        DateTime.add(~U[2000-01-01 00:00:00Z], :rand.uniform(1_000_000_000))

      15 ->
        Complex.new(:rand.uniform(), Enum.random([:nan, :infinity, -0.0]))

      16 ->
        Tensor.from_list([[1, 2], [3, :rand.uniform(100)]], Enum.random(["uint8", "int64", "float64"]))

      17 ->
        Enum.random([
          self(),
          make_ref(),
          [1 | 2],
          <<1::3>>,
          %URI{host: "a"},
          %RuntimeError{message: any_binary()}
        ])

      18 ->
        Enum.random([
          :rand.uniform(9)..:rand.uniform(9)//3,
          %SnakeBridge.Decimal{coef: :rand.uniform(1000), exp: :rand.uniform(9) - 5},
          %SnakeBridge.TimeDelta{days: :rand.uniform(99)},
          %SnakeBridge.Extension{tag: "t", value: any_leaf()},
          ~r/a|b/u,
          URI.parse("http://a/b")
        ])
    end
  end

  defp any_binary, do: :rand.bytes(:rand.uniform(300) - 1)

  test "a term of any kinds, however nested, comes back as it was" do
    :rand.seed(:exsss, {1, 2, 3})
    for _ <- 1..150, do: assert_round_trip(any_term(3))
  end

  test "sizes around every header's limit come back" do
    for size <- [0, 1, 2, 4, 8, 15, 16, 17, 31, 32, 255, 256, 65_535, 65_536, 70_000] do
      assert_round_trip(:binary.copy("a", size))
      assert_round_trip(%Bytes{data: :binary.copy("a", size)})
      assert_round_trip(:binary.copy(<<255>>, size))
      assert_round_trip(List.duplicate(nil, size))
      assert_round_trip(Tuple.duplicate(1.5, size))
      assert_round_trip(Map.new(1..size//1, &{&1, -&1}))
    end
  end

  test "integers around every limit come back" do
    for bits <- [5, 7, 8, 15, 16, 31, 32, 63, 64, 65, 127, 128, 1000], delta <- -2..2, sign <- [-1, 1] do
      assert_round_trip(sign * Bitwise.bsl(1, bits) + delta)
    end
  end

  test "large binaries are referenced, not copied" do
    large = :binary.copy("large", 100_000)
    assert {:ok, iodata} = Packed.encode([%Bytes{data: large}, large, 1])
    assert Enum.any?(flat(iodata), &:erts_debug.same(&1, large))

    bytes = IO.iodata_to_binary(iodata)
    assert [%Bytes{data: ^large}, ^large = text, 1] = unpack!(bytes)
    assert :binary.referenced_byte_size(text) == byte_size(bytes)
  end

  defp flat([head | tail]), do: flat(head) ++ flat(tail)
  defp flat([]), do: []
  defp flat(part), do: [part]

  test "date times with names of zones and with offsets of seconds come back" do
    utc = ~U[2024-07-01 12:00:00Z]
    berlin = %{utc | utc_offset: 3600, std_offset: 3600, time_zone: "Europe/Berlin", zone_abbr: "CEST"}
    fixed = %{utc | utc_offset: 7200, time_zone: "+02:00", zone_abbr: "+02:00"}
    seconds = %{utc | utc_offset: -21_208, time_zone: "-05:53:28", zone_abbr: "-05:53:28"}
    odd = %{utc | zone_abbr: "Zulu"}
    for moment <- [berlin, fixed, seconds, odd], do: assert_round_trip(moment)
    assert fixed |> pack!() |> unpack!() |> DateTime.to_iso8601() == "2024-07-01T12:00:00+02:00"
  end

  describe "options" do
    test "bytes: :binary gives plain binaries" do
      assert unpack!(pack!([%Bytes{data: "ab"}]), bytes: :binary) == ["ab"]
      tensor = Tensor.from_list([1], "uint8")
      assert unpack!(pack!(tensor), bytes: :binary) == tensor
    end

    test "ref_defaults are put into refs" do
      ref = %Ref{id: "r", session_id: "s", type_name: "T"}
      stream = %StreamRef{id: "r", session_id: "s", stream_type: "generator"}
      decoded = unpack!(pack!([ref, stream]), ref_defaults: %{pool: Pool})
      assert decoded == [%{ref | pool: Pool}, %{stream | pool: Pool}]
    end

    test "functions are named by the callback, and opaque without one" do
      function = fn x, y -> x + y end
      named = fn ^function -> %{id: "cb_1", arity: 2, owner: "<0.1.0>"} end

      assert Base.encode16(pack!(function, callback: named), case: :lower) ==
               "94d41007a463625f3102a73c302e312e303e"

      assert [function] |> pack!() |> unpack!() == [function]
      bytes = pack!([function], callback: named)

      assert unpack!(bytes, callback: &{:callback, &1}) == [
               {:callback, %{id: "cb_1", arity: 2, owner: "<0.1.0>"}}
             ]

      assert {:error, %Error{category: :decode_error}} = Packed.decode(bytes)
    end

    test "maps: :ordered keeps the order of every dict" do
      pairs = for i <- Enum.shuffle(1..100), do: {"key #{i}", i}
      ordered = OrderedMap.new(pairs)
      assert ordered |> pack!() |> unpack!(maps: :ordered) == ordered
      assert ordered |> pack!() |> unpack!() == Map.new(pairs)

      assert [%{"a" => %{}}] |> pack!() |> unpack!(maps: :ordered) == [
               %OrderedMap{pairs: [{"a", %OrderedMap{}}]}
             ]

      apart = OrderedMap.new([{true, 1}, {[1], 2}, {1, 3}])
      assert apart |> pack!() |> unpack!(maps: :ordered) == apart
      assert apart |> pack!() |> unpack!() == OrderedMap.to_map(apart)
      structured = %{"names" => ["a"], "formats" => ["int8"], "offsets" => [0], "itemsize" => 1}
      tensor = %Tensor{dtype: structured, shape: {1}, data: <<1>>}
      assert tensor |> pack!() |> unpack!(maps: :ordered) == tensor
    end

    test "canonical: true gives equal terms equal bytes" do
      keys = for i <- 1..100, do: {i, "key #{i}", :atom}
      sets = for i <- 1..40, do: FrozenSet.new([{i}, "a", %{} |> Map.put(i, MapSet.new(1..i))])

      # The order of large maps and sets depends on how they came to be.
      for make <- [
            &Map.new(&1, fn x -> {x, [x]} end),
            &MapSet.new/1,
            &FrozenSet.new/1,
            &[Map.new(&1, fn x -> {[x], x} end)]
          ] do
        [one, other] = for items <- [keys, Enum.reverse(keys)], do: make.(items)
        assert one == other
        bytes = pack!(one, canonical: true)
        assert pack!(other, canonical: true) == bytes
        assert unpack!(bytes) == one
      end

      assert sets |> pack!(canonical: true) |> unpack!() == sets
      assert pack!(%{"b" => 1, "a" => 2}, canonical: true) == <<0x82, 0xA1, ?a, 2, 0xA1, ?b, 1>>
      assert pack!(MapSet.new(["b", "a"]), canonical: true) == <<0x93, 0xD4, 0x10, 2, 0xA1, ?a, 0xA1, ?b>>
    end

    test "canonical: true takes time that grows with the value, not with its nesting" do
      nested = Enum.reduce(1..200, 1, fn _, inner -> FrozenSet.new([inner]) end)
      assert nested |> pack!(canonical: true) |> unpack!() == nested
      too_deep = Enum.reduce(1..513, 1, fn _, inner -> FrozenSet.new([inner]) end)
      assert {:limit_exceeded, _} = refused(too_deep, canonical: true)
    end

    test "are checked, and can be resolved beforehand" do
      assert unpack!(pack!(%Bytes{data: "a"}), Options.new(bytes: :binary)) == "a"
      assert_raise ArgumentError, ~r/unknown codec option/, fn -> Packed.encode(1, dept: 1) end
      assert_raise ArgumentError, ~r/:depth cannot be 0/, fn -> Packed.decode("a", depth: 0) end
    end
  end

  describe "limits" do
    test "of depth, in both directions" do
      nested = Enum.reduce(1..512, 1, fn _, inner -> [inner] end)
      assert_round_trip(nested)
      assert {:limit_exceeded, message} = refused([nested])
      assert message =~ "depth = 512"

      too_deep = :binary.copy(<<0x91>>, 513) <> <<1>>
      assert {:error, %Error{category: :limit_exceeded}} = Packed.decode(too_deep)
      assert {:error, %Error{category: :limit_exceeded}} = Packed.decode(pack!([[1]]), depth: 1)
      assert unpack!(pack!([1]), depth: 1) == [1]
    end

    test "of depth do not count refs and arrays, which hold no values of the user" do
      for leaf <- [%Ref{id: "r", session_id: "s"}, Tensor.from_list([1], "uint8")] do
        assert [leaf] |> pack!(depth: 1) |> unpack!(depth: 1) == [leaf]
        assert leaf |> pack!(depth: 1) |> unpack!(depth: 1) == leaf
      end
    end

    test "of depth come back down with every container that ends" do
      wide = List.duplicate(%{"a" => [{1}, MapSet.new([1])]}, 2000)
      assert wide |> pack!(depth: 4) |> unpack!(depth: 4) == wide
    end

    test "of elements, in both directions" do
      assert {:limit_exceeded, message} = refused([[1, 2], [3, 4]], elements: 5)
      assert message =~ "elements = 5"

      assert {:error, %Error{category: :limit_exceeded}} =
               Packed.decode(pack!([[1, 2], %{3 => 4}]), elements: 4)

      assert unpack!(pack!([[1, 2], %{3 => 4}]), elements: 5) == [[1, 2], %{3 => 4}]
    end

    test "of integers, in both directions" do
      large = Bitwise.bsl(1, 5000)
      assert {:limit_exceeded, message} = refused(large, int_bits: 4096)
      assert message =~ "int_bits = 4096"
      assert {:error, %Error{category: :limit_exceeded}} = Packed.decode(pack!(large), int_bits: 4096)
    end
  end
end
