defmodule SnakeBridge.TypesTest do
  # Not async: one test changes the application environment.
  use ExUnit.Case, async: false
  doctest SnakeBridge.Types

  import SnakeBridge.Test.Exact

  alias SnakeBridge.{Bytes, Complex, Error, FrozenSet, Ref, StreamRef, Tensor, Types}

  defp tag(type, fields), do: Map.merge(fields, %{"__type__" => type, "__schema__" => 1})

  defp assert_round_trip(term) do
    back = term |> Types.encode() |> Types.decode()
    assert same?(back, term), "#{inspect(term)} came back as #{inspect(back)}"
  end

  defp refused(walk) do
    error = assert_raise Error, walk
    {error.category, error.message}
  end

  test "what schema 1 can hold comes back as it was" do
    offset = %{~U[2024-01-02 03:04:05Z] | utc_offset: -12_600, time_zone: "-03:30", zone_abbr: "-03:30"}

    for term <- [
          nil,
          true,
          0,
          Bitwise.bsl(1, 200),
          -0.0,
          1.5,
          :nan,
          :infinity,
          :neg_infinity,
          :ok,
          "text",
          %Bytes{data: ""},
          %Bytes{data: <<255>>},
          [1, [2]],
          {},
          {1, {2}},
          MapSet.new([1, "a"]),
          %{"a" => %{"b" => [nil]}},
          %{2 => "a", nil => 2, {1, 2} => 3, :infinity => 4, true => 5.5},
          ~D[2024-01-02],
          ~T[03:04:05.123],
          ~N[2024-01-02 03:04:05.000600],
          ~U[2024-01-02 03:04:05Z],
          offset,
          Complex.new(1, -0.0),
          %Ref{id: "r", session_id: "s", python_module: "m", library: "l"},
          %StreamRef{id: "r", session_id: "s", python_module: "m", library: "l", stream_type: "generator"}
        ] do
      assert_round_trip(term)
      assert_round_trip(%{"deep" => [{term}]})
    end
  end

  test "maps that look like tags or refs come back as maps" do
    for map <- [
          %{"__type__" => "tuple", "elements" => [1]},
          %{"__type__" => nil},
          %{"id" => 1, "session_id" => 2},
          %{"id" => 1, "ref_id" => 2},
          %{"__snakebridge_ref__" => true}
        ] do
      assert %{"__type__" => "dict", "pairs" => _} = Types.encode(map)
      assert_round_trip(map)
    end

    assert %{"__type__" => "dict"} = Types.encode(%{__type__: 1})
  end

  test "atom keys become text, as JSON has it, unless text already has the name" do
    assert Types.encode(%{a: 1, b: %{c: 2}}) == %{"a" => 1, "b" => %{"c" => 2}}
    assert {:encode_error, message} = refused(fn -> Types.encode(%{:a => 1, "a" => 2}) end)
    assert message =~ "equal in Python"
  end

  test "keyword lists and charlists are lists" do
    assert Types.encode(ok: 1) == [tag("tuple", %{"elements" => [tag("atom", %{"value" => "ok"}), 1]})]
    assert Types.encode('hi') == [104, 105]
  end

  test "invalid UTF-8 is bytes, as a key, too" do
    assert Types.encode(<<255>>) == tag("bytes", %{"data" => "/w=="})

    assert Types.encode(%{<<255>> => 1}) ==
             tag("dict", %{"pairs" => [[tag("bytes", %{"data" => "/w=="}), 1]]})
  end

  test "frozensets are sent as such, and arrive as sets, as schema 1 has always done" do
    tagged = tag("frozenset", %{"elements" => [1]})
    assert Types.encode(FrozenSet.new([1])) == tagged
    assert Types.decode(tagged) == MapSet.new([1])
  end

  test "refs leave out what only this side knows" do
    ref = %Ref{id: "r", session_id: "s", python_module: "m", library: "l", type_name: "T", pool: Pool}
    fields = %{"id" => "r", "session_id" => "s", "python_module" => "m", "library" => "l"}
    assert Types.encode(ref) == tag("ref", fields)
  end

  test "older names of tags and fields are understood" do
    assert Types.decode(%{"__type__" => "tuple", "value" => [1]}) == {1}
    assert Types.decode(%{"__type__" => "set", "value" => [1]}) == MapSet.new([1])
    assert Types.decode(%{"__type__" => "bytes", "value" => "YQ=="}) == %Bytes{data: "a"}
    assert Types.decode(%{"__type__" => "binary", "data" => "YQ=="}) == %Bytes{data: "a"}
    assert Types.decode(%{"__type__" => "binary", "data" => "YQ=="}, bytes: :binary) == "a"
    assert Types.decode(%{"__type__" => "nan"}) == :nan

    ref = %Ref{id: "r", session_id: "s"}
    assert Types.decode(%{"__type__" => "ref", "ref_id" => "r", "session_id" => "s"}) == ref
    assert Types.decode(%{"__snakebridge_ref__" => "r", "session_id" => "s"}) == ref
    assert Types.decode(%{"__snakebridge_ref__" => true, "id" => "r", "session_id" => "s"}) == ref

    defaults = %{session_id: "s", pool: Pool}
    assert Types.decode(%{"__type__" => "ref", "id" => "r"}, ref_defaults: defaults) == %{ref | pool: Pool}
  end

  test "unknown tags are kept, with decoded values" do
    inner = tag("tuple", %{"elements" => []})
    assert Types.decode(%{"__type__" => "mystery", "x" => inner}) == %{"__type__" => "mystery", "x" => {}}
    assert Types.decode(%{"__type__" => 1, "x" => [nil]}) == %{"__type__" => 1, "x" => [nil]}
  end

  test "atoms are made of allowed names only, and never anew" do
    atom = fn name -> Types.decode(tag("atom", %{"value" => name})) end
    assert atom.("ok") == :ok
    assert atom.("left") == "left"

    on_exit(fn -> Application.delete_env(:snakebridge, :atom_allowlist) end)
    Application.put_env(:snakebridge, :atom_allowlist, [:left, "nil"])
    assert atom.("left") == :left
    assert atom.("ok") == "ok"
    assert atom.("nil") == "nil"

    Application.put_env(:snakebridge, :atom_allowlist, :all)
    unseen = Enum.join(["zq", "tagged", System.unique_integer([:positive])], "_")
    assert atom.("ok") == :ok
    assert atom.(unseen) == unseen
  end

  test "functions are named by the callback" do
    named = fn function when is_function(function, 1) -> %{id: "cb", arity: 1, owner: "<0.1.0>"} end
    tagged = Types.encode([&is_atom/1], callback: named)
    assert tagged == [tag("callback", %{"ref_id" => "cb", "pid" => "<0.1.0>", "arity" => 1})]
    assert Types.decode(tagged, callback: & &1.arity) == [1]
    assert {:encode_error, _} = refused(fn -> Types.encode(&is_atom/1) end)
  end

  test "malformed tags are errors" do
    for {type, fields} <- [
          {"bytes", %{"data" => "a"}},
          {"bytes", %{"data" => "YQ==\n"}},
          {"bytes", %{}},
          {"tuple", %{"elements" => 1}},
          {"set", %{"elements" => [1, 1]}},
          {"dict", %{"pairs" => [[1]]}},
          {"dict", %{"pairs" => [[1, 2, 3]]}},
          {"dict", %{"pairs" => [[1, 2], [1, 3]]}},
          {"dict", %{}},
          {"atom", %{"value" => 1}},
          {"complex", %{"real" => 1}},
          {"complex", %{"real" => Bitwise.bsl(1, 2000), "imag" => 0}},
          {"datetime", %{"value" => "yesterday"}},
          {"date", %{"value" => "2024-02-30"}},
          {"time", %{"value" => "03:04:05+00:00"}},
          {"special_float", %{"value" => "big"}}
        ] do
      assert {:decode_error, message} = refused(fn -> Types.decode([tag(type, fields)]) end)
      assert message != ""
    end

    assert {:invalid_ref, _} = refused(fn -> Types.decode(tag("ref", %{"id" => "r"})) end)
    assert {:invalid_ref, _} = refused(fn -> Types.decode(tag("stream_ref", %{"session_id" => "s"})) end)
  end

  describe "schema 2" do
    test "says what schema 1 cannot, and comes back as it was" do
      utc = ~U[2024-07-01 12:00:00Z]
      berlin = %{utc | utc_offset: 3600, std_offset: 3600, time_zone: "Europe/Berlin", zone_abbr: "CEST"}

      for term <- [
            self(),
            [1 | 2],
            <<1::1>>,
            <<255>>,
            %Bytes{data: "a"},
            &String.length/1,
            :left,
            %SnakeBridge.Atom{name: "nil"},
            %SnakeBridge.Atom{name: <<0xED, 0xA0, 0x80>>},
            %{a: 1, b: 2},
            %{:a => 1, "a" => 2},
            %{1 => 1, 1.0 => 2, [1] => 3},
            MapSet.new([[1], 1, true]),
            MapSet.new([1]),
            FrozenSet.new([1]),
            FrozenSet.new([[1]]),
            %SnakeBridge.Text{wtf8: <<0xED, 0xA0, 0x80>>},
            Complex.new(:nan, 1),
            Complex.new(1, 2),
            ~T[01:02:03.120],
            ~T[01:02:03.123456],
            ~N[2024-01-01 00:00:00.000],
            utc,
            berlin,
            %{utc | utc_offset: 30, time_zone: "+00:00:30", zone_abbr: "+00:00:30"},
            %{~D[2024-01-01] | year: -1},
            Tensor.from_list([[1, 2]], ">int16"),
            %Tensor{dtype: "uint8", shape: {1, 2}, data: <<1, 2>>, order: :f},
            %Tensor{
              dtype: %{"names" => ["a"], "formats" => [["int8", [2]]], "offsets" => [0], "itemsize" => 2},
              shape: {},
              data: <<1, 2>>
            },
            %Ref{id: "r", session_id: "s", python_module: "m", library: "l", type_name: "T"},
            %RuntimeError{message: "m"}
          ],
          wrap <- [& &1, &%{"deep" => [{&1}]}, &%{&1 => 1}] do
        term = wrap.(term)
        back = term |> Types.encode(schema: 2) |> Types.decode()
        assert same?(back, term), "#{inspect(term)} came back as #{inspect(back)}"
      end
    end

    test "keeps the order of maps on request" do
      ordered = SnakeBridge.OrderedMap.new([{"b", 1}, {"a", [2]}, {3, 4}])
      assert ordered |> Types.encode() |> Types.decode(maps: :ordered) == ordered
      apart = SnakeBridge.OrderedMap.new([{true, 1}, {1, 2}])
      assert apart |> Types.encode(schema: 2) |> Types.decode(maps: :ordered) == apart
    end

    test "has the tags that Python has" do
      tag2 = &Map.merge(&2, %{"__type__" => &1, "__schema__" => 2})
      assert Types.encode(<<255>>, schema: 2) == tag2.("leaf", %{"code" => 3, "data" => "/w=="})
      assert Types.encode(1..2, schema: 2) == tag2.("range", %{"value" => [1, 3, 1]})
      assert Types.encode(%{1 => 2, true => 3}, schema: 2) == tag2.("pairs", %{"elements" => [1, 2, true, 3]})
      assert Types.encode(MapSet.new([[1]]), schema: 2) == tag2.("members", %{"elements" => [[1]]})

      assert Types.encode(Tensor.from_list([1], "uint8"), schema: 2) ==
               tag2.("ndarray", %{"dtype" => "uint8", "shape" => [1], "order" => "C", "data" => "AQ=="})

      assert Types.encode(~T[01:02:03], schema: 2) == tag("time", %{"value" => "01:02:03"})
    end

    test "tags count only where the schema says so" do
      map = %{"__type__" => "range", "__schema__" => 1, "value" => [1, 2, 1]}
      assert Types.decode(map) == map
      assert Types.decode(%{map | "__schema__" => 2}) == 1..1
    end

    test "malformed tags are errors" do
      for {type, fields} <- [
            {"leaf", %{"code" => 99, "data" => ""}},
            {"leaf", %{"code" => 16, "data" => "AQ=="}},
            {"leaf", %{"code" => "1", "data" => ""}},
            {"leaf", %{"code" => 6, "data" => "AA=="}},
            {"leaf", %{"code" => 11, "data" => ""}},
            {"ndarray", %{"dtype" => "uint8", "shape" => [2], "data" => "AQ=="}},
            {"ndarray", %{"dtype" => "uint8", "shape" => 1, "data" => "AQ=="}},
            {"ndarray", %{}},
            {"pairs", %{"elements" => [1]}},
            {"pairs", %{"elements" => [1, 2, 1, 3]}},
            {"members", %{"elements" => [1, 1]}},
            {"range", %{"value" => [1]}},
            {"time", %{"value" => [1]}},
            {"datetime", %{"value" => []}}
          ] do
        tagged = Map.merge(fields, %{"__type__" => type, "__schema__" => 2})
        assert {:decode_error, message} = refused(fn -> Types.decode([tagged]) end)
        assert message != ""
      end
    end
  end

  test "what schema 1 cannot hold is an error" do
    for term <- [
          self(),
          1..2,
          [1 | 2],
          <<1::1>>,
          Tensor.from_list([1], "uint8"),
          %SnakeBridge.Text{wtf8: <<0xED, 0xA0, 0x80>>},
          Complex.new(:nan, 1),
          %{~U[2024-01-01 00:00:00Z] | utc_offset: 30},
          %{~D[2024-01-01] | year: -1},
          MapSet.new([[1]]),
          FrozenSet.new([[1]]),
          %{[1] => 1},
          %RuntimeError{},
          &String.length/1,
          %SnakeBridge.Decimal{coef: 1},
          %SnakeBridge.Extension{tag: "geo", value: 1},
          %SnakeBridge.Graph{root: 1}
        ] do
      assert {:encode_error, message} = refused(fn -> Types.encode(%{"x" => term}) end)
      assert message != ""
    end
  end

  test "depth is limited in both directions, and tags are no levels" do
    nested = Enum.reduce(1..512, 1, fn _, inner -> {inner} end)
    tagged = Types.encode(nested)
    assert Types.decode(tagged) == nested
    assert {:limit_exceeded, _} = refused(fn -> Types.encode([nested]) end)
    assert {:limit_exceeded, _} = refused(fn -> Types.decode([tagged]) end)
  end
end
