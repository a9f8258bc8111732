defmodule SnakeBridge.CallsTest do
  use ExUnit.Case, async: true

  alias SnakeBridge.{Error, Ref, Runtime}

  defmodule Acc do
    def __snakebridge_python_name__, do: "sample"
    def __snakebridge_python_class__, do: "Acc"
    def __snakebridge_library__, do: "sample"
  end

  test "functions, keyword arguments, dotted paths" do
    assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16])
    assert 4.0 == SnakeBridge.call!("math", :sqrt, [16])

    assert {:ok, %{"args" => ["int"], "kwargs" => %{"opt" => "Atom"}}} =
             SnakeBridge.call("sample", "kinds", [1], opt: :x)

    assert {:ok, %{"args" => ["int", "str"]}} = SnakeBridge.call("sample", "kinds", [1], __args__: ["a"])
    assert {:ok, %{"kwargs" => %{"k" => "int"}}} = SnakeBridge.call("sample", "kinds", [], %{"k" => 1})
    assert {:ok, %NaiveDateTime{}} = SnakeBridge.call("datetime", "datetime.now")
    assert {:ok, %SnakeBridge.Path{type: "PosixPath"}} = SnakeBridge.call("pathlib.Path", "cwd")
    assert {:ok, 2} = SnakeBridge.call("sample", "coroutine", [1])
  end

  test "wrapper modules name their Python module, library and class" do
    assert {:ok, %Ref{type_name: "Acc"} = acc} = Runtime.call_class(Acc, :__init__, [5])
    assert {:ok, 7} = Runtime.call_method(acc, :add, [2])
    assert {:ok, "x"} = Runtime.call(Acc, :identity, ["x"])
    assert {:ok, %{"answer" => 42}} = Runtime.get_module_attr(Acc, "CONSTANT")
    assert_raise ArgumentError, ~r/no SnakeBridge wrapper/, fn -> Runtime.call(String, :upper, []) end
  end

  test "refs: methods, attributes, identity, text, release" do
    {:ok, acc} = SnakeBridge.call("sample", "Acc", [1])
    assert SnakeBridge.ref?(acc)
    assert {:ok, 3} = SnakeBridge.call(acc, :add, [2])
    assert 6 == SnakeBridge.get!(acc, :double)
    assert :ok == SnakeBridge.set_attr(acc, :value, 10)
    assert {:ok, 10} = SnakeBridge.attr(acc, "value")
    assert {:ok, ^acc} = SnakeBridge.method(acc, :me)
    assert to_string(acc) =~ "sample.Acc object"
    assert inspect(acc) =~ "Acc"
    assert :ok == SnakeBridge.release_ref(acc)
    assert {:error, %Error{category: :unknown_ref}} = SnakeBridge.call(acc, :add, [1])
  end

  test "errors carry type, message, traceback and the Elixir call" do
    assert {:error, %Error{} = error} = SnakeBridge.call("sample", "raise_custom", [])
    assert error.category == :python_error
    assert error.python_type == "sample.Custom"
    assert error.message == "custom"
    assert error.notes == ["a note"]
    assert error.cause.python_type == "ValueError"
    assert error.python_traceback =~ "raise error from cause"
    assert %{elixir_module: "sample", elixir_function: "raise_custom", elixir_arity: 0} = error.context
    assert_raise Error, ~r/sample.Custom: custom/, fn -> SnakeBridge.call!("sample", "raise_custom") end
  end

  test "bad requests say what is wrong" do
    for {module, function, args, text} <- [
          {"no_such_module_x", "f", [], "No module named"},
          {"math", "sqtr", [1], "has no attribute 'sqtr'"},
          {"math", "sqrt", [1, 2], "exactly one argument"}
        ] do
      assert {:error, %Error{category: :python_error, message: message}} =
               SnakeBridge.call(module, function, args)

      assert message =~ text
    end

    for value <- [%SnakeBridge.Bytes{data: 1}, %SnakeBridge.Slice{}, %SnakeBridge.Complex{real: :x, imag: 1}] do
      result = SnakeBridge.call("sample", "identity", [value])

      assert match?({:ok, ^value}, result) or match?({:error, %Error{category: :encode_error}}, result)
    end

    assert {:error, %Error{category: :unavailable, message: message}} =
             SnakeBridge.call("math", "sqrt", [4], pool: :nope)

    assert message =~ "no pool :nope"
    assert {:ok, 2.0} = SnakeBridge.call("math", "sqrt", [4])
  end

  test "values come back equal and of the same type" do
    terms =
      [
        nil,
        true,
        2 ** 300,
        -(2 ** 70),
        1.5,
        :nan,
        "grün",
        <<255>>,
        SnakeBridge.bytes("ab"),
        :atom,
        [a: 1],
        {1, {}}
      ] ++
        [
          %{1 => {2}, nil => [], "k" => %{}},
          MapSet.new([1, "a"]),
          ~U[2024-01-02 03:04:05Z],
          ~N[2024-01-02 03:04:05.000001]
        ] ++
        [
          ~D[2024-02-29],
          ~T[01:02:03],
          %SnakeBridge.Complex{real: 1.0, imag: :infinity},
          SnakeBridge.Tensor.from_list([1.0, 2.0], "float32")
        ]

    for term <- terms, do: assert({:ok, ^term} = SnakeBridge.call("sample", "identity", [term]))
    assert {:ok, ^terms} = SnakeBridge.call("sample", "identity", [terms])
  end

  test "context managers" do
    require SnakeBridge
    {:ok, lock} = SnakeBridge.call("threading", "Lock")
    assert true == SnakeBridge.with_python(lock, fn _ -> SnakeBridge.call_method!(lock, :locked) end)
    assert false == SnakeBridge.call_method!(lock, :locked)

    assert_raise RuntimeError, "mine", fn ->
      SnakeBridge.with_python lock do
        _ = context
        raise "mine"
      end
    end

    assert false == SnakeBridge.call_method!(lock, :locked)
  end

  test "helpers of the project" do
    Application.put_env(:snakebridge, :helpers, helper_paths: [Path.expand("tests/python/helper_files")])
    assert {:ok, 3.5} = SnakeBridge.call_helper("study.add", [1.5], b: 2.0)
    assert {:error, %Error{message: "Helper 'study.none' not found"}} = SnakeBridge.call_helper("study.none")
  after
    Application.delete_env(:snakebridge, :helpers)
  end
end
