defmodule SnakeBridge.KilledPartsTest do
  # The processes of a pool are killed one by one, at the worst moments: what it was told before, it still does afterwards, nothing looks alive that is
  # not, and other pools do not notice.
  use ExUnit.Case, async: false
  @moduletag capture_log: true

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{Error, Pool}
  alias SnakeBridge.Pool.{Lifecycle, Seat, Slots, Spares, Worker}
  alias SnakeBridge.Test.Processes

  setup context do
    name = :"killed_#{System.unique_integer([:positive])}"

    options = [
      name: name,
      size: 1,
      python: Path.expand(".venv/bin/python"),
      env: [{"PYTHONPATH", Path.expand("tests/python")}],
      breaker: false
    ]

    start_supervised!({Pool, Keyword.merge(options, Map.get(context, :options, []))}, id: name)
    assert {:ok, 4.0} = sqrt(name)
    {:ok, pool: name}
  end

  defp sqrt(pool), do: SnakeBridge.call("math", "sqrt", [16], pool: pool)

  # A call that runs until it is told to go on.
  defp held(pool) do
    me = self()

    task =
      Task.async(fn ->
        inner = fn -> send(me, {:in, self()}) && receive(do: (:go -> :done)) end
        SnakeBridge.call("sample", "apply", [inner], pool: pool)
      end)

    assert_receive {:in, pid}
    {task, pid}
  end

  # A call that runs in Python for longer than any test.
  defp asleep(pool) do
    me = self()
    work = [fn -> send(me, :asleep) end, 600]
    task = Task.async(fn -> SnakeBridge.call("sample", "notify_and_sleep", work, pool: pool) end)
    assert_receive :asleep
    task
  end

  defp kill(name) do
    pid = GenServer.whereis(name)
    monitor = Process.monitor(pid)
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, _, _, _}
    pid
  end

  # The next process under that name.
  defp next(name, before), do: assert(eventually(fn -> GenServer.whereis(name) not in [nil, before] end))

  defp lifecycle(pool), do: Module.concat(Lifecycle, pool)
  defp worker(pool), do: Enum.find(Slots.workers(), &(&1.pool == pool))

  defp refused(pool, text) do
    assert {:error, %Error{category: :unavailable, outcome: :not_started, message: message}} = sqrt(pool)
    assert message =~ text
  end

  @tag options: [spares: 1]
  test "a pool that was drained stays so, whichever of its processes is killed, and can resume", %{pool: pool} do
    assert {:ok, _} = Pool.drain(pool)

    for name <- [lifecycle(pool), Seat.name(pool, 1), Spares.name(pool)] do
      next(name, kill(name))
      assert Pool.state(pool) == :stopped
      assert [%{status: :stopped, os_pid: nil}] = Pool.info(pool)
      refused(pool, "was drained")
    end

    assert DynamicSupervisor.count_children(Worker.supervisor(pool)).active == 0
    assert {:ok, %{killed: 0}} = Pool.drain(pool)
    assert :ok = Pool.resume(pool)
    assert {:ok, 4.0} = sqrt(pool)
    assert Pool.state(pool) == :running
  end

  test "a drain whose process is killed goes on: calls that run finish, others are refused", %{pool: pool} do
    {task, holder} = held(pool)
    drain = Task.async(fn -> Pool.drain(pool, :infinity) end)
    assert eventually(fn -> Pool.state(pool) == :draining end)
    next(lifecycle(pool), kill(lifecycle(pool)))
    assert {:error, %Error{category: :unavailable, message: message}} = Task.await(drain, 60_000)
    assert message =~ "SnakeBridge.Pool.state/1"
    assert Pool.state(pool) == :draining
    refused(pool, "is draining")
    send(holder, :go)
    assert {:ok, :done} = Task.await(task, 60_000)
    assert {:ok, _} = Pool.drain(pool)
    assert Pool.state(pool) == :stopped
    assert :ok = Pool.resume(pool)
    assert {:ok, 4.0} = sqrt(pool)
  end

  @tag options: [max_connections: 1]
  test "a worker whose process in Elixir is killed leaves no row, no Python process, and nobody who waits", %{
    pool: pool
  } do
    running = asleep(pool)
    waiting = Task.async(fn -> sqrt(pool) end)
    worker = worker(pool)
    assert eventually(fn -> hd(Pool.info(pool)).queue == 1 end)
    kill(worker.pid)
    assert {:error, %Error{category: :worker_crash, outcome: :unknown}} = Task.await(running, 60_000)
    # It had not begun, and was made again.
    assert {:ok, 4.0} = Task.await(waiting, 60_000)
    assert eventually(fn -> not Processes.running?(worker.os_pid) end)
    assert [%{generation: 2}] = for(row <- Slots.workers(), row.pool == pool, do: row)
    assert {:ok, %{killed: 0, cancelled: 0}} = Pool.drain(pool, 5_000)
  end

  test "a session that was left in a process goes on when the process in Elixir that kept it is killed", %{
    pool: pool
  } do
    {:ok, acc} = SnakeBridge.call("sample", "Acc", [1], pool: pool)
    before = worker(pool)
    assert :ok = Pool.restart(pool)
    assert {:ok, 2} = SnakeBridge.call(acc, :add, [1], pool: pool)
    assert [%{leaving: [_]}] = Pool.info(pool)
    kill(before.pid)
    assert eventually(fn -> match?([%{leaving: []}], Pool.info(pool)) end)
    assert {:error, %Error{category: :session_lost}} = SnakeBridge.call(acc, :add, [1], pool: pool)
    assert {:ok, 4.0} = sqrt(pool)
  end

  test "a pool whose supervisor is killed in the middle of calls is there again, and the others stay" do
    name = :"killed_#{System.unique_integer([:positive])}"
    python = [python: Path.expand(".venv/bin/python"), env: [{"PYTHONPATH", Path.expand("tests/python")}]]
    all = Process.whereis(SnakeBridge.Pools)
    {:ok, pid} = DynamicSupervisor.start_child(SnakeBridge.Pools, {Pool, [name: name, size: 2] ++ python})

    for _ <- 1..2 do
      task = asleep(name)
      pids = for %{os_pid: os_pid} when os_pid != nil <- Pool.info(name), do: os_pid
      before = kill(Pool.whereis(name))
      assert {:error, %Error{category: :worker_crash, outcome: :unknown}} = Task.await(task, 60_000)
      assert eventually(fn -> Pool.whereis(name) not in [nil, before] end)
      assert {:ok, 4.0} = sqrt(name)
      assert eventually(fn -> not Enum.any?(pids, &Processes.running?/1) end)
    end

    assert Process.whereis(SnakeBridge.Pools) == all
    refute Process.alive?(pid)
    :ok = DynamicSupervisor.terminate_child(SnakeBridge.Pools, Pool.whereis(name))
    assert Pool.state(name) == :stopped
  end

  @tag options: [size: 2]
  test "a restart whose old process dies meanwhile ends when the new one takes calls", %{pool: pool} do
    assert eventually(fn -> Enum.all?(Pool.info(pool), &(&1.status == :ready)) end)
    before = Pool.info(pool)
    restart = Task.async(fn -> Pool.restart(pool) end)
    assert eventually(fn -> :sys.get_state(Seat.name(pool, 1)).next != nil end)
    for %{os_pid: os_pid} <- before, do: Processes.kill(os_pid)
    assert :ok = Task.await(restart, 60_000)
    after_all = Pool.info(pool)
    assert Enum.all?(after_all, &(&1.status == :ready))
    assert Enum.all?(after_all, &(&1.os_pid not in Enum.map(before, fn %{os_pid: os_pid} -> os_pid end)))
  end

  test "options that no process could start with are refused where the pool is made" do
    for options <- [[max_connections: 0], [start_timeout: -1], [kill_after: "5 s"]] do
      assert {:error, {%ArgumentError{message: message}, _}} =
               start_supervised({Pool, [name: :wrong] ++ options}) |> reason()

      assert message =~ "it must be an integer of at least"
    end
  end

  defp reason({:error, {{:EXIT, why}, _}}), do: {:error, why}
  defp reason({:error, {why, _}}), do: {:error, why}
end
