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
    test "terms without a form in Python, each named with a remedy" do
      decimal = %{__struct__: Decimal, coef: 1, exp: 0, sign: 1}

      for term <- [
            self(),
            make_ref(),
            1..3,
            ~r/a/,
            URI.parse("http://a"),
            decimal,
            [1 | 2],
            <<1::3>>,
            %RuntimeError{}
          ] do
        message = refused(%{"deep" => [term]})
        assert message =~ "has no form in Python; "
        assert String.length(message) < 400
      end
    end

    test "values that are malformed" do
      for term <- [
            %{~D[2024-01-01] | year: 10_000},
            %{~D[2024-01-01] | day: 32},
            %{~T[00:00:00] | hour: 24},
            Map.put(~D[2024-01-01], :calendar, Some.Calendar),
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
            %Tensor{dtype: "uint8", shape: [1], data: <<1>>}
          ] do
        assert refused([term]) != ""
      end
    end

    test "map keys and set elements that are equal in Python" do
      ref = %Ref{id: "r", session_id: "s"}

      pairs = [
        {1, 1.0},
        {1, true},
        {0, false},
        {0.0, false},
        {0, 0.0},
        {-0.0, 0},
        {1.0e20, 100_000_000_000_000_000_000},
        {:a, "a"},
        {:a, %SnakeBridge.Atom{name: "a"}},
        {%Bytes{data: <<255>>}, <<255>>},
        {Complex.new(1, 0), 1},
        {Complex.new(1, -0.0), true},
        {~T[01:00:00], ~T[01:00:00.000]},
        {~U[2024-01-01 00:00:00Z], ~U[2024-01-01 00:00:00.000Z]},
        {ref, %{ref | type_name: "T"}},
        {FrozenSet.new([1]), FrozenSet.new([1.0])}
      ]

      for {left, right} <- pairs, wrap <- [& &1, &{&1}, &{"x", {&1}}] do
        assert refused(%{wrap.(left) => 1, wrap.(right) => 2}) =~ "are equal in Python"
        assert refused(MapSet.new([wrap.(left), wrap.(right)])) =~ "are equal in Python"
      end
    end

    test "map keys and set elements that Python cannot hash" do
      for key <- [[1], %{}, MapSet.new([1]), Tensor.from_list([1], "uint8"), {1, [2]}] do
        assert refused(%{key => 1}) =~ "cannot hash"
        assert refused(MapSet.new([key])) =~ "cannot hash"
        assert refused(FrozenSet.new([key])) =~ "cannot hash"
      end
    end

    test "no keys that Python keeps apart" do
      for term <- [
            %{1 => 1, 2.5 => 1, nil => 1, "1" => 1, :nan => 1, %Bytes{data: "1"} => 1, {1} => 1, {1, 2} => 1},
            %{true => 1, false => 2, nil => 3, :ok => 4},
            %{~D[2024-01-01] => 1, ~N[2024-01-01 00:00:00] => 2, ~U[2024-01-01 00:00:00Z] => 3},
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
            {"94d41008a575696e743891cfffffffffffffffffc40100", "makes"}
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
