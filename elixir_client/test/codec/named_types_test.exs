defmodule SnakeBridge.Codec.NamedTypesTest do
  @moduledoc "The named types (docs/wire.md section 1.1): each comes back as it was, and a malformed payload is an error that says of what."

  use ExUnit.Case, async: true

  import SnakeBridge.Test.Exact

  alias SnakeBridge.{
    Arrow,
    Bytes,
    DateTime64,
    Decimal,
    Ellipsis,
    Error,
    Extension,
    Fold,
    Fraction,
    Graph,
    IP,
    NamedTuple,
    Namespace,
    Path,
    Pattern,
    Slice,
    Text,
    TimeDelta,
    TimeDelta64,
    TimeZone,
    Types,
    UUID,
    ZonedDateTime,
    ZonedTime,
    ZoneInfo
  }

  alias SnakeBridge.Codec.Packed

  defp pack!(term) do
    assert {:ok, iodata} = Packed.encode(term)
    IO.iodata_to_binary(iodata)
  end

  defp values do
    berlin = %ZoneInfo{key: "Europe/Berlin"}
    odd = %TimeZone{seconds: -1, microseconds: 5, name: "odd"}

    [
      NamedTuple.new("geo:Point", x: 1, y: [2]),
      NamedTuple.new("geo:Empty", []),
      %SnakeBridge.Enum{type: "m:Color", name: "RED", value: {1, 2}},
      %SnakeBridge.Enum{type: "m:Flag", name: nil, value: 5},
      1..10,
      10..1//-3,
      1..0//1,
      5..5//7,
      -3..Integer.pow(2, 80)//Integer.pow(2, 70),
      %Slice{},
      %Slice{start: 1, stop: -1, step: 2},
      %Slice{start: "a", stop: ~D[2024-01-01], step: nil},
      %Ellipsis{},
      %TimeDelta{},
      %TimeDelta{days: -999_999_999, seconds: 86_399, microseconds: 999_999},
      %Fold{moment: ~T[02:30:00.123]},
      %Fold{moment: ~N[2024-10-27 02:30:00]},
      %Fold{moment: %ZonedTime{time: ~T[02:30:00], zone: berlin}},
      %TimeZone{},
      odd,
      berlin,
      %ZonedTime{time: ~T[02:30:00.100], zone: odd},
      %ZonedDateTime{naive: ~N[2024-01-01 00:00:00], zone: odd},
      %ZonedDateTime{naive: ~N[2024-10-27 02:30:00.000], zone: berlin, fold: 1},
      %Decimal{coef: 0, sign: -1, exp: -3},
      %Decimal{coef: Integer.pow(10, 60) + 1, exp: 999_999},
      %Decimal{coef: 0, exp: "F", sign: -1},
      %Decimal{coef: 7, exp: "n"},
      %Decimal{coef: 0, exp: "N"},
      Fraction.new(-1, 3),
      Fraction.new(Integer.pow(7, 40), Integer.pow(2, 80)),
      %UUID{text: "12345678-1234-5678-1234-567812345678"},
      %Path{type: "PurePosixPath", path: "/a/é"},
      %Path{type: "WindowsPath", path: "C:\\a"},
      %Path{type: "PosixPath", path: %Text{wtf8: <<"a", 0xED, 0xB3, 0xBF>>}},
      %Namespace{fields: %{}},
      %Namespace{fields: %{"a" => %Namespace{fields: %{"b" => [1]}}}},
      %IP{type: "IPv4Address", text: "10.0.0.1"},
      %IP{type: "IPv6Network", text: "fe80::/64"},
      %Pattern{source: "a(?P=b)", flags: 40},
      %Pattern{source: %Bytes{data: <<255>>}, flags: 0},
      ~r/a+b*?[c-e]{2,3}(?:x|y)(?P<n>\d)$/u,
      ~r/a/ui,
      ~r/a/iu,
      ~r/a/fU,
      ~r/./,
      ~r/\p{L}(?<name>x)(?R)?/ux,
      ~r/é/,
      ~r/^a/um,
      Regex.compile!(<<255>>),
      URI.parse("https://user@x.org:81/p/ä?q=1#f"),
      URI.parse(""),
      URI.parse("mailto:a@b"),
      URI.new!("https://x.org/p"),
      Version.parse!("1.2.3-rc.1+b.5"),
      Version.parse!("0.0.0"),
      Date.range(~D[2024-01-01], ~D[2024-02-01]),
      Date.range(~D[2024-02-01], ~D[2024-01-01], -2),
      %DateTime64{value: -5, unit: "ns"},
      %DateTime64{value: nil, unit: "D"},
      %TimeDelta64{value: 5, unit: "25s"},
      %TimeDelta64{value: nil, unit: "generic"},
      %Arrow{kind: "table", data: <<255, 0>>},
      %Arrow{kind: "polars", data: :binary.copy("x", 100_000)},
      %Extension{tag: "test.unknown", value: %{"x" => {1, :ok}}},
      %Extension{tag: "test.nothing", value: nil},
      %Graph{root: [%Graph.Node{index: 0}, %Graph.Node{index: 0}], nodes: [%{1 => %Graph.Node{index: 0}}]},
      %Graph{root: %{%Graph.Node{index: 0} => 1}, nodes: [{1, 2}]}
    ]
  end

  test "come back as they were, wherever they stand" do
    for value <- values(),
        wrap <- [& &1, &[&1, 1], &{&1}, &%{"a" => &1}, &%{&1 => 2}, &MapSet.new([&1, "b"])] do
      term = wrap.(value)
      assert {:ok, back} = term |> pack!() |> Packed.decode()
      assert same?(back, term), "#{inspect(term)} came back as #{inspect(back)}"
    end
  end

  test "come back as they were as tagged schema 2, too" do
    for value <- values(), not is_struct(value, Graph), wrap <- [& &1, &[&1], &%{&1 => 2}] do
      term = wrap.(value)
      back = term |> Types.encode(schema: 2) |> Types.decode()
      assert same?(back, term), "#{inspect(term)} came back as #{inspect(back)}"
    end
  end

  test "cut off anywhere they are errors" do
    for value <- values(), bytes = pack!(value), byte_size(bytes) < 300, size <- 0..(byte_size(bytes) - 1) do
      assert {:error, %Error{category: :decode_error}} = Packed.decode(binary_part(bytes, 0, size))
    end
  end

  test "with any one byte changed they are errors, or values that go back as they came" do
    for value <- values(),
        bytes = pack!(value),
        byte_size(bytes) < 300,
        at <- 0..(byte_size(bytes) - 1),
        byte <- [0, 1, 0x7F, 0x80, 0x91, 0xA1, 0xC0, 0xC4, 0xD4, 0xFF] do
      <<before::binary-size(at), _, rest::binary>> = bytes

      case Packed.decode(<<before::binary, byte, rest::binary>>) do
        {:ok, other} ->
          assert {:ok, back} = other |> pack!() |> Packed.decode()
          assert same?(back, other)

        {:error, %Error{category: category}} ->
          assert category in [:decode_error, :limit_exceeded]
      end
    end
  end

  test "of a malformed payload are errors that name the tag" do
    for {tag, payload} <- [
          {"namedtuple", ["m:T", ["a"], []]},
          {"namedtuple", ["m:T", [1], [1]]},
          {"namedtuple", nil},
          {"enum", [1, "a", 1]},
          {"range", [1, 2, 0]},
          {"range", [1, 2.0, 1]},
          {"range", [1, 2]},
          {"slice", [1, 2]},
          {"ellipsis", 1},
          {"timedelta", [0, -1, 0]},
          {"fold", ~D[2024-01-01]},
          {"timezone", [86_400, 0, nil]},
          {"timezone", [0, 0, 1]},
          {"zoneinfo", 1},
          {"time", [~T[00:00:00], nil]},
          {"datetime", [~T[00:00:00], %ZoneInfo{key: "x"}, 0]},
          {"datetime", [~N[2024-01-01 00:00:00], %ZoneInfo{key: "x"}, 2]},
          {"decimal", [2, 1, 0]},
          {"decimal", [0, -1, 0]},
          {"decimal", [0, 1, "x"]},
          {"fraction", [2, 4]},
          {"fraction", [1, 0]},
          {"uuid", "1"},
          {"path", ["Path", "a"]},
          {"namespace", %{1 => 2}},
          {"ip", ["IPv5", "a"]},
          {"pattern", ["a", -1]},
          {"pattern", [1, 1]},
          {"regex", ["(", "iu"]},
          {"regex", ["a", "?"]},
          {"regex", ["a", <<255>>]},
          {"regex", [<<"(", 255>>, ""]},
          {"enum", [<<255>>, "a", 1]},
          {"ip", ["IPv4Address", <<255>>]},
          {"zoneinfo", <<255>>},
          {"timezone", [0, 0, <<255>>]},
          {"datetime64", [1, <<255>>]},
          {"uri", <<255>>},
          {"uri", 1},
          {"version", "1"},
          {"date_range", [~D[2024-01-01], ~D[2024-01-01], 0]},
          {"datetime64", [1.5, "s"]},
          {"timedelta64", [1]},
          {"arrow", ["table", "text"]}
        ] do
      bytes = <<0x93, 0xD4, 0x10, 0x09, pack!(tag)::binary, pack!(payload)::binary>>
      assert {:error, %Error{category: :decode_error, message: message}} = Packed.decode(bytes)
      assert message =~ "malformed #{tag}"
    end

    for parts <- [[1, 2], ["range"], []] do
      bytes = <<0x91 + length(parts), 0xD4, 0x10, 0x09>> <> Enum.map_join(parts, &pack!/1)
      assert {:error, %Error{category: :decode_error}} = Packed.decode(bytes)
    end
  end

  test "nest as deep as the limit says, and no deeper" do
    nested = Enum.reduce(1..512, 1, fn _, inner -> %Extension{tag: "t", value: inner} end)
    assert nested |> pack!() |> Packed.decode() == {:ok, nested}
    assert {:error, %Error{category: :limit_exceeded}} = Packed.encode(%Extension{tag: "t", value: nested})
    deep = :binary.copy(<<0x93, 0xD4, 0x10, 0x09, 0xA1, ?t>>, 100_000) <> <<1>>
    assert {:error, %Error{category: :limit_exceeded}} = Packed.decode(deep)
  end

  test "a pattern is a Regex only where both languages read it alike" do
    decoded = fn source, flags ->
      {:ok, back} = %Pattern{source: source, flags: flags} |> pack!() |> Packed.decode()
      back
    end

    assert decoded.("a+", 32 + 2) == ~r/a+/ui
    assert decoded.("[a-z]\\d{2,}", 256) == ~r/[a-z]\d{2,}/

    for {source, flags} <- [
          {"a", 0},
          {"a", 32 + 256},
          {"a", 32 + 128},
          {"^a", 32 + 8},
          {"é", 256},
          {"(?P<n>a)(?P=n)", 32},
          {"a{,3}", 32},
          {"[[:alpha:]]", 32},
          {"a\\Z", 32},
          {"a++", 32},
          {"(?(1)a|b)", 32},
          {"(", 32}
        ] do
      assert decoded.(source, flags) == %Pattern{source: source, flags: flags}
    end
  end

  test "a pattern that neither language can compile is kept" do
    bytes = <<0x93, 0xD4, 0x10, 0x09, pack!("regex")::binary, pack!(["(", "ui"])::binary>>
    assert Packed.decode(bytes) == {:ok, %Pattern{source: "(", flags: 34}}
  end

  test "a fold is understood on either side of the zone" do
    zone = %ZoneInfo{key: "Europe/Berlin"}
    inside = [%Fold{moment: ~T[02:30:00]}, zone]
    bytes = <<0x93, 0xD4, 0x10, 0x09, pack!("time")::binary, pack!(inside)::binary>>
    assert Packed.decode(bytes) == {:ok, %Fold{moment: %ZonedTime{time: ~T[02:30:00], zone: zone}}}
  end

  test "a named tuple is read by name and position, and is enumerable" do
    point = NamedTuple.new("geo:Point", x: 1, y: 2)
    assert {point[:x], point["y"], point[1], point[-1], point[:z], point[7]} == {1, 2, 2, 2, nil, nil}
    assert {Enum.count(point), 2 in point, Enum.sum(point), Enum.at(point, 1)} == {2, true, 3, 2}
    assert put_in(point[:x], 5).values == [5, 2]
    assert_raise KeyError, fn -> put_in(point[:z], 5) end
    assert_raise ArgumentError, fn -> pop_in(point[:x]) end
    assert inspect(point) == "#SnakeBridge.NamedTuple<geo:Point x: 1, y: 2>"
  end

  test "wrappers become text with to_string" do
    assert to_string(%Decimal{sign: -1, coef: 5, exp: -3}) == "-0.005"
    assert to_string(%Decimal{coef: 5, exp: 3}) == "5E+3"
    assert to_string(%Decimal{coef: 0, exp: "F"}) == "Infinity"
    assert to_string(%Decimal{coef: 7, exp: "N"}) == "sNaN7"
    assert to_string(Fraction.new(2, -4)) == "-1/2"
    assert to_string(%Path{type: "PosixPath", path: "/a"}) == "/a"
    assert to_string(%ZoneInfo{key: "UTC"}) == "UTC"
    assert inspect(%Arrow{kind: "table", data: "abc"}) == "#SnakeBridge.Arrow<table, 3 bytes>"
  end

  describe "a graph" do
    test "is expanded to a plain term, every node in every place" do
      node = &%Graph.Node{index: &1}
      shared = NamedTuple.new("m:T", a: node.(1))

      graph = %Graph{
        root: {node.(0), node.(0), %{"a" => node.(1)}},
        nodes: [[1, node.(1), shared], MapSet.new([1])]
      }

      one = MapSet.new([1])
      list = [1, one, %{shared | values: [one]}]
      assert Graph.expand(graph) == {:ok, {list, list, %{"a" => one}}}
    end

    test "expands in memory that does not grow with the copies" do
      laughs = for i <- 1..100, do: List.duplicate(%Graph.Node{index: i}, 10)
      assert {:ok, [_ | _]} = Graph.expand(%Graph{root: [%Graph.Node{index: 0}], nodes: laughs ++ [["ha"]]})
    end

    test "with a cycle, or a node that is not there, is not expanded" do
      cycle = %Graph{root: %Graph.Node{index: 0}, nodes: [[%Graph.Node{index: 1}], {%Graph.Node{index: 0}}]}
      assert {:error, %Error{message: message}} = Graph.expand(cycle)
      assert message =~ "contains itself"
      assert {:error, %Error{message: message}} = Graph.expand(%{cycle | nodes: []})
      assert message =~ "names node 0"
    end
  end
end
