defmodule SnakeBridge.Codec.RefusalTest do
  @moduledoc "What `packed` refuses: terms that Python could not keep, and messages that no honest peer sends."

  use ExUnit.Case, async: true

  alias SnakeBridge.{Bytes, Complex, Error, FrozenSet, Ref, StreamRef, Tensor, Text}
  alias SnakeBridge.Codec.Packed

  defp pack!(term) do
    assert {:ok, iodata} = Packed.encode(term)
    IO.iodata_to_binary(iodata)
  end

  defp refused(term) do
    assert {:error, %Error{category: :encode_error, message: message}} = Packed.encode(term)
    message
  end

  describe "encoding refuses" do
    test "values that are malformed" do
      for term <- [
            %{~D[2024-01-01] | day: 32},
            %{~T[00:00:00] | hour: 24},
            %{~U[2024-01-01 00:00:00Z] | utc_offset: 90_000},
            %Complex{real: 1, imag: 2},
            %Bytes{data: 1},
            %Text{wtf8: <<255>>},
            %SnakeBridge.Atom{name: 1},
            %Ref{id: nil, session_id: "s"},
            %Ref{id: "r", session_id: "s", library: 1},
            %FrozenSet{items: [1]},
            %Tensor{dtype: "uint8", shape: {2}, data: <<1>>},
            %Tensor{dtype: "text", shape: {1}, data: <<1>>},
            %Tensor{dtype: "uint8", shape: [1], data: <<1>>},
            %Tensor{dtype: "uint8", shape: {1}, data: <<1>>, order: :r},
            %SnakeBridge.NamedTuple{type: "m:T", fields: ["a"], values: []},
            %SnakeBridge.Enum{type: "m:T", name: 1, value: 1},
            %SnakeBridge.TimeDelta{seconds: -1},
            %SnakeBridge.Fold{moment: ~D[2024-01-01]},
            %SnakeBridge.TimeZone{seconds: 86_400},
            %SnakeBridge.ZoneInfo{key: nil},
            %SnakeBridge.ZonedTime{time: ~T[00:00:00], zone: "UTC"},
            %SnakeBridge.ZonedDateTime{naive: ~N[2024-01-01 00:00:00], zone: nil},
            %SnakeBridge.Decimal{coef: -1},
            %SnakeBridge.Decimal{coef: 1, exp: "F"},
            %SnakeBridge.Fraction{numerator: 2, denominator: 4},
            %SnakeBridge.UUID{text: "1"},
            %SnakeBridge.Path{type: "Path", path: "/"},
            %SnakeBridge.Namespace{fields: %{a: 1}},
            %SnakeBridge.IP{type: "IPv5", text: ""},
            %SnakeBridge.Pattern{source: 1},
            %SnakeBridge.DateTime64{value: 1.5, unit: "s"},
            %SnakeBridge.Arrow{kind: "table", data: 1},
            %SnakeBridge.Extension{tag: "decimal", value: 1},
            %SnakeBridge.Extension{tag: :geo, value: 1},
            %SnakeBridge.OrderedMap{pairs: [{1, 2}, {1, 3}]},
            %SnakeBridge.OrderedMap{pairs: [1]},
            %SnakeBridge.Graph{root: 1, nodes: %{}},
            %SnakeBridge.Graph.Node{index: -1}
          ] do
        assert refused([term]) != ""
      end
    end

    test "no map keys and set elements that are equal in Python: they travel as pairs and members" do
      ref = %Ref{id: "r", session_id: "s"}
      decimal = &%SnakeBridge.Decimal{coef: &1, exp: &2}

      pairs = [
        {1, 1.0},
        {1, true},
        {0, false},
        {0.0, false},
        {0, 0.0},
        {-0.0, 0},
        {1.0e20, 100_000_000_000_000_000_000},
        {:a, "a"},
        {%SnakeBridge.Atom{name: "nil"}, "nil"},
        {%Bytes{data: <<255>>}, <<255>>},
        {Complex.new(1, 0), 1},
        {Complex.new(1, -0.0), true},
        {~T[01:00:00], ~T[01:00:00.000]},
        {~U[2024-01-01 00:00:00Z], ~U[2024-01-01 00:00:00.000Z]},
        {~U[2024-07-01 00:00:00Z], berlin(~U[2024-07-01 02:00:00Z])},
        {ref, %{ref | type_name: "T"}},
        {FrozenSet.new([1]), FrozenSet.new([1.0])},
        {decimal.(10, -1), 1},
        {decimal.(5, -1), 0.5},
        {decimal.(10, 0), decimal.(1, 1)},
        {%SnakeBridge.Fraction{numerator: 1, denominator: 2}, 0.5},
        {%SnakeBridge.Decimal{coef: 0, exp: "F"}, :infinity},
        {%SnakeBridge.Enum{type: "m:T", name: "A", value: 1}, 1},
        {%SnakeBridge.NamedTuple{type: "m:T", fields: ["a"], values: [1]}, {1}},
        {1..0//1, 5..0//1},
        {1..1//1, 1..2//4},
        {%SnakeBridge.Fold{moment: ~T[01:00:00]}, ~T[01:00:00]},
        {%SnakeBridge.TimeZone{name: "a"}, %SnakeBridge.TimeZone{name: "b"}},
        {%SnakeBridge.DateTime64{value: 1, unit: "D"}, %SnakeBridge.DateTime64{value: 24, unit: "h"}},
        {%SnakeBridge.DateTime64{value: 24, unit: "h"}, ~N[1970-01-02 00:00:00]},
        {%SnakeBridge.TimeDelta64{value: 1, unit: "D"}, %SnakeBridge.TimeDelta{days: 1}},
        {%SnakeBridge.Path{type: "PosixPath", path: "/a"},
         %SnakeBridge.Path{type: "PurePosixPath", path: "/a/."}},
        {URI.parse("http://a"), "http://a"},
        {Version.parse!("1.2.3"), "1.2.3"}
      ]

      for {left, right} <- pairs, left !== right, wrap <- [& &1, &{&1}, &{"x", {&1}}] do
        assert_apart(%{wrap.(left) => 1, wrap.(right) => 2}, 0x04)
        assert_apart(MapSet.new([wrap.(left), wrap.(right)]), 0x0A)
      end
    end

    test "no map keys and set elements that Python cannot hash: they travel as pairs and members" do
      for key <- [
            [1],
            %{},
            MapSet.new([1]),
            Tensor.from_list([1], "uint8"),
            {1, [2]},
            %SnakeBridge.Slice{},
            %SnakeBridge.Namespace{},
            %SnakeBridge.Decimal{coef: 0, exp: "N"}
          ] do
        assert_apart(%{key => 1}, 0x04)
        assert_apart(MapSet.new([key]), 0x0A)
        # Python has no frozenset of them: a term that it can only keep.
        frozen = FrozenSet.new([key])
        assert pack!(frozen) =~ "SnakeBridge.FrozenSet"
        assert frozen |> pack!() |> Packed.decode() == {:ok, frozen}
      end
    end

    defp assert_apart(term, kind) do
      assert <<_array, 0xD4, 0x10, ^kind, _::binary>> = bytes = pack!(term)
      assert Packed.decode(bytes) == {:ok, term}
    end

    defp berlin(moment),
      do: %{moment | utc_offset: 3600, std_offset: 3600, time_zone: "Europe/Berlin", zone_abbr: "CEST"}

    test "no keys that Python keeps apart" do
      for term <- [
            %{1 => 1, 2.5 => 1, nil => 1, "1" => 1, :nan => 1, %Bytes{data: "1"} => 1, {1} => 1, {1, 2} => 1},
            %{true => 1, false => 2, nil => 3, :ok => 4},
            %{~D[2024-01-01] => 1, ~N[2024-01-01 00:00:00] => 2, ~U[2024-01-01 00:00:00Z] => 3},
            %{%SnakeBridge.Decimal{coef: 15, exp: -1} => 1, 2 => 2, 0.5 => 3},
            %{%SnakeBridge.UUID{text: "12345678-1234-5678-1234-567812345678"} => 1, "a" => 2},
            %{%SnakeBridge.DateTime64{value: 1, unit: "D"} => 1},
            %{self() => 1, make_ref() => 2, <<1::3>> => 3, [1 | 2] => 4},
            %{(1..2) => 1, (1..3) => 2, %SnakeBridge.TimeDelta{days: 1} => 3, ~r/a/ => 4},
            MapSet.new([1, 2.5, "a", :b, nil])
          ] do
        assert {:ok, ^term} = term |> pack!() |> Packed.decode()
      end
    end
  end

  describe "decoding survives" do
    defp messages do
      zoned = %{
        ~U[2024-07-01 12:00:00Z]
        | utc_offset: 3600,
          std_offset: 3600,
          time_zone: "Europe/Berlin",
          zone_abbr: "CEST"
      }

      Enum.map(
        [
          %{"a" => [1, 2.5, nil, true, -70_000, "text", {1, :ok}], 7 => MapSet.new([1, 2])},
          [
            Bitwise.bsl(1, 100),
            <<255, 254>>,
            %Bytes{data: "b"},
            Complex.new(1, 2),
            %Text{wtf8: <<0xED, 0xA0, 0x80>>}
          ],
          [~D[2024-01-02], ~T[03:04:05.6], ~N[2024-01-02 03:04:05], ~U[2024-01-02 03:04:05Z]],
          [
            %Ref{id: "r", session_id: "s"},
            %StreamRef{id: "r", session_id: "s"},
            Tensor.from_list([[1, 2]], "int16")
          ],
          zoned,
          FrozenSet.new([1, "a"]),
          [1..3, ~r/a/u, %SnakeBridge.Decimal{coef: 1}, %SnakeBridge.Slice{}, %{1 => 2, 1.0 => 3}],
          [self(), %SnakeBridge.Graph{root: %SnakeBridge.Graph.Node{index: 0}, nodes: [[1]]}],
          %Tensor{dtype: ">datetime64[ns]", shape: {1, 1}, data: <<1::64>>, order: :f},
          String.duplicate("long ", 60)
        ],
        &pack!/1
      )
    end

    test "messages that are cut off anywhere" do
      for bytes <- messages(), size <- 0..(byte_size(bytes) - 1) do
        assert {:error, %Error{category: :decode_error}} = Packed.decode(binary_part(bytes, 0, size))
      end
    end

    test "messages with any one byte changed to anything" do
      for bytes <- messages(), at <- 0..(byte_size(bytes) - 1), byte <- 0..255 do
        <<before::binary-size(at), _, rest::binary>> = bytes

        case Packed.decode(<<before::binary, byte, rest::binary>>) do
          {:ok, _} -> :ok
          {:error, %Error{category: category}} -> assert category in [:decode_error, :limit_exceeded]
        end
      end
    end

    test "random bytes" do
      :rand.seed(:exsss, {4, 5, 6})

      for _ <- 1..5000 do
        assert {outcome, _} = Packed.decode(:rand.bytes(:rand.uniform(60)))
        assert outcome in [:ok, :error]
      end
    end

    test "lying lengths, unknown kinds and misplaced marks, and says so" do
      for {hex, text} <- [
            {"", "ends inside"},
            {"ddffffffff", "claims 4294967295 elements"},
            {"dfffffffff", "claims 4294967295 elements"},
            {"c6ffffffff00", "ends inside"},
            {"dbffffffff00", "ends inside"},
            {"c9ffffffff0100", "ends inside"},
            {"c1", "C1"},
            {"0000", "left over"},
            {"d47f00", "unknown extension type 127"},
            {"91d41063", "unknown composite kind 99"},
            {"d41001", "composite mark"},
            {"9201d41001", "composite mark"},
            {"a1ff", "not valid UTF-8"},
            {"a3eda080", "not valid UTF-8"},
            {"d404ff", "not UTF-8"},
            {"c70001", "integer of no bytes"},
            {"d505ffff", "complex"},
            {"c70606000007e80d02", "date"},
            {"82a16101a16102", "equal in Elixir"},
            {"93d410020101", "equal"},
            {"92d41005a172", "ref"},
            {"81c70a025f5f7374727563745f5fc0", "__struct__"},
            {"94d41008a575696e743891cfffffffffffffffffc40100", "integers >= 0"}
          ] do
        assert {:error, %Error{category: :decode_error, message: message}} =
                 hex |> Base.decode16!(case: :lower) |> Packed.decode()

        assert message =~ text
      end
    end

    test "names of atoms that do not exist, without making them" do
      # The name is put together at run time, so that no atom of it exists.
      name = Enum.join(["zq", "never", System.unique_integer([:positive])], "_")
      bytes = <<0xC7, byte_size(name), 2, name::binary>>
      assert Packed.decode(bytes) == {:ok, %SnakeBridge.Atom{name: name}}
      assert pack!(%SnakeBridge.Atom{name: name}) == bytes
      assert_raise ArgumentError, fn -> String.to_existing_atom(name) end

      long = String.duplicate("n", 300)
      assert Packed.decode(<<0xC8, 300::16, 2, long::binary>>) == {:ok, %SnakeBridge.Atom{name: long}}
    end

    test "marks in a wider form than needed" do
      for mark <- ["d41001", "c7011001", "c800011001", "c9000000011001"] do
        assert Packed.decode(Base.decode16!("92" <> mark <> "07", case: :lower)) == {:ok, {7}}
      end
    end
  end
end
