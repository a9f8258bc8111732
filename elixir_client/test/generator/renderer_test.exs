defmodule SnakeBridge.Generator.RendererTest do
  use ExUnit.Case, async: true

  import SnakeBridge.Described
  import ExUnit.CaptureIO

  alias SnakeBridge.Generator.Renderer
  alias SnakeBridge.{Ref, RuntimeClient}

  # Answers what it was asked, so that a test sees what Python would get.
  defmodule Echo do
    @behaviour SnakeBridge.RuntimeClient

    @impl true
    def execute("snakebridge.call", payload, _opts) do
      kind = payload["call_type"] || "function"

      {:ok,
       [kind, payload["class"] || payload["attr"] || payload["function"], payload["args"], payload["kwargs"]]}
    end

    @impl true
    def execute_stream("snakebridge.stream", payload, callback, _opts) do
      callback.(payload["function"])
      :ok
    end

    @impl true
    def native_terms?, do: true
  end

  defp optional(name, spec \\ "term()"), do: param(name, "positional_or_keyword", false, spec)

  # Compiles the module under a name of its own; a warning is a failure.
  defp compile(functions, fields \\ %{}) do
    name = "Rendered#{System.unique_integer([:positive])}"
    source = Renderer.render(module(name, functions, fields))

    warnings =
      capture_io(:stderr, fn ->
        Code.compile_string(source, "rendered.ex")
      end)

    assert warnings == ""
    assert source == source |> Code.format_string!() |> IO.iodata_to_binary() |> Kernel.<>("\n")
    Module.concat([name])
  end

  defp echo(fun), do: RuntimeClient.with_client(Echo, fun)

  defp ref, do: %Ref{id: "1", session_id: "s"}

  test "required parameters are arguments, others are keywords or further arguments" do
    m = compile([function("sum", [param("a"), optional("axis"), optional("dtype")])])

    echo(fn ->
      assert m.sum([1]) == {:ok, ["function", "sum", [[1]], %{}]}
      assert m.sum([1], axis: 0) == {:ok, ["function", "sum", [[1]], %{"axis" => 0}]}
      assert m.sum([1], 0) == {:ok, ["function", "sum", [[1], 0], %{}]}
      assert m.sum([1], 0, dtype: "f4") == {:ok, ["function", "sum", [[1], 0], %{"dtype" => "f4"}]}
      assert m.sum([1], 0, "f4") == {:ok, ["function", "sum", [[1], 0, "f4"], %{}]}
      assert m.sum([1], 0, "f4", []) == {:ok, ["function", "sum", [[1], 0, "f4"], %{}]}
      assert m.sum!([1], 0) == ["function", "sum", [[1], 0], %{}]
    end)

    refute function_exported?(m, :sum, 0)
    refute function_exported?(m, :sum, 5)
  end

  test "a last argument that is a keyword list is options, unless options follow" do
    m = compile([function("f", [param("a"), optional("b")])])

    echo(fn ->
      assert {:ok, [_, _, [1], %{}]} = m.f(1, [])
      assert {:ok, [_, _, [1, []], %{}]} = m.f(1, [], [])
      # A required argument is never taken for options.
      assert {:ok, [_, _, [[k: 1]], %{}]} = m.f(k: 1)
    end)

    error = assert_raise ArgumentError, fn -> m.f(1, 2, 3) end
    assert error.message =~ "keyword list, not 3"
  end

  test "*args: a few places, more under __args__, and an empty list is an argument" do
    m =
      compile([
        function("chain", [param("iterables", "var_positional", false), param("kw", "var_keyword", false)])
      ])

    echo(fn ->
      assert {:ok, [_, _, [], %{}]} = m.chain()
      assert {:ok, [_, _, [[1], []], %{}]} = m.chain([1], [])
      assert {:ok, [_, _, [[1]], %{"k" => 2}]} = m.chain([1], k: 2)
      assert {:ok, [_, _, [1, 2, 3, 4], %{}]} = m.chain(1, 2, 3, 4, [])
      assert {:ok, [_, _, [1, 2, 3, 4, 5], %{}]} = m.chain(__args__: [1, 2, 3, 4, 5])
    end)
  end

  test "keywords that Python requires are checked before Python is asked" do
    m = compile([function("f", [param("x"), optional("y"), param("key", "keyword_only")])])
    refute function_exported?(m, :f, 1)
    error = assert_raise ArgumentError, fn -> m.f(1, other: 2) end
    assert error.message =~ "needs key: among its options"
    assert error.message =~ "add key: ... to the call"
    echo(fn -> assert {:ok, [_, _, [1, 2], %{"key" => 3}]} = m.f(1, 2, key: 3) end)
  end

  test "positional-only parameters all have places; of many optional ones the first have" do
    only = for i <- 1..8, do: param("p#{i}", "positional_only", false)
    many = for i <- 1..30, do: optional("q#{i}")
    m = compile([function("only", only), function("many", many)])
    assert function_exported?(m, :only, 9)
    assert function_exported?(m, :many, 7)
    refute function_exported?(m, :many, 8)
    echo(fn -> assert {:ok, [_, _, [], %{"q30" => 1}]} = m.many(q30: 1) end)
  end

  test "classes: constructors, methods, properties, class methods and constants" do
    functions = [
      function("new", [param("x")], %{"kind" => "new", "python" => "__init__"}),
      function("fit", [param("X"), optional("y")], %{"kind" => "method"}),
      function("make", [], %{"kind" => "class_method"}),
      function("limit", [], %{"kind" => "constant", "python" => "LIMIT"}),
      function("size", [], %{"kind" => "property"}),
      function("set_size", [param("value")], %{"kind" => "set_property", "python" => "size"})
    ]

    m = compile(functions, %{"kind" => "class", "class" => "Thing", "python_module" => "demo.things"})

    assert {m.__snakebridge_python_name__(), m.__snakebridge_python_module__(),
            m.__snakebridge_python_class__()} ==
             {"demo.things", "demo.things", "Thing"}

    assert m.__snakebridge_library__() == "demo"

    echo(fn ->
      assert m.new(1) == {:ok, ["class", "Thing", [1], %{}]}
      assert m.fit(ref(), 1, y: 2) == {:ok, ["method", "fit", [1], %{"y" => 2}]}
      assert m.make() == {:ok, ["function", "Thing.make", [], %{}]}
      assert m.limit() == {:ok, ["module_attr", "Thing.LIMIT", [], %{}]}
      assert m.size!(ref()) == ["get_attr", "size", [], %{}]
      assert m.set_size(ref(), 3) == :ok
      assert m.set_size!(ref(), 3) == :ok
    end)

    assert {:fit, 4, "Does fit."} in m.__functions__()
  end

  test "streams: with a callback the runtime client delivers, and names that are taken are kept" do
    m =
      compile([
        function("generate", [param("prompt"), optional("n")], %{"stream" => true}),
        function("read", [], %{"stream" => true}),
        function("read_stream", [])
      ])

    me = self()
    echo(fn -> m.generate_stream("Hi", 3, callback: &send(me, &1)) end)
    assert_received {:chunk, "generate"}
    assert_received {:done, _}
    assert function_exported?(m, :py_read_stream, 0)
    echo(fn -> assert {:ok, ["function", "read_stream", [], _]} = m.read_stream() end)
  end

  test "names that Kernel has, reserved words and parameters that meet" do
    m =
      compile([
        function("max", [param("args", "var_positional", false)]),
        function("abs", [param("x"), optional("y")]),
        function("if", [param("a"), optional("b")]),
        function("inspect", [
          param("end"),
          param("fn"),
          param("opts"),
          param("ref"),
          param("X"),
          param("x"),
          param("_")
        ]),
        function("py_and", [param("do")], %{"python" => "and"})
      ])

    echo(fn ->
      assert {:ok, [_, "max", [1, 2], _]} = m.max(1, 2)
      assert {:ok, [_, "and", [1], _]} = m.py_and(1)
      assert {:ok, [_, _, [1, 2, 3, 4, 5, 6, 7], _]} = m.inspect(1, 2, 3, 4, 5, 6, 7)
    end)
  end

  test "the same description gives the same text" do
    description = module("Same", [function("f", [param("a")])])
    assert Renderer.render(description) == Renderer.render(description)
    assert Renderer.render(description, [class("Same.Thing", "Thing", [])]) =~ "{Same.Thing, \"A class.\"}"
  end
end
