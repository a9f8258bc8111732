defmodule SnakeBridge.CrashTest do
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{Error, Pool}

  @one [pool: :single]

  defp call(module, function, args, opts \\ []), do: SnakeBridge.call(module, function, args, opts ++ @one)
  defp pid, do: SnakeBridge.call!("os", "getpid", [], @one)

  test "a worker that dies is named, its refs are lost, and the next call works" do
    {:ok, acc} = call("sample", "Acc", [1])

    for {function, args, text} <- [
          {"_exit", [3], "exited with status 3"},
          {"abort", [], "signal 6"},
          {"kill", [pid(), 9], "signal 9"}
        ] do
      args = if function == "kill", do: [pid(), 9], else: args

      assert {:error, %Error{category: :worker_crash, outcome: :unknown, message: message}} =
               call("os", function, args)

      assert message =~ text
      assert {:ok, 2.0} = call("math", "sqrt", [4])
    end

    assert {:error, %Error{category: :session_lost, message: message}} = SnakeBridge.call(acc, :add, [1])
    assert message =~ "gone"
  end

  test "an idempotent call is repeated on the next worker" do
    marker = Path.join(System.tmp_dir!(), "crashed-#{System.unique_integer([:positive])}-#{System.pid()}")
    on_exit(fn -> File.rm(marker) end)

    code =
      "(open(m, 'w').close(), __import__('os')._exit(1)) if not __import__('os').path.exists(m) else 'second'"

    args = [code, %{"m" => marker}]
    assert {:ok, "second"} = call("builtins", "eval", args, idempotent: true)
    File.rm!(marker)
    assert {:error, %Error{category: :worker_crash}} = call("builtins", "eval", args)
  end

  test "deadlines interrupt sleeping and computing, and other calls are not hit" do
    for {function, args} <- [{"cleanup_sleep", [30]}, {"spin", [30]}, {"sleep_async", [30]}] do
      assert {:error, %Error{category: :timeout}} =
               call("sample", function, args, __runtime__: [timeout: 200])

      assert {:ok, 2.0} = call("math", "sqrt", [4])
    end
  end

  test "code that ignores its interruption costs the worker its life and never the caller its answer" do
    before = pid()
    # So late that it has begun; its own end would come after that of the test.
    result = call("sample", "swallow", [600], __runtime__: [timeout: 2_000])
    assert {:error, %Error{category: :timeout}} = result

    assert eventually(fn -> match?({:ok, other} when other != before, call("os", "getpid", [])) end)
    assert {:ok, 2.0} = call("math", "sqrt", [4])
  end

  test "a caller that is killed takes its Python call along" do
    SnakeBridge.call!("sample", "take_log", [], @one)
    me = self()

    pid = spawn(fn -> call("sample", "notify_and_sleep", [fn -> send(me, :in) end, 60]) end)
    assert_receive :in
    Process.exit(pid, :kill)

    assert eventually(fn -> "cleaned" in SnakeBridge.call!("sample", "take_log", [], @one) end)
  end

  # The worker is killed after its grace period, in the background.

  test "a worker that has stopped reading, and a caller that is killed while it sends, hold up nobody else" do
    options = Application.get_env(:snakebridge, :pools)[:single] |> Keyword.put(:kill_after, 60_000)
    start_supervised!({Pool, [name: :stopped] ++ options})
    there = [pool: :stopped]
    # One call inside another, from a process of its own: two connections.
    inner = fn a, b ->
      Task.await(Task.async(fn -> SnakeBridge.call!("operator", "add", [a, b], there) end), 60_000)
    end

    assert {:ok, 3} = SnakeBridge.call("functools", "reduce", [inner, [1, 2]], there)
    [%{os_pid: os_pid}] = Pool.info(:stopped)
    {_, 0} = System.cmd("/bin/sh", ["-c", "kill -s STOP #{os_pid}"])
    much = SnakeBridge.bytes(:binary.copy(<<1>>, 20_000_000))
    not_shared = [__runtime__: [shared: false]] ++ there

    callers = for _ <- 1..2, do: spawn(fn -> SnakeBridge.call("builtins", "len", [much], not_shared) end)

    # What they sent is not read, and no answer comes.
    waits? = &match?({_, {:prim_inet, _, _}}, Process.info(&1, :current_function))
    assert eventually(fn -> Enum.all?(callers, waits?) end)
    for caller <- callers, do: Process.exit(caller, :kill)
    assert eventually(fn -> not Enum.any?(callers, &Process.alive?/1) end)
    # A process that is new has to be noted by who looks after the dead one.
    assert {:ok, 2.0} = fn -> call("math", "sqrt", [4]) end |> Task.async() |> Task.await(60_000)
    assert [%{os_pid: ^os_pid}] = Pool.info(:stopped)
  end
end
