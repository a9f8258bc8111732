defmodule SnakeBridge.SnakepitClientTest do
  # Snakepit is not a dependency. Its modules are stood in for by small ones of the same shape; behind them is the real worker, started and
  # spoken to over gRPC the way Snakepit does it (tests/python/snakepit_door.py).
  use ExUnit.Case, async: false

  alias SnakeBridge.{Error, Pool, Ref, RuntimeClient, SnakepitClient}
  alias SnakeBridge.Test.Json

  @compile {:no_warn_undefined,
            [OverSnakepit.Math, OverSnakepit.Collections.Deque, OverSnakepit.Itertools.Count]}

  @snakepit """
  defmodule Snakepit.Error do
    defexception [:category, :message, :details]
  end

  defmodule Snakepit.Error.PythonException do
    defexception [:message, :context, :stacktrace, :python_type, :python_traceback]
  end

  defmodule GRPC.RPCError do
    defexception [:status, :message]
  end

  defmodule Jason do
    def decode(text), do: {:ok, SnakeBridge.Test.Json.decode!(text)}
  end

  defmodule Snakepit.Bridge.ToolRegistry do
    def register_elixir_tool(session, "snakebridge.callback", handler, %{exposed_to_python: true}) do
      if :ets.insert_new(:snakepit_double, {{:tool, session}, handler}), do: :ok, else: {:error, {:duplicate_tool, "snakebridge.callback"}}
    end
  end

  defmodule Snakepit do
    defdelegate execute(tool, payload, opts), to: SnakeBridge.SnakepitClientTest.Door
    defdelegate execute_stream(tool, payload, callback, opts), to: SnakeBridge.SnakepitClientTest.Door
  end
  """

  defmodule Door do
    alias SnakeBridge.{Pool, RuntimeClient}
    alias SnakeBridge.Test.Json

    def execute(tool, payload, opts) do
      true = is_binary(opts[:session_id]) and is_integer(opts[:timeout])

      inside(fn door ->
        door
        |> SnakeBridge.call_method!(:call, [tool, text(payload), opts[:timeout] / 1000])
        |> Json.decode!()
        |> answer()
      end)
      |> tap(&note(tool, payload, &1))
    end

    defp note("snakebridge.release_session", %{"session_id" => session}, answer) do
      for {_, watcher} <- :ets.lookup(:snakepit_double, :watcher),
          do: send(watcher, {:released, session, answer})
    end

    defp note(_, _, _), do: :ok

    def execute_stream(tool, payload, callback, opts) do
      inside(fn door ->
        door
        |> SnakeBridge.stream(:stream, [tool, text(payload), opts[:timeout] / 1000])
        |> Enum.reduce_while(:ok, fn text, :ok ->
          case Json.decode!(text) do
            %{"status" => status, "message" => message} -> {:halt, {:error, rpc_error(status, message)}}
            chunk -> if callback.(chunk) == :halt, do: {:halt, :ok}, else: {:cont, :ok}
          end
        end)
      end)
    end

    def inside(fun) do
      [{_, door}] = :ets.lookup(:snakepit_double, :door)
      RuntimeClient.with_client(Pool, fn -> SnakeBridge.in_session(door.session_id, fn -> fun.(door) end) end)
    end

    # As Snakepit's server on the BEAM does it.
    def ask(id, args) do
      handlers = :ets.match(:snakepit_double, {{:tool, :_}, :"$1"})
      params = %{"callback_id" => id, "args" => Json.decode!(args)}

      RuntimeClient.with_client(Snakepit, fn ->
        handlers |> hd() |> hd() |> apply([params]) |> text()
      end)
    end

    def text(value), do: value |> Json.encode!() |> IO.iodata_to_binary()

    defp answer(%{"ok" => value}), do: {:ok, value}

    defp answer(%{"error" => payload}) do
      reason =
        struct(:"Elixir.Snakepit.Error.PythonException",
          message: payload["message"],
          context: payload["context"],
          stacktrace: payload["stacktrace"],
          python_type: payload["type"],
          python_traceback: payload["traceback"]
        )

      failed(:worker, "Request failed", reason)
    end

    defp answer(%{"status" => 4}), do: failed(:pool, "Pool request failed", :timeout)
    defp answer(%{"status" => status, "message" => text}), do: {:error, rpc_error(status, text)}

    def failed(category, message, reason) do
      details = %{command: "snakebridge.call", pool: :default, reason: reason}
      {:error, struct(:"Elixir.Snakepit.Error", category: category, message: message, details: details)}
    end

    defp rpc_error(status, message), do: struct(:"Elixir.GRPC.RPCError", status: status, message: message)
  end

  setup_all do
    modules = for {module, _} <- Code.compile_string(@snakepit), do: module
    :ets.new(:snakepit_double, [:named_table, :public, :set])
    # It is needed for a while longer than this process lives.
    keeper = spawn(fn -> Process.sleep(:infinity) end)
    :ets.give_away(:snakepit_double, keeper, nil)
    {:ok, session} = SnakeBridge.create_session(concurrent: true)

    door =
      SnakeBridge.in_session(session, fn ->
        SnakeBridge.call!("snakepit_door", "Door", [&Door.ask/2], __runtime__: [timeout: 60_000])
      end)

    :ets.insert(:snakepit_double, {:door, door})

    on_exit(fn ->
      # Sessions of the last tests are still being released.
      :sys.get_state(SnakeBridge.SessionManager)

      for task <- Task.Supervisor.children(SnakeBridge.Tasks) do
        monitor = Process.monitor(task)
        assert_receive {:DOWN, ^monitor, :process, _, _}
      end

      SnakeBridge.call_method!(door, :close)
      Process.exit(keeper, :kill)
      SnakeBridge.close_session(session)

      for module <- modules do
        :code.purge(module)
        :code.delete(module)
      end
    end)

    {:ok, door: door}
  end

  setup do
    before = Application.fetch_env(:snakebridge, :runtime_client)
    Application.put_env(:snakebridge, :runtime_client, Snakepit)

    on_exit(fn ->
      case before do
        {:ok, client} -> Application.put_env(:snakebridge, :runtime_client, client)
        :error -> Application.delete_env(:snakebridge, :runtime_client)
      end
    end)

    assert RuntimeClient.current() == SnakepitClient
    :ok
  end

  test "values arrive equal and of the same type" do
    for value <- [
          nil,
          1,
          1.0,
          2 ** 80,
          "text",
          SnakeBridge.bytes(<<0, 255>>),
          {1, {2}},
          %{"a" => [1]},
          ~D[2024-02-29],
          MapSet.new([1])
        ] do
      assert {:ok, ^value} = SnakeBridge.call("sample", "identity", [value])
    end
  end

  test "objects stay in Python and have methods and attributes" do
    assert {:ok, %Ref{} = acc} = SnakeBridge.call("sample", "Acc", [40])
    assert {:ok, 42} = SnakeBridge.call_method(acc, :add, [2])
    assert {:ok, 42} = SnakeBridge.get_attr(acc, :value)
    assert :ok = SnakeBridge.set_attr(acc, :value, 1)
    assert {:ok, 2} = SnakeBridge.get_attr(acc, :double)
    assert :ok = SnakeBridge.release_ref(acc)
    assert {:error, %Error{category: :unknown_ref}} = SnakeBridge.get_attr(acc, :value)
  end

  test "an exception of Python is the error that the embedded pool gives" do
    assert {:error, %Error{category: :python_error, python_type: "ValueError", message: "asked for"} = error} =
             SnakeBridge.call("sample", "raise_it", ["ValueError"])

    assert error.python_traceback =~ "raise_it"
    assert error.context.elixir_function == "raise_it"
    assert {:error, %Error{python_type: "Custom"}} = SnakeBridge.call("sample", "raise_custom")

    assert {:error, %Error{category: :timeout}} =
             SnakeBridge.call("time", "sleep", [20], __runtime__: [timeout: 1_000])
  end

  test "Python calls functions, and they call Python" do
    assert {:ok, 6} = SnakeBridge.call("functools", "reduce", [fn a, b -> a + b end, [1, 2, 3]])

    assert {:ok, [2.0, 3.0]} =
             SnakeBridge.call("builtins", "list", [SnakeBridge.call!("builtins", "map", [&root/1, [4, 9]])])

    assert {:error, %Error{python_type: "RuntimeError", message: message}} =
             SnakeBridge.call("functools", "reduce", [fn _, _ -> raise "no" end, [1, 2]])

    assert message =~ "no"
  end

  # Inside it is Python's turn to wait.
  defp root(number), do: :math.sqrt(number)

  test "streams are read with a callback, and lazily" do
    me = self()
    assert :ok = SnakeBridge.stream("builtins", "range", [3], [], &send(me, {:item, &1}))
    for number <- 0..2, do: assert_received({:item, ^number})

    assert [nil, {1}, %{"data" => 5}] =
             SnakeBridge.stream("builtins", "iter", [[nil, {1}, %{"data" => 5}]]) |> Enum.to_list()

    assert [1, 2] = SnakeBridge.stream("itertools", "count", [1]) |> Enum.take(2)

    assert_raise Error, ~r/bad argument in arithmetic/, fn ->
      SnakeBridge.stream("builtins", "map", [&div(1, &1), [1, 0]]) |> Enum.to_list()
    end

    refute_received {_, :item, _}
  end

  test "generated modules are the same over Snakepit as over the embedded pool" do
    SnakeBridge.Generator.define(
      math: [module: "OverSnakepit.Math", only: ["pi", "hypot"]],
      collections: [module: "OverSnakepit.Collections", only: ["deque"]],
      itertools: [module: "OverSnakepit.Itertools", only: ["count"]]
    )

    alias OverSnakepit.{Collections, Itertools, Math}

    used = fn ->
      queue = Collections.Deque.new!([1, 2, 3], maxlen: 3)
      nil = Collections.Deque.append!(queue, {4, ~D[2026-01-02]})
      {:error, error} = Math.hypot("x")

      {Math.pi!(), Math.hypot(3, 4), Collections.Deque.maxlen(queue), Collections.Deque.get_item(queue, 2),
       Itertools.Count.new_stream(5) |> Enum.take(2), error.category, error.python_type, error.message}
    end

    over_snakepit = used.()

    assert {pi, {:ok, 5.0}, {:ok, 3}, {:ok, {4, ~D[2026-01-02]}}, [5, 6], :python_error, "TypeError", _} =
             over_snakepit

    assert pi == :math.pi()
    assert over_snakepit == RuntimeClient.with_client(Pool, used)
  end

  test "flows run, tell their progress, stream, and are certified, with tensors both ways" do
    import SnakeBridge.Flow, only: [spec: 1, slot: 1, term: 3, op: 2]
    alias SnakeBridge.{Flow, Tensor}

    :rand.seed(:exsss, 5)
    data = for _ <- 1..(512 * 512), into: <<>>, do: <<:rand.normal()::float-little-64>>
    photo = %Tensor{dtype: "float64", shape: {512, 512}, data: data}
    me = self()

    # It begins at its minimum, and no step changes anything.
    still = spec(slots: [x: slot(value: photo)], terms: [term(:quadratic, :x, target: photo)])
    told = fn info -> send(me, {:phase, info["phase"], info["iteration"]}) end

    assert {:ok, %{stopped: :converged, phase: :green} = result} =
             Flow.run(still, certified: true, on_progress: told)

    assert %{"x" => %Tensor{dtype: "float64", shape: {512, 512}, data: ^data}} = result.state
    assert_received {:phase, "GREEN", iteration} when iteration > 0

    narrow =
      spec(
        slots: [x: slot(shape: {2})],
        terms: [
          term(:quadratic, :x, op: op(:diagonal, entries: Tensor.from_list([1.0, 1.0e-6])), target: [1, 1])
        ]
      )

    endless = [iterations: 1_000_000_000, tol: 1.0e-300, solver: :ista, block: 100]

    assert {:ok, %{stopped: :cancelled, iterations: 100}} =
             Flow.run(narrow, [on_progress: fn _ -> :cancel end] ++ endless)

    assert [{:progress, %{"iteration" => 100}}, {:progress, %{"iteration" => 200}}] =
             narrow |> Flow.stream(endless) |> Enum.take(2)

    assert {:result, %{stopped: :converged}} = still |> Flow.stream() |> Enum.at(-1)
    wavelets = [profile: [lens: op(:wavelet, wavelet: :haar)], pool: :default]
    assert {:ok, %{phase: :amber, lens: _}} = Flow.certify(narrow, wavelets)

    assert {:error, %Error{category: :python_error, python_type: type, message: message}} =
             Flow.run(put_in(still["dtype"], "float16"))

    assert type =~ "SpecLintFailed" and message =~ "its dtype is 'float16'"
    assert {:ok, false} = Flow.cancel("nobody")
  end

  test "a crash is told, and an idempotent call is made again by the worker", %{door: door} do
    {:ok, stuck} = fn -> SnakeBridge.call("time", "sleep", [30]) end |> Task.async() |> then(&{:ok, &1})
    kill = fn -> RuntimeClient.with_client(Pool, fn -> SnakeBridge.call_method!(door, :kill) end) end
    assert {:error, %Error{category: :worker_crash}} = until_answered(stuck, kill)
    assert {:ok, 2.0} = SnakeBridge.call("math", "sqrt", [4], idempotent: true)
  end

  # The executor is killed until the call that is in it has its answer: when it begins is not to be seen from here.
  defp until_answered(task, kill) do
    case Task.yield(task, 200) do
      {:ok, answer} ->
        answer

      nil ->
        kill.()
        until_answered(task, kill)
    end
  end

  test "the automatic session of a process is released when the process ends", %{door: door} do
    :ets.insert(:snakepit_double, {:watcher, self()})

    task =
      Task.async(fn ->
        {:ok, %Ref{session_id: session}} = SnakeBridge.call("sample", "Acc")
        session
      end)

    session = Task.await(task, 60_000)
    assert_receive {:released, ^session, {:ok, 1}}
    assert 0 = RuntimeClient.with_client(Pool, fn -> SnakeBridge.call_method!(door, :refs, [session]) end)
  end

  test "the session of a process that only read a lazy stream is released, too" do
    :ets.insert(:snakepit_double, {:watcher, self()})

    session =
      fn ->
        assert [0, 1] = SnakeBridge.stream("itertools", "count") |> Enum.take(2)
        SnakeBridge.current_session()
      end
      |> Task.async()
      |> Task.await(60_000)

    assert_receive {:released, ^session, {:ok, _}}
  end

  test "a function that a function returned lives as long as the process that passed it" do
    twice = SnakeBridge.call!("builtins", "eval", ["lambda f: f()(20) + f()(1)"])
    assert {:ok, 23} = SnakeBridge.call_method(twice, :__call__, [fn -> &(&1 + 1) end])
  end

  test "what Snakepit itself answers becomes an error with a category" do
    assert %Error{category: :timeout} =
             SnakepitClient.error(%{category: :timeout, message: "Pool execute timed out"})

    {:error, queue} = Door.failed(:pool, "Pool request failed", :queue_timeout)
    assert %Error{category: :timeout} = SnakepitClient.error(queue)
    {:error, gone} = Door.failed(:worker, "Worker shutting down", {:grpc_server_exited, 137})

    assert %Error{category: :worker_crash, message: message, outcome: :unknown} = SnakepitClient.error(gone)

    assert message =~ "137"

    assert %Error{category: :unavailable, message: "Snakepit: :worker_busy"} =
             SnakepitClient.error(:worker_busy)
  end
end
