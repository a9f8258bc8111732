defmodule SnakeBridge.DrainTest do
  use ExUnit.Case, async: false
  @moduletag capture_log: true

  import SnakeBridge.Test.Eventually
  import SnakeBridge.Test.OwnPool

  alias SnakeBridge.{Error, Pool, Telemetry}

  setup context do
    {:ok, pool: start_pool("drain", Map.get(context, :options, []))}
  end

  defp sample(pool, function, arguments, opts \\ []),
    do: SnakeBridge.call("sample", function, arguments, [pool: pool] ++ opts)

  # A call that runs until it is told to go on, and says when it has begun.
  defp held(pool, function) do
    me = self()

    task =
      Task.async(fn ->
        sample(pool, "apply", [
          fn ->
            send(me, {:in, self()})
            receive(do: ({:go, from} -> send(from, {:did, function.()})))
            :done
          end
        ])
      end)

    assert_receive {:in, pid}
    {task, pid}
  end

  @tag options: [size: 2]
  test "what runs finishes, with all that it calls, what comes is refused, and the pool can start again", %{
    pool: pool
  } do
    me = self()

    Telemetry.attach_many(
      pool,
      [[:snakebridge, :pool, :drain, :stop]],
      fn _, measured, _, _ -> send(me, measured) end,
      nil
    )

    {:ok, elsewhere} = SnakeBridge.create_session()

    inner = fn ->
      # On this worker, and on whichever gets a new session; from here, and from a task.
      here = sample(pool, "identity", [1])
      there = SnakeBridge.in_session(elsewhere, fn -> sample(pool, "identity", [2]) end)
      task = Task.await(Task.async(fn -> sample(pool, "identity", [3]) end), 60_000)
      {here, there, task}
    end

    {task, holder} = held(pool, inner)
    lazily = SnakeBridge.stream("sample", "gen", [1_500], pool: pool)

    reader =
      Task.async(fn ->
        Enum.reduce(lazily, 0, fn item, sum ->
          if item == 0, do: send(me, {:streaming, self()}) && receive(do: (:go -> :ok))
          sum + 1
        end)
      end)

    assert_receive {:streaming, streaming}
    drain = Task.async(fn -> Pool.drain(pool, 60_000) end)
    assert eventually(fn -> Pool.state(pool) == :draining end)

    assert {:error, %Error{category: :unavailable, outcome: :not_started} = error} =
             sample(pool, "identity", [0])

    assert error.retry_after_ms in 100..60_000
    assert Exception.message(error) =~ "draining"
    send(holder, {:go, me})
    assert_receive {:did, {{:ok, 1}, {:ok, 2}, {:ok, 3}}}
    assert {:ok, :done} = Task.await(task, 60_000)
    assert Pool.state(pool) == :draining
    send(streaming, :go)
    assert Task.await(reader, 60_000) == 1_500
    assert {:ok, %{finished: 2, cancelled: 0, killed: 0, refused: 1} = report} = Task.await(drain, 60_000)
    assert_receive ^report
    Telemetry.detach(pool)

    assert Pool.state(pool) == :stopped
    assert {:error, %Error{category: :unavailable, message: message}} = sample(pool, "identity", [0])
    assert message =~ "resume"
    assert {:ok, ^report} = Pool.drain(pool)
    assert :ok = Pool.resume(pool)
    assert {:ok, 4} = sample(pool, "identity", [4])
    assert Pool.state(pool) == :running
  end

  test "after its time the rest is cancelled, and what ignores that is killed", %{pool: pool} do
    {:ok, 0} = sample(pool, "identity", [0])
    me = self()
    obeys = Task.async(fn -> sample(pool, "notify_and_sleep", [fn -> send(me, :in) end, 600]) end)
    assert_receive :in
    assert {:ok, %{finished: 0, cancelled: 1, killed: 0}} = Pool.drain(pool, 50)
    assert {:error, %Error{category: :cancelled}} = Task.await(obeys, 60_000)

    :ok = Pool.resume(pool)
    {:ok, 0} = sample(pool, "identity", [0])
    ignores = Task.async(fn -> sample(pool, "notify_and_swallow", [fn -> send(me, :in) end, 600]) end)
    assert_receive :in
    assert {:ok, %{cancelled: 0, killed: 1}} = Pool.drain(pool, 50)
    assert {:error, %Error{category: :worker_crash, outcome: :unknown}} = Task.await(ignores, 60_000)
  end

  @tag options: [shutdown: 60_000]
  test "a supervisor that stops its pool lets calls finish", %{pool: pool} do
    {task, holder} = held(pool, fn -> :ok end)
    stop = Task.async(fn -> Supervisor.stop(Pool.whereis(pool), :shutdown) end)
    assert eventually(fn -> Pool.state(pool) == :draining end)
    send(holder, {:go, self()})
    assert {:ok, :done} = Task.await(task, 60_000)
    assert :ok = Task.await(stop, 60_000)
  end
end
