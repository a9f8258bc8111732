# What callers see when a worker is killed with -9 while it is idle and while it is busy, when a pool restarts and drains under load, and when
# one session floods its worker.
Code.require_file("row.exs", __DIR__)

defmodule Load do
  @moduledoc "Callers that make idempotent calls until they are stopped, and count them."

  @doc "Runs `work` with that many callers beside it; calls made, and errors among them, while it ran."
  def beside(pool, callers, work, seconds_each \\ 0.002) do
    counts = :counters.new(2, [])
    stop = :atomics.new(1, [])
    tasks = for _ <- 1..callers, do: Task.async(fn -> loop(pool, counts, stop, seconds_each) end)
    await(counts, callers)
    before = :counters.get(counts, 1)
    started = System.monotonic_time(:microsecond)
    result = work.()
    seconds = (System.monotonic_time(:microsecond) - started) / 1.0e6
    made = :counters.get(counts, 1) - before
    :atomics.put(stop, 1, 1)
    Task.await_many(tasks, 60_000)
    %{result: result, made: made, failed: :counters.get(counts, 2), per_second: made / seconds}
  end

  # Until all of them are at it.
  defp await(counts, callers) do
    unless :counters.get(counts, 1) >= callers do
      Process.sleep(5)
      await(counts, callers)
    end
  end

  defp loop(pool, counts, stop, seconds) do
    case SnakeBridge.call("time", "sleep", [seconds], pool: pool, idempotent: true) do
      {:ok, nil} -> :counters.add(counts, 1, 1)
      {:error, _} -> :counters.add(counts, 2, 1)
    end

    if :atomics.get(stop, 1) == 0, do: loop(pool, counts, stop, seconds)
  end
end

Logger.configure(level: :critical)
kills = 30
# A worker that dies younger than this is started again later and later.
healthy = 1_100

start = fn name, options ->
  {:ok, pid} = SnakeBridge.Pool.start_link([name: name] ++ options)
  {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: name)
  pid
end

stop = fn pid ->
  Process.unlink(pid)
  Supervisor.stop(pid)
end

# Kills one worker of a pool; milliseconds until a call made then is answered.
kill = fn pool ->
  Process.sleep(healthy)

  os_pid =
    pool |> SnakeBridge.Pool.info() |> Enum.map(& &1.os_pid) |> Enum.filter(&is_integer/1) |> Enum.random()

  started = System.monotonic_time(:microsecond)
  {_, 0} = System.cmd("/bin/sh", ["-c", "kill -s KILL #{os_pid}"])
  {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: pool, idempotent: true)
  (System.monotonic_time(:microsecond) - started) / 1_000
end

recovery = fn id, durations ->
  sorted = Enum.sort(durations)
  n = length(sorted)
  at = fn share -> Enum.at(sorted, min(n - 1, trunc(n * share))) end
  Bench.row("#{id}_ms", at.(0.5), "ms", n)
  Bench.row("#{id}_p95_ms", at.(0.95), "ms", n)
end

# --- kill -9 ---

pid = start.(:recovery, size: 1, spares: 1)
recovery.("recovery", for(_ <- 1..kills, do: kill.(:recovery)))
busy = Load.beside(:recovery, 4, fn -> for _ <- 1..kills, do: kill.(:recovery) end)
recovery.("recovery_busy", busy.result)
stop.(pid)

# Of two workers, so that there is always one to go on.
pid = start.(:failed, size: 2, spares: 1)
loaded = Load.beside(:failed, 8, fn -> for _ <- 1..kills, do: kill.(:failed) end)
Bench.row("failed_calls", loaded.failed / kills, "per kill", loaded.made)
stop.(pid)

# --- restart and drain under load ---

if function_exported?(SnakeBridge.Pool, :restart, 2) do
  pid = start.(:rolling, size: 2, spares: 1)
  # In turns, so that whatever else the machine does meets both alike.
  rounds =
    for _ <- 1..5 do
      normal = Load.beside(:rolling, 8, fn -> Process.sleep(1_500) end)
      rolling = Load.beside(:rolling, 8, fn -> :ok = SnakeBridge.Pool.restart(:rolling, []) end)
      {rolling.per_second / normal.per_second, rolling}
    end

  {ratio, _} = rounds |> Enum.sort() |> Enum.at(2)
  made = rounds |> Enum.map(fn {_, rolling} -> rolling.made end) |> Enum.sum()
  failed = rounds |> Enum.map(fn {_, rolling} -> rolling.failed end) |> Enum.sum()
  Bench.row("rolling_restart_ratio", ratio, "x", made, nil, nil, nil, "calls/s without a restart")
  Bench.row("rolling_restart_failed", failed, "calls", made)

  {:ok, %{duration_ms: drained}} =
    Load.beside(:rolling, 8, fn -> SnakeBridge.Pool.drain(:rolling, 10_000) end, 0.05).result

  Bench.row("drain_ms", drained, "ms", 1)
  stop.(pid)
end

# --- one session floods ---

pid = start.(:fair, size: 1)

quiet = fn ->
  1..4
  |> Enum.map(fn _ ->
    Task.async(fn ->
      for _ <- 1..400 do
        Process.sleep(2)
        [us] = Bench.each(1, fn -> {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: :fair) end)
        us
      end
    end)
  end)
  |> Task.await_many(120_000)
  |> List.flatten()
  |> Enum.sort()
  |> then(&Enum.at(&1, div(length(&1), 2)))
end

flood = fn work ->
  {:ok, session} = SnakeBridge.create_session()

  callers =
    for _ <- 1..16 do
      spawn_link(fn ->
        SnakeBridge.in_session(session, fn ->
          Stream.repeatedly(fn -> SnakeBridge.call("time", "sleep", [0.001], pool: :fair) end) |> Stream.run()
        end)
      end)
    end

  result = work.()

  for caller <- callers do
    Process.unlink(caller)
    Process.exit(caller, :kill)
  end

  result
end

quiet.()
alone = quiet.()
beside = flood.(quiet)

Bench.row(
  "fairness_ratio",
  beside / alone,
  "x",
  1_600,
  beside,
  nil,
  nil,
  "the same calls without a session that floods"
)

stop.(pid)
