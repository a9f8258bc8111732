defmodule SnakeBridge.Flow.Live do
  @moduledoc """
  The runs that processes of this node wait for, from the request to the answer, and how they are cancelled. A worker knows of a run only while it has
  it; one that waits for its worker, or moves to the next because its worker has died, is known only here.
  """
  alias SnakeBridge.Flow.Workers
  alias SnakeBridge.RuntimeClient

  # Milliseconds until the workers are asked again: at first, and at most.
  @pause 20
  @longest_pause 500
  # Until the second of two notices of one death has come.
  @notice 100

  @typedoc "The name of one request of a run: two requests may be about one run, the second maybe after the first is over."
  @type call :: String.t()

  @doc "What `work` returns; meanwhile the run is known here."
  @spec within(String.t(), atom() | nil, (call() -> result)) :: result when result: var
  def within(run_id, pool, work) do
    {_, call} = known = enter(run_id, pool)

    try do
      work.(call)
    after
      leave(run_id, known)
    end
  end

  @doc "The same in a task that is linked to this process; when this returns, the run is known."
  @spec start(String.t(), atom() | nil, (call() -> term())) :: Task.t()
  def start(run_id, pool, work) do
    {caller, begun} = {self(), make_ref()}

    task =
      Task.async(fn ->
        within(run_id, pool, fn call ->
          send(caller, begun)
          work.(call)
        end)
      end)

    watch = Process.monitor(task.pid)

    receive do
      ^begun -> :ok
      {:DOWN, ^watch, _, _, _} -> :ok
    end

    Process.demonitor(watch, [:flush])
    task
  end

  @doc "As `Task.yield/2`; `:taken` for a task whose answer this process has got already, for which that would wait until its timeout."
  @spec yield(Task.t(), timeout()) :: {:ok, term()} | {:exit, term()} | :taken | nil
  def yield(%Task{ref: ref, pid: pid} = task, timeout) do
    # Another process than the owner of the task is told so.
    with nil <- Task.yield(task, 0) do
      watch = Process.monitor(pid)

      found =
        receive do
          {^ref, answer} -> {:ok, answer}
          {:DOWN, ^ref, _, _, reason} -> {:exit, reason}
          # What it has sent is here by now, but for the other notice of its death.
          {:DOWN, ^watch, _, _, _} -> Task.yield(task, @notice) || :taken
        after
          # The notice of a death that was long ago takes a moment, too.
          timeout -> if Process.alive?(pid), do: nil, else: Task.yield(task, @notice) || :taken
        end

      Process.demonitor(watch, [:flush])
      if match?({:ok, _}, found), do: Process.demonitor(ref, [:flush])
      found
    end
  end

  @doc "A stream of a run, which is known here while it is read."
  @spec during(String.t(), atom() | nil, (call() -> Enumerable.t())) :: Enumerable.t()
  def during(run_id, pool, stream) do
    Stream.resource(
      fn -> {:opened, enter(run_id, pool)} end,
      fn
        {:opened, {_, call} = known} -> {stream.(call), {:read, known}}
        {:read, _} = read -> {:halt, read}
      end,
      fn {_, known} -> leave(run_id, known) end
    )
  end

  @doc """
  Ends a run in whichever worker of the pool has it (of all pools for nil); true if there was such a run. Of one that is known here it is remembered: the
  workers are asked until the run is over.
  """
  @spec cancel(String.t(), atom() | nil) :: {:ok, boolean()} | {:error, term()}
  def cancel(run_id, pool) do
    waiting = known(run_id, pool)
    asked = ask(pool, %{"run_id" => run_id})
    client = RuntimeClient.current()

    # Also where a worker has it: that worker may die before its block is over.
    for {_, call} <- waiting, call in calls(run_id) do
      Task.Supervisor.start_child(SnakeBridge.Tasks, fn ->
        RuntimeClient.with_client(client, fn -> insist(run_id, pool, call, @pause) end)
      end)
    end

    if waiting == [], do: asked, else: {:ok, true}
  end

  # With the name of the call: the next one of this run is not meant.
  defp insist(run_id, pool, call, pause) do
    Process.sleep(pause)

    if call in calls(run_id) do
      # A pool that cannot answer now is asked again.
      _ = ask(pool, %{"run_id" => run_id, "call" => call})
      insist(run_id, pool, call, min(2 * pause, @longest_pause))
    end
  end

  defp ask(pool, fields) do
    with {:ok, answers} <- Workers.ask(pool, "flow.cancel", fields),
         do: {:ok, Enum.any?(answers, & &1["cancelled"])}
  end

  defp enter(run_id, pool) do
    known = {pool || :default, Base.encode16(:crypto.strong_rand_bytes(8), case: :lower)}
    if_running(fn -> Registry.register(__MODULE__, run_id, known) end)
    known
  end

  defp leave(run_id, known), do: if_running(fn -> Registry.unregister_match(__MODULE__, run_id, known) end)

  defp known(run_id, asked) do
    found = if_running(fn -> Registry.lookup(__MODULE__, run_id) end)
    for {_, {pool, _} = known} <- found, asked in [nil, pool], do: known
  end

  # Where the application is stopped the request says so.
  defp if_running(work) do
    work.()
  rescue
    ArgumentError -> []
  end

  defp calls(run_id), do: for({_, call} <- known(run_id, nil), do: call)
end
