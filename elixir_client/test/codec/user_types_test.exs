defmodule SnakeBridge.Codec.UserTypesTest do
  # Not async: types are registered for the whole node, and the application environment is changed.
  use ExUnit.Case, async: false
  doctest SnakeBridge.NamedTuple
  doctest SnakeBridge.OrderedMap
  doctest SnakeBridge.TimeDelta
  doctest SnakeBridge.Fraction
  doctest SnakeBridge.IP

  import ExUnit.CaptureIO

  alias SnakeBridge.{Error, Extension, Types}
  alias SnakeBridge.Codec.Packed
  alias SnakeBridge.Test.{Label, Point, Temperature}

  setup do
    before = Types.registered()
    :persistent_term.put(Types, %{})
    on_exit(fn -> :persistent_term.put(Types, before) end)
  end

  defp back(term, options \\ []) do
    {:ok, iodata} = Packed.encode(term)
    iodata |> IO.iodata_to_binary() |> Packed.decode(options)
  end

  test "a derived struct is its tag and a map of its fields" do
    extension = %Extension{tag: "test.point", value: %{"x" => 1, "y" => [2.5]}}
    assert back(%Point{x: 1, y: [2.5]}) == {:ok, extension}
    assert back(extension) == {:ok, extension}

    assert back(%Label{text: "a", cache: self()}) ==
             {:ok, %Extension{tag: "test.label", value: %{"text" => "a"}}}
  end

  test "an implementation chooses tag and payload" do
    assert back([%Temperature{kelvin: 3}]) == {:ok, [%Extension{tag: "test.temperature", value: 3}]}

    for tag <- ["decimal", "leaf", "", :tag, nil] do
      assert {:error, %Error{category: :encode_error, message: message}} =
               Packed.encode(%Temperature{kelvin: 3, tag: tag})

      assert message =~ "cannot be sent"
    end
  end

  test "a registered struct comes back as itself, by value" do
    Types.register("test.point", Point)
    Types.register("test.label", Label)
    point = %Point{x: %Point{x: 1, y: 2}, y: {3, %Label{text: "a"}}}
    assert back(point) == {:ok, point}
    assert back(point, maps: :ordered) == {:ok, point}
    assert back(%{point => 1}) == {:ok, %{point => 1}}
    assert point |> Types.encode(schema: 2) |> Types.decode() == point

    for value <- [%{"x" => 1, "z" => 2}, %{1 => 2}, [1], nil] do
      assert {:error, %Error{category: :decode_error, message: message}} =
               back(%Extension{tag: "test.point", value: value})

      assert message =~ "test.point"
    end

    assert {:error, %Error{message: message}} = back(%Extension{tag: "test.label", value: %{}})
    assert message =~ ":text"
  end

  test "a registered function makes any term, and what it raises is an error of the message" do
    Types.register("test.temperature", fn kelvin -> {:kelvin, kelvin + 0} end)
    assert back(%Temperature{kelvin: 3}) == {:ok, {:kelvin, 3}}
    assert {:error, %Error{category: :decode_error, message: message}} = back(%Temperature{kelvin: "3"})
    assert message =~ "test.temperature" and message =~ "arithmetic"
  end

  test "types are registered from the configuration" do
    on_exit(fn -> Application.delete_env(:snakebridge, :types) end)
    Application.put_env(:snakebridge, :types, %{"test.point" => Point, "test.upper" => &String.upcase/1})
    Types.configure()
    assert back(%Point{x: 1}) == {:ok, %Point{x: 1}}
    assert back(%Extension{tag: "test.upper", value: "a"}) == {:ok, "A"}
  end

  test "tags of the codec, and what is no tag or no type, are refused" do
    for tag <- ["decimal", "namedtuple", "arrow", "tuple", "ndarray", "pairs"] do
      assert_raise ArgumentError, ~r/the codec's own; choose another, such as "myapp.#{tag}"/, fn ->
        Types.register(tag, Point)
      end
    end

    for {tag, load} <- [
          {"", Point},
          {:geo, Point},
          {<<255>>, Point},
          {String.duplicate("a", 201), Point},
          {"geo", NoSuch},
          {"geo", Enum},
          {"geo", fn -> 1 end}
        ] do
      assert_raise ArgumentError, fn -> Types.register(tag, load) end
    end

    for options <- [[tag: "enum"], [tag: nil], [], [tag: "a", only: [:z]]] do
      derive = "defmodule Refused do @derive {SnakeBridge.Encoder, #{inspect(options)}}; defstruct [:x] end"
      # The compiler notes that the protocol is consolidated here, which makes no difference.
      capture_io(:stderr, fn -> assert_raise ArgumentError, fn -> Code.eval_string(derive) end end)
    end
  end

  test "names of atoms are allowed at the start, and no other is made, however many come" do
    on_exit(fn -> Application.delete_env(:snakebridge, :atoms) end)
    name = Enum.join(["zq", "allowed", System.unique_integer([:positive])], "_")
    Application.put_env(:snakebridge, :atoms, [name, :ok])
    Types.configure()
    bytes = <<0xC7, byte_size(name), 2, name::binary>>
    assert {:ok, atom} = Packed.decode(bytes)
    assert Atom.to_string(atom) == name

    unique = System.unique_integer([:positive])
    names = for i <- 1..100_000, do: "zq_#{unique}_#{i}"
    flood = for name <- names, into: <<0xDD, 100_000::32>>, do: <<0xC7, byte_size(name), 2, name::binary>>
    before = :erlang.system_info(:atom_count)
    assert {:ok, [%SnakeBridge.Atom{} | _] = atoms} = Packed.decode(flood)
    assert Enum.map(atoms, & &1.name) == names
    assert :erlang.system_info(:atom_count) - before < 1000
  end
end
