defmodule SnakeBridge.Codec.OpaqueTest do
  @moduledoc "Terms without a counterpart in Python: they come back as they are, to whom sent them, and nothing else comes in as a term."

  use ExUnit.Case, async: true

  alias SnakeBridge.{Error, FrozenSet}
  alias SnakeBridge.Codec.Packed

  defmodule Plain do
    defstruct [:a]
  end

  defp pack!(term, options \\ []) do
    assert {:ok, iodata} = Packed.encode(term, options)
    IO.iodata_to_binary(iodata)
  end

  defp terms do
    {:ok, port} = :gen_udp.open(0)

    [
      {self(), "pid"},
      {make_ref(), "reference"},
      {port, "port"},
      {<<5::3>>, "bitstring"},
      {<<1, 2, 3::7>>, "bitstring"},
      {[1 | 2], "improper list"},
      {[1, [2], 3 | %{a: 1}], "improper list"},
      {&String.length/1, "function"},
      {fn x -> {x, port} end, "function"},
      {%Plain{a: self()}, "SnakeBridge.Codec.OpaqueTest.Plain"},
      {%RuntimeError{message: "m"}, "RuntimeError"},
      {%{__struct__: NoSuch.Module, x: 1}, "NoSuch.Module"},
      {%{__struct__: "text"}, "map"},
      {%{~D[2024-01-01] | year: 10_000}, "Date"},
      {~D[-0001-01-01], "Date"},
      {~N[0000-01-01 00:00:00], "NaiveDateTime"},
      {%{~D[2024-01-01] | calendar: Some.Calendar}, "Date"},
      {%{~U[2024-01-01 00:00:00Z] | calendar: Some.Calendar}, "DateTime"},
      {%{~T[01:02:03.123456] | microsecond: {123_456, 3}}, "Time"},
      {Date.range(~D[-0001-01-01], ~D[0001-01-01]), "Date.Range"},
      {Regex.compile!("a", [:caseless, :anchored]), "Regex"},
      {%{~r/a/ | re_version: {"other", :little}}, "Regex"},
      {%URI{host: "a", path: "no slash"}, "URI"},
      {%{URI.parse("http://a") | port: 0}, "URI"},
      {%Version{major: 1, minor: 2, patch: 3, pre: ["a b"]}, "Version"},
      {FrozenSet.new([[1]]), "SnakeBridge.FrozenSet"}
    ]
  end

  test "they come back as they were, wherever they stand, and say what they are" do
    for {term, kind} <- terms() do
      assert pack!(term) =~ <<byte_size(kind), kind::binary, 131>>

      for whole <- [term, [term, 1], {term}, %{"x" => term}, %{term => 1}, MapSet.new([term, 1])] do
        assert whole |> pack!() |> Packed.decode() == {:ok, whole}
      end
    end
  end

  test "large ones are no exception" do
    large = [:binary.copy("a", 200_000) | 2]
    assert large |> pack!() |> Packed.decode() == {:ok, large}
  end

  test "equal terms give equal bytes, so that Python finds them equal" do
    assert pack!(%Plain{a: Map.new(1..50, &{&1, 1})}) == pack!(%Plain{a: Map.new(50..1, &{&1, 1})})
  end

  test "of another scope they are refused" do
    bytes = pack!(self(), opaque_scope: "one")
    assert Packed.decode(bytes, opaque_scope: "one") == {:ok, self()}

    for scope <- ["", "two", "on", "one" <> <<3>>] do
      assert {:error, %Error{category: :decode_error, message: message}} =
               Packed.decode(bytes, opaque_scope: scope)

      assert message =~ "another client or pool"
    end
  end

  test "forged, changed and cut ones are refused before anything is made of them" do
    assert <<0xC7, size, 0x0B, payload::binary-size(size)>> = pack!(self())

    for at <- 0..(size - 1), bit <- 0..7 do
      <<before::binary-size(at), byte, rest::binary>> = payload
      assert_refused(<<before::binary, Bitwise.bxor(byte, Bitwise.bsl(1, bit)), rest::binary>>)
    end

    for keep <- 0..(size - 1), do: assert_refused(binary_part(payload, 0, keep))
    assert_refused(payload <> <<0>>)

    # A term that would make an atom, signed with a key that is not ours.
    name = Enum.join(["zq", "forged", System.unique_integer([:positive])], "_")
    external = <<131, 119, byte_size(name), name::binary>>
    signed = <<3, "pid", external::binary>>
    assert_refused(:crypto.mac(:hmac, :sha256, :crypto.strong_rand_bytes(32), signed) <> signed)
    assert_raise ArgumentError, fn -> String.to_existing_atom(name) end
  end

  defp assert_refused(payload) do
    assert {:error, %Error{category: :decode_error, message: message}} =
             Packed.decode(<<0xC8, byte_size(payload)::16, 0x0B, payload::binary>>)

    assert message =~ "forged" and message =~ "send back only"
  end
end
