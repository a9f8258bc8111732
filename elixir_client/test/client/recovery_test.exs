defmodule SnakeBridge.RecoveryTest do
  # What goes wrong leaves connections, sessions and waiting callers in order.
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually

  @moduletag capture_log: true

  alias SnakeBridge.{Error, Pool, Pool.Slots, Telemetry}

  setup context do
    name = :"recovery_#{System.unique_integer([:positive])}"
    {:ok, name: name, pool: start(name, Map.get(context, :options, []))}
  end

  defp start(name, options) do
    env = [{"PYTHONPATH", Path.expand("tests/python")}]

    defaults = [
      name: name,
      size: 1,
      python: Path.expand(".venv/bin/python"),
      env: env,
      policy: [allow: ["builtins.eval"]]
    ]

    start_supervised!({Pool, Keyword.merge(defaults, options)})
    name
  end

  defp sample(pool, function, args, runtime \\ []),
    do: SnakeBridge.call("sample", function, args, pool: pool, __runtime__: runtime)

  defp worker(pool) do
    [{_, :ready, worker}] = :ets.lookup(:snakebridge_workers, {pool, 1})
    worker
  end

  test "a stream that failed gives its connection back once", %{pool: pool} do
    for _ <- 1..3 do
      assert_raise Error, ~r/boom mid-stream/, fn ->
        SnakeBridge.stream("sample", "gen_error", [3], pool: pool) |> Enum.to_list()
      end

      # Every connection that is open and not in use can be taken.
      assert {:ok, 1} = sample(pool, "identity", [1])
      worker = worker(pool)
      assert Slots.census(worker.slots).held == 0
    end
  end

  @tag options: [max_connections: 1, kill_after: 60_000]
  test "a caller that waits for a connection gets the place of one that was given up", %{pool: pool} do
    me = self()
    assert {:ok, 0} = sample(pool, "identity", [0])

    holder = spawn(fn -> sample(pool, "notify_and_sleep", [fn -> send(me, :in) end, 600]) end)

    assert_receive :in
    waiter = Task.async(fn -> sample(pool, "identity", [1]) end)
    assert eventually(fn -> :atomics.get(worker(pool).counts, 2) == 1 end)
    Process.exit(holder, :kill)
    assert {:ok, 1} = Task.await(waiter, 60_000)
    # The worker tells the waiter first and counts then.
    assert eventually(fn -> :atomics.get(worker(pool).counts, 2) == 0 end)
  end

  @tag options: [max_connections: 1]
  test "callers that die or give up while they wait keep nobody else waiting", %{pool: pool} do
    me = self()

    spawn(fn ->
      sample(pool, "apply", [
        fn ->
          send(me, {:in, self()})
          receive do: (:go -> 1)
        end
      ])
    end)

    assert_receive {:in, holder}
    killed = for _ <- 1..5, do: spawn(fn -> sample(pool, "identity", [1]) end)
    assert eventually(fn -> :atomics.get(worker(pool).counts, 2) == 5 end)
    assert {:error, %Error{category: :timeout}} = sample(pool, "identity", [2], timeout: 50)
    waiter = Task.async(fn -> sample(pool, "identity", [3]) end)
    assert eventually(fn -> :atomics.get(worker(pool).counts, 2) == 6 end)
    Enum.each(killed, &Process.exit(&1, :kill))
    send(holder, :go)
    assert {:ok, 3} = Task.await(waiter, 60_000)
    assert eventually(fn -> :atomics.get(worker(pool).counts, 2) == 0 end)
  end

  test "sessions of a pool that was stopped are lost, not stuck, also when it comes back smaller", %{
    name: name
  } do
    :ok = stop_supervised({Pool, name})
    start(name, size: 3)

    refs =
      for _ <- 1..6 do
        {:ok, session} = SnakeBridge.create_session()
        {:ok, ref} = SnakeBridge.in_session(session, fn -> sample(name, "Acc", [1]) end)
        ref
      end

    :ok = stop_supervised({Pool, name})
    start(name, size: 1)

    for ref <- refs do
      assert {:error, %Error{category: category}} = SnakeBridge.call(ref, :add, [1])
      assert category in [:session_lost, :unknown_ref]
    end
  end

  test "a context manager is left however its block ends", %{pool: pool} do
    require SnakeBridge
    {:ok, lock} = SnakeBridge.call("threading", "Lock", [], pool: pool)
    assert :ball == catch_throw(SnakeBridge.with_python(lock, fn _ -> throw(:ball) end))
    assert :gone == catch_exit(SnakeBridge.with_python(lock, fn _ -> exit(:gone) end))
    assert {:ok, false} = SnakeBridge.call_method(lock, :locked)

    {:ok, suppress} =
      SnakeBridge.call("contextlib", "suppress", [SnakeBridge.get!("builtins", "RuntimeError", pool: pool)],
        pool: pool
      )

    assert {:suppressed, %ArgumentError{message: "mine"}} =
             SnakeBridge.with_python(suppress, fn _ -> raise ArgumentError, "mine" end)

    {:ok, lock} = SnakeBridge.call("threading", "Lock", [], pool: pool)

    # The context manager died with its worker: what is raised is the crash, not that it cannot be left.
    error =
      assert_raise Error, fn ->
        SnakeBridge.with_python(lock, fn _ -> SnakeBridge.call!("os", "_exit", [3], pool: pool) end)
      end

    assert error.category == :worker_crash
  end

  test "iterating over a ref leaves no iterator behind", %{pool: pool} do
    {:ok, deque} = SnakeBridge.call("collections", "deque", [[1, 2, 3]], pool: pool)
    refs = fn -> stats(pool)["refs"] end
    before = refs.()
    assert [1, 2, 3] = Enum.to_list(deque)
    assert [1] = Enum.take(deque, 1)
    assert [{1, 1}, {2, 2}] = Enum.zip(deque, [1, 2])
    assert catch_throw(Enum.each(deque, fn _ -> throw(:left) end)) == :left
    assert eventually(fn -> refs.() == before end)
  end

  defp stats(pool) do
    worker = worker(pool)
    {:ok, control} = SnakeBridge.Pool.Control.start_link(worker)
    SnakeBridge.Pool.Control.ask_stats(control, self(), :test)
    assert_receive {:stats, _, :test, {:ok, stats}}
    Process.unlink(control)
    Process.exit(control, :kill)
    stats
  end

  test "a call from inside a callback does not take the enclosing call's times", %{pool: pool} do
    Telemetry.attach(
      :recovery,
      [:snakebridge, :call, :stop],
      fn _, times, %{function: f}, to -> send(to, {f, times}) end,
      self()
    )

    on_exit(fn -> Telemetry.detach(:recovery) end)
    big = Enum.to_list(1..200_000)

    assert {:ok, 1} = sample(pool, "apply", [fn _ -> elem(sample(pool, "identity", [1]), 1) end, big])
    assert_received {"identity", %{encode_time: inner}}
    assert_received {"apply", %{encode_time: outer}}
    assert outer > inner
  end

  test "output that is no text is logged as text and reaches the last words", %{pool: pool} do
    code = "__import__('os').write(1, bytes([255, 254, 10])) and __import__('os')._exit(7)"

    assert {:error, %Error{category: :worker_crash, message: message}} =
             SnakeBridge.call("builtins", "eval", [code], pool: pool)

    assert String.valid?(message)
    assert message =~ "status 7"
  end

  test "a timeout that is none is refused with the rule", %{pool: pool} do
    assert_raise ArgumentError, ~r/milliseconds >= 0 or :infinity, not -1/, fn ->
      sample(pool, "identity", [1], timeout: -1)
    end

    assert {:ok, 1} = sample(pool, "identity", [1], timeout: :infinity)
  end
end
