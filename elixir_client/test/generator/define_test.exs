defmodule SnakeBridge.Generator.DefineTest do
  # Whole libraries of Python's own, wrapped in memory and called in the pool. Not async: the modules' names are everybody's.
  use ExUnit.Case, async: false

  import ExUnit.CaptureIO

  alias SnakeBridge.Generator
  alias SnakeBridge.{Error, RuntimeClient}

  @python System.get_env("SNAKEBRIDGE_PYTHON") || Path.expand(".venv/bin/python")

  setup_all do
    shadowing = ~w(abs max min round len hash print sorted filter map super type eval exec set)

    libraries = [
      :json,
      :pathlib,
      :re,
      :datetime,
      :math,
      :collections,
      :statistics,
      builtins: [only: shadowing]
    ]

    me = self()

    # Names like `abs`, `max` and `print` included, nothing of it makes the compiler warn.
    warnings =
      capture_io(:stderr, fn -> send(me, {:modules, Generator.define(libraries, python: @python)}) end)

    assert warnings == ""
    assert_received {:modules, modules}
    %{modules: modules}
  end

  # The modules are not there when this file is compiled.
  defp call(module, function, arguments), do: apply(Module.concat([module]), function, arguments)

  test "functions of every shape answer as Python does", %{modules: modules} do
    assert length(modules) > 25
    assert call("Math", :sqrt, [16]) == {:ok, 4.0}
    assert call("Builtins", :abs, [-3]) == {:ok, 3}
    assert call("Builtins", :max!, [1, 5, 3]) == 5
    assert call("Builtins", :max!, [["a", "bcd"], [key: &String.length/1]]) == "bcd"
    assert call("Builtins", :sorted!, [[3, 1, 2], [reverse: true]]) == [3, 2, 1]
    assert call("Math", :isclose!, [1.0, 1.1, [rel_tol: 0.5]]) == true
    assert call("Statistics", :quantiles!, [[1, 2, 3, 4], [n: 2]]) == [2.5]
    assert call("Json", :loads!, ["[1]", []]) == [1]
    assert call("Re", :sub!, ["a", "b", "aa", 1]) == "ba"
  end

  test "classes: values and refs, methods, properties, class methods, constants" do
    assert call("Datetime.Date", :new!, [2024, 2, 29]) == ~D[2024-02-29]
    assert call("Datetime.Date", :fromisoformat!, ["2024-02-29"]) == ~D[2024-02-29]
    assert call("Datetime.Date", :weekday!, [~D[2024-02-29]]) == 3
    assert call("Datetime.Date", :year!, [~D[2024-02-29]]) == 2024
    assert call("Datetime.Date", :max!, []) == ~D[9999-12-31]

    queue = call("Collections.Deque", :new!, [[1, 2, 3], 2])
    assert call("Collections.Deque", :maxlen!, [queue]) == 2
    call("Collections.Deque", :append!, [queue, 4])
    assert call("Collections.Deque", :len!, [queue]) == 2
    assert call("Collections.Deque", :get_item!, [queue, 1]) == 4
    decoder = call("Json.JSONDecoder", :new!, [])
    assert call("Json.JSONDecoder", :decode!, [decoder, "{\"a\": null}"]) == %{"a" => nil}
  end

  test "errors name the wrapper that was called" do
    assert {:error, %Error{python_type: "ValueError", context: context}} = call("Math", :sqrt, [-1])
    assert %{elixir_function: :sqrt, elixir_arity: 1} = context
    assert context.elixir_module == Module.concat(["Math"])
    assert_raise Error, fn -> call("Math", :sqrt!, [-1]) end
    assert {:error, %Error{python_type: "TypeError"}} = call("Json", :dumps, [1, [no_such: 1]])
  end

  defmodule Stub do
    @behaviour RuntimeClient

    @impl true
    def execute("snakebridge.call", %{"python_module" => "math", "function" => "sqrt"}, _), do: {:ok, 42}
  end

  test "a stub client answers for Python" do
    assert RuntimeClient.with_client(Stub, fn -> call("Math", :sqrt!, [2]) end) == 42
  end

  test "what a library prints on import is shown, in whatever encoding" do
    printed = capture_io(:stderr, fn -> Generator.define([noisy: [only: ["quiet"]]], python: @python) end)
    assert printed =~ "on \uFFFD import"
    assert call("Noisy", :quiet!, []) == "done"
  end

  test "names that are not there are told with those that are near" do
    error = assert_raise ArgumentError, fn -> Generator.define([math: [only: ["sqrrt"]]], python: @python) end
    assert error.message =~ "sqrrt" and error.message =~ "sqrt"
    error = assert_raise ArgumentError, fn -> Generator.define([:not_a_library], python: @python) end
    assert error.message =~ "not_a_library"
    error = assert_raise ArgumentError, fn -> Generator.define([:math], python: "/no/such/python") end
    assert error.message =~ "/no/such/python"
  end
end
