defmodule Bench.Called do
  @moduledoc """
  Calls the generated functions of a library with arguments tried one after the other, and compares what comes with the same call made without a
  wrapper. For `bench/wrappers_called.exs` and for the test of the wrappers.
  """

  alias SnakeBridge.{Generator, Ref, StreamRef}

  defmodule Call do
    @moduledoc "A generated function, the arguments that are right for it, and what came without and with the wrapper."
    @enforce_keys [:library, :module, :function, :arguments, :expected, :answer]
    defstruct @enforce_keys
  end

  # They write files, read them, print, run for minutes, or never answer the same twice.
  @left_out ~r/^(test|save|load(?!s$)|from|gen|mem|show|info|set|empty|print|get|put|copyto|place|bench|err|byte_bounds|input|now|today|utcnow)/

  @matrix [[4.0, 1.0], [1.0, 3.0]]

  @tried [
    [],
    [2.5],
    [3],
    [@matrix],
    [[3, 1, 2]],
    ["[1, 2]"],
    [[3, 1, 2], [1, 2, 3]],
    [@matrix, @matrix],
    [6, 4],
    [0.5, 2.0],
    [@matrix, 1],
    [[3, 1, 2], 1, 2],
    [[1.0, 2.0], [0.0, 1.0, 3.0], [5.0, 6.0, 7.0]],
    [0.5, 0.1, 0.9],
    ["a", "banana"],
    ["a", "b", "banana"]
  ]

  # Classes whose objects are values here: what their methods are called on, and what else these are tried with.
  @receivers %{
    "datetime" => %{
      "date" => ~D[2024-02-29],
      "datetime" => ~N[2024-02-29 12:30:15.000000],
      "time" => ~T[12:30:15.000000]
    }
  }
  @methods [[], [~D[2023-01-31]], [~N[2023-01-31 00:00:00.000000]], [~T[01:02:03.000000]], ["%H %d"], [0]]

  @options [__runtime__: [timeout: 10_000]]

  @doc """
  The calls of those functions of a library for which some arguments are right: functions of the library's own module, and methods of classes whose
  objects are values. Only these are generated. `options` are those of `SnakeBridge.Generator.define/2`.
  """
  @spec calls(atom() | String.t(), keyword()) :: [%Call{}]
  def calls(library, options \\ []) do
    library = to_string(library)

    functions =
      for {class, tried} <- [{nil, @tried} | methods(library)],
          name <- names(library, class),
          not (name =~ @left_out),
          do: {class, name, if(class, do: "#{class}.#{name}", else: name), tried}

    # Side by side: one after the other, thousands of short calls mostly wait for their turn.
    right =
      functions
      |> Task.async_stream(
        fn {class, name, path, tried} ->
          for {arguments, expected} <- first_right(library, path, tried),
              do: {class, name, path, arguments, expected}
        end,
        max_concurrency: 8,
        timeout: :infinity
      )
      |> Enum.flat_map(fn {:ok, found} -> found end)

    only = Enum.map(right, fn {_, _, path, _, _} -> path end)
    modules = Map.new(Generator.define([{library, only: only}], options), &{class(&1), &1})

    for {class, name, _, arguments, expected} <- right do
      module = Map.fetch!(modules, class)
      function = function(module, name)
      answer = answer(module, function, arguments)

      %Call{
        library: library,
        module: module,
        function: function,
        arguments: arguments,
        expected: expected,
        answer: answer
      }
    end
  end

  defp methods(library) do
    for {class, receiver} <- Map.get(@receivers, library, %{}),
        do: {class, Enum.map(@methods, &[receiver | &1])}
  end

  # What is called and offered, and is no class.
  defp names(library, class) do
    {:ok, object} = SnakeBridge.call("importlib", "import_module", [library], __runtime__: [result: :ref])
    {:ok, object} = if class, do: SnakeBridge.get(object, class), else: {:ok, object}

    names = """
    [name for name in getattr(object, "__all__", dir(object))
     if name.islower() and name[0] != "_" and callable(getattr(object, name)) and not isinstance(getattr(object, name), type)]
    """

    {:ok, names} = SnakeBridge.call("builtins", "eval", [String.trim(names), %{"object" => object}])
    names
  end

  # Words that Elixir reserves have a prefix.
  defp function(module, name) do
    names = for {function, _, _} <- module.__functions__(), do: Atom.to_string(function)
    String.to_atom(Enum.find(["py_" <> name, name], name, &(&1 in names)))
  end

  defp class(module) do
    if function_exported?(module, :__snakebridge_python_class__, 0), do: module.__snakebridge_python_class__()
  end

  # Objects are other ones with each call.
  defp first_right(library, name, tried) do
    Enum.find_value(tried, [], fn arguments ->
      case SnakeBridge.call(library, name, arguments, @options) do
        {:ok, %struct{}} when struct in [Ref, StreamRef] -> nil
        {:ok, value} -> [{arguments, value}]
        {:error, _} -> nil
      end
    end)
  end

  defp answer(module, function, arguments) do
    case apply(module, function, arguments ++ [@options]) do
      {:ok, value} -> value
      {:error, _} = error -> error
    end
  rescue
    error in UndefinedFunctionError -> error
  end

  @doc "True when the wrapper answered what came without it."
  @spec same?(%Call{}) :: boolean()
  def same?(%Call{expected: expected, answer: answer}), do: answer === expected

  @doc "What differs, as a line to read."
  @spec difference(%Call{}) :: String.t()
  def difference(%Call{} = call) do
    "#{inspect(call.module)}.#{call.function} with #{inspect(call.arguments)} answers #{inspect(call.answer)} " <>
      "and without wrapper #{inspect(call.expected)}"
  end
end
