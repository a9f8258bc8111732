defmodule SnakeBridge.CrashTest do
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.Error

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

      assert {:error, %Error{category: :worker_crash, details: %{outcome: :unknown}, message: message}} =
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
    {us, result} = :timer.tc(fn -> call("sample", "swallow", [60], __runtime__: [timeout: 200]) end)
    assert {:error, %Error{category: :timeout}} = result
    assert us < 5_000_000

    assert eventually(fn -> match?({:ok, other} when other != before, call("os", "getpid", [])) end)
    assert {:ok, 2.0} = call("math", "sqrt", [4])
  end

  test "a caller that is killed takes its Python call along" do
    SnakeBridge.call!("sample", "take_log", [], @one)
    me = self()

    pid = spawn(fn -> call("sample", "notify_and_sleep", [fn -> send(me, :in) end, 60]) end)
    assert_receive :in, 5_000
    Process.exit(pid, :kill)

    assert Enum.any?(1..300, fn _ ->
             Process.sleep(10) && "cleaned" in SnakeBridge.call!("sample", "take_log", [], @one)
           end)
  end

  # The worker is killed after its grace period, in the background.
end
