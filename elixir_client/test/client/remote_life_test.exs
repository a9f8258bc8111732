defmodule SnakeBridge.RemoteLifeTest do
  # The life of a pool whose workers others have started: drained and resumed, with and without a connection; a worker that falls silent; a place that
  # dies; a worker that has no room.
  use ExUnit.Case, async: true
  @moduletag capture_log: true

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{Error, Pool}
  alias SnakeBridge.Pool.{Seat, Slots}
  alias SnakeBridge.Test.RemoteWorker

  setup context do
    env = [{"SNAKEBRIDGE_TOKEN", RemoteWorker.token()} | Map.get(context, :env, [])]
    {:ok, worker: RemoteWorker.start("tcp:127.0.0.1:0", [], env)}
  end

  defp pool(address, options \\ []) do
    name = :"remote_life_#{System.unique_integer([:positive])}"
    workers = [[address: address, token: RemoteWorker.token()]]
    start_supervised!({Pool, [name: name, workers: workers] ++ options}, id: name)
    name
  end

  defp sqrt(pool), do: SnakeBridge.call("math", "sqrt", [16], pool: pool)
  defp where(pool), do: SnakeBridge.call!("os", "getpid", [], pool: pool)

  # A call that says that it runs, and takes so many seconds, or until it is told to go on.
  defp asleep(pool, seconds) do
    me = self()
    work = [fn -> send(me, :asleep) end, seconds]
    task = Task.async(fn -> SnakeBridge.call("sample", "notify_and_sleep", work, pool: pool) end)
    assert_receive :asleep
    task
  end

  defp held(pool) do
    me = self()
    inner = fn -> send(me, {:in, self()}) && receive(do: (:go -> :done)) end
    task = Task.async(fn -> SnakeBridge.call("sample", "apply", [inner], pool: pool) end)
    assert_receive {:in, pid}
    {task, pid}
  end

  defp refused(pool, text) do
    assert {:error, %Error{category: :unavailable, outcome: :not_started, message: message}} = sqrt(pool)
    assert message =~ text
  end

  test "a drained pool lets its worker live, refuses calls, and finds it again", %{worker: worker} do
    pool = pool(worker.address)
    {:ok, acc} = SnakeBridge.call("sample", "Acc", [1], pool: pool)
    {task, holder} = held(pool)
    drain = Task.async(fn -> Pool.drain(pool, 60_000) end)
    assert eventually(fn -> Pool.state(pool) == :draining end)
    refused(pool, "is draining")
    send(holder, :go)
    assert {:ok, :done} = Task.await(task, 60_000)
    assert {:ok, %{finished: 1, cancelled: 0, killed: 0, refused: 1}} = Task.await(drain, 60_000)
    assert Pool.state(pool) == :stopped
    assert [%{status: :stopped, running: 0}] = Pool.info(pool)
    refused(pool, "was drained")

    assert :ok = Pool.resume(pool)
    assert where(pool) == worker.pid
    assert {:ok, 2} = SnakeBridge.call(acc, :add, [1])

    # Unless another answers when the pool is resumed.
    assert {:ok, _} = Pool.drain(pool)
    RemoteWorker.kill(worker)
    ["tcp", _, port] = String.split(worker.address, ":")
    next = RemoteWorker.start("tcp:127.0.0.1:#{port}", [])
    assert :ok = Pool.resume(pool)
    assert where(pool) == next.pid
    assert {:error, %Error{category: :session_lost, message: message}} = SnakeBridge.call(acc, :add, [1])
    assert message =~ "was restarted"
  end

  test "a call that does not end in time is cancelled, its caller told", %{worker: worker} do
    pool = pool(worker.address)
    task = asleep(pool, 60)
    assert {:ok, %{finished: 0, cancelled: 1, killed: 0}} = Pool.drain(pool, 50)
    assert {:error, %Error{category: :cancelled, outcome: :unknown}} = Task.await(task, 60_000)
    assert :ok = Pool.resume(pool)
    assert where(pool) == worker.pid
  end

  test "a call that ignores that is given up: its worker is not this pool's to kill", %{worker: worker} do
    pool = pool(worker.address)
    me = self()
    work = [fn -> send(me, :in) end, 600]
    task = Task.async(fn -> SnakeBridge.call("sample", "notify_and_swallow", work, pool: pool) end)
    assert_receive :in
    assert {:ok, %{killed: 1}} = Pool.drain(pool, 500)

    assert {:error, %Error{category: :worker_crash, outcome: :unknown, message: message}} =
             Task.await(task, 60_000)

    assert message =~ "its pool was drained"
    assert :ok = Pool.resume(pool)
    assert where(pool) == worker.pid
  end

  test "a pool that was drained during an outage stays so when the worker comes back", %{worker: worker} do
    {network, address} = RemoteWorker.network(worker.address)
    pool = pool(address)
    assert {:ok, 4.0} = sqrt(pool)
    seat = Seat.name(pool, 1)
    # Between two attempts to connect.
    RemoteWorker.cut(network)
    assert eventually(fn -> :sys.get_state(seat).line == nil end)
    assert {:ok, _} = Pool.drain(pool)
    # What was to be done later has been done when this is answered.
    send(seat, :connect)
    assert %{status: :closed, line: nil} = :sys.get_state(seat)
    refused(pool, "was drained")
    assert :ok = Pool.resume(pool)
    assert where(pool) == worker.pid
  end

  test "a worker that falls silent gets no calls, and is used again when it speaks; what ran there goes on",
       %{
         worker: worker
       } do
    pool = pool(worker.address, heartbeat: [interval: 100, timeout: 3_000], start_timeout: 3_000)
    {:ok, acc} = SnakeBridge.call("sample", "Acc", [1], pool: pool)
    {task, holder} = held(pool)
    signal(worker, "STOP")
    assert eventually(fn -> hd(Pool.info(pool)).status == :failed end)
    assert {:error, %Error{category: :unavailable, outcome: :not_started}} = sqrt(pool)
    signal(worker, "CONT")
    assert eventually(fn -> match?({:ok, 4.0}, sqrt(pool)) end)
    send(holder, :go)
    assert {:ok, :done} = Task.await(task, 60_000)
    assert {:ok, 2} = SnakeBridge.call(acc, :add, [1], pool: pool)
  end

  test "a place whose process is killed leaves no row behind, and connects again", %{worker: worker} do
    pool = pool(worker.address)
    assert {:ok, 4.0} = sqrt(pool)
    task = asleep(pool, 60)
    Process.exit(Process.whereis(Seat.name(pool, 1)), :kill)
    assert {:error, %Error{category: :worker_crash, outcome: :unknown}} = Task.await(task, 60_000)
    # Until the place is there again, calls are refused.
    assert eventually(fn -> match?({:ok, 4.0}, sqrt(pool)) end)
    assert where(pool) == worker.pid
    assert [%{generation: 2}] = for(row <- Slots.workers(), row.pool == pool, do: row)
    assert {:ok, %{killed: 0}} = Pool.drain(pool, 5_000)
  end

  @tag env: [{"BRIDGE_ADAPTER_MAX_CONNECTIONS", "3"}]
  test "a worker without room says so, and the call was not begun", %{worker: worker} do
    pool = pool(worker.address)
    {first, one} = held(pool)
    {second, two} = held(pool)
    assert {:error, %Error{category: :overloaded, outcome: :not_started} = error} = sqrt(pool)
    assert error.message =~ "3 connections to this worker are open"
    assert error.retry_after_ms > 0
    for holder <- [one, two], do: send(holder, :go)
    assert [{:ok, :done}, {:ok, :done}] = Task.await_many([first, second], 60_000)
    # The sessions of the two tasks are being ended, which takes a connection each.
    assert eventually(fn -> match?({:ok, 4.0}, sqrt(pool)) end)
  end

  defp signal(%{pid: pid}, name), do: {_, 0} = System.cmd("/bin/sh", ["-c", "kill -s #{name} #{pid}"])
end
