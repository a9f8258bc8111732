defmodule SnakeBridge.ClientValuesTest do
  @moduledoc "Values through a live Python, and the options that say in which form results come."
  use ExUnit.Case, async: true

  alias SnakeBridge.{Error, Ref}

  defp echo(value, runtime \\ []), do: SnakeBridge.call!("sample", "identity", [value], __runtime__: runtime)

  test "every term comes back as it was" do
    for value <- [
          self(),
          make_ref(),
          [1 | 2],
          <<1::3>>,
          1..9//2,
          %{[1] => 2},
          %{1 => :a, 1.0 => :b, true => :c},
          MapSet.new([[1], %{}]),
          [a: 1, b: [c: 2]],
          'charlist',
          ~U[2024-01-02 03:04:05.120Z],
          ~D[-0044-03-15],
          %ArgumentError{message: "x"},
          Version.parse!("1.2.3"),
          URI.parse("https://x.org/?q"),
          Date.range(~D[2024-01-01], ~D[2024-02-01]),
          %SnakeBridge.Extension{tag: "nobody.knows", value: [1]}
        ] do
      assert echo(value) === value
    end

    assert %Regex{source: "a+", opts: opts} = echo(~r/a+/ui)
    assert opts == Regex.opts(~r/a+/ui)
  end

  test "Python sees its own types" do
    kinds =
      SnakeBridge.call!("sample", "kinds", [1..3, ~r/a/, %SnakeBridge.Slice{start: 1}, self(), %{[1] => 2}])

    assert kinds["args"] == ["range", "Pattern", "slice", "OpaqueTerm", "Pairs"]
  end

  test "a result may stay in Python" do
    assert %Ref{type_name: "ndarray"} =
             ref = SnakeBridge.call!("numpy", "arange", [6], __runtime__: [result: :ref])

    assert 15 = SnakeBridge.call_method!(ref, :sum)
  end

  test "methods and attributes of values" do
    tensor = SnakeBridge.call!("numpy", "eye", [3])
    assert 3.0 = SnakeBridge.call_method!(tensor, :trace)
    assert {3, 3} = SnakeBridge.get_attr!(tensor, :shape)
    assert "ABC" = SnakeBridge.call_method!("abc", :upper)

    assert %SnakeBridge.Path{path: "/tmp/x"} =
             SnakeBridge.call_method!(%SnakeBridge.Path{type: "PosixPath", path: "/tmp"}, :joinpath, ["x"])
  end

  test "dicts in their order" do
    assert %SnakeBridge.OrderedMap{pairs: [{"b", 1}, {"a", %SnakeBridge.OrderedMap{pairs: []}}]} =
             ordered =
             SnakeBridge.call!("builtins", "dict", [[{"b", 1}, {"a", %{}}]], __runtime__: [maps: :ordered])

    assert {:error, %Error{category: :python_error, context: %{function: "sqrt"}}} =
             SnakeBridge.call("math", "sqrt", [-1], __runtime__: [maps: :ordered])

    assert ["b", "a"] = SnakeBridge.call!("builtins", "list", [ordered])
  end

  test "identity and cycles on request" do
    assert {:error, %Error{message: message}} = SnakeBridge.call("sample", "shared_list")
    assert message =~ "cycle"
    graph = SnakeBridge.call!("sample", "shared_list", [], __runtime__: [preserve_identity: true])
    assert %SnakeBridge.Graph{} = graph
    assert SnakeBridge.call!("sample", "is_same", [graph])
    refute SnakeBridge.call!("sample", "is_same", [[[1], [1]]])
  end

  test "an opaque term of another client is refused" do
    forged = <<0::256, 3, "pid", :erlang.term_to_binary(self())::binary>>

    assert {:error, %Error{category: category, message: message}} =
             SnakeBridge.call("bridge_adapter.codec", "OpaqueTerm", [SnakeBridge.bytes(forged)])

    assert category == :decode_error
    assert message =~ "client"
  end
end
