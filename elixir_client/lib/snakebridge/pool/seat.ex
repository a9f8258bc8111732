defmodule SnakeBridge.Pool.Seat do
  @moduledoc """
  One place of a pool, and which Python process has it: the first, the next when that dies, the one that replaces it on purpose. A replacement starts
  first; then new sessions go there, and the old process stays until nothing needs it.

  Each process that takes the place is a generation. The first death of a process that was in order is followed by the next at once, others after
  growing pauses.
  """
  use GenServer

  require Logger

  alias SnakeBridge.{Breaker, CallbackRegistry, Error, Telemetry}
  alias SnakeBridge.Pool.{Death, Lifecycle, Placement, Recycling, Slots, Spares, Worker}

  @backoff_first 100
  @backoff_last 5_000
  # A worker that lived this long did not die of its start.
  @healthy_after 1_000
  @look_every 1_000
  # How long a process that is left has to say that it knows.
  @patience 2_000

  def start_link({pool, index, options}),
    do: GenServer.start_link(__MODULE__, {pool, index, options}, name: name(pool, index))

  @doc false
  def name(pool, index), do: Module.concat([__MODULE__, pool, Integer.to_string(index)])

  @doc "The error of a call that comes to a place that is closed."
  @spec closed(atom()) :: Error.t()
  def closed(pool) do
    text = "the pool #{inspect(pool)} was drained; SnakeBridge.Pool.resume/1 starts it again"
    Error.new(:unavailable, text, %{outcome: :not_started})
  end

  # --- the process ---

  @impl true
  def init({pool, index, options}) do
    Process.flag(:trap_exit, true)
    # Sessions of an earlier life of this pool.
    Placement.mark_lost(pool, index, :_, "its pool was restarted")
    Placement.drop_worker(pool, index)
    # Of an earlier life of this process, which has crashed: theirs still end.
    earlier = for %{pool: ^pool, index: ^index, generation: generation} <- Slots.workers(), do: generation
    Slots.forget(pool, index)
    CallbackRegistry.forget({pool, index, :_})
    if options[:recycle], do: :timer.send_interval(@look_every, :look)

    state = %{
      pool: pool,
      index: index,
      options: options,
      # the process that has the place, or will; :starting, :ready, :resting, {:failed, error}, :closed
      status: :starting,
      pid: nil,
      worker: nil,
      generation: Enum.max(earlier, fn -> 0 end),
      # a process that will replace it, and who waits for that
      next: nil,
      # processes that have been replaced
      left: %{},
      # those of them that do not know it yet, and who waits for that
      taking_over: %{},
      waiting: [],
      backoff: @backoff_first,
      limits: nil
    }

    if Lifecycle.closed?(pool) do
      Placement.put_worker(pool, index, :stopped, %{})
      {:ok, %{state | status: :closed}}
    else
      {:ok, state, {:continue, :start}}
    end
  end

  @impl true
  def handle_continue(:start, state), do: {:noreply, start(state)}

  # --- starting ---

  defp start(state) do
    Placement.put_worker(state.pool, state.index, :starting, %{})

    case spare(state) do
      nil ->
        case launch(state) do
          {:ok, pid} -> %{state | status: :starting, pid: pid}
          {:error, reason} -> failed(state, "its process cannot be started: #{inspect(reason, limit: 10)}")
        end

      pid ->
        seat(%{state | pid: pid}, pid)
    end
  end

  defp launch(state) do
    with {:ok, pid} <- Worker.start(state.pool, state.options, self()) do
      Process.monitor(pid)
      {:ok, pid}
    end
  end

  defp spare(state) do
    with true <- Keyword.get(state.options, :spares, 0) > 0,
         pid when is_pid(pid) <- Spares.take(state.pool) do
      Process.monitor(pid)
      pid
    else
      _ -> nil
    end
  end

  # The place belongs to this ready process from now on.
  defp seat(state, pid) do
    generation = state.generation + 1

    case Worker.seat(pid, state.index, generation) do
      {:ok, worker} ->
        :atomics.put(worker.counts, 3, Placement.placed_on(state.pool, state.index))
        if state.worker, do: Placement.put_leaving(state.worker)
        Placement.put_worker(state.pool, state.index, Lifecycle.status(state.pool), worker)
        for from <- state.waiting, do: GenServer.reply(from, {:ok, worker})
        limits = Recycling.limits(state.options[:recycle])

        %{
          state
          | status: :ready,
            pid: pid,
            worker: worker,
            generation: generation,
            waiting: [],
            limits: limits
        }

      {:error, error} ->
        # Nobody else knows of it: it may be a spare, or answer too late.
        stop(state, pid)
        failed(%{state | generation: generation}, Exception.message(error))
    end
  end

  # It never became ready: whoever waits hears why, and the next try comes later.
  defp failed(state, text) do
    Logger.error("SnakeBridge: a worker of the pool #{inspect(state.pool)} cannot start: #{text}")
    Placement.put_worker(state.pool, state.index, :failed, %{})
    Breaker.worker_failed(state.pool, state.index)
    error = Error.new(:worker_start, text, %{outcome: :not_started})
    for from <- state.waiting, do: GenServer.reply(from, {:error, error})
    rest(%{state | status: {:failed, error}, waiting: []})
  end

  defp rest(state) do
    Process.send_after(self(), {:start, state.generation}, state.backoff)
    %{state | backoff: min(2 * state.backoff, @backoff_last), pid: nil, worker: nil}
  end

  # --- for callers ---

  @impl true
  def handle_call(:await, from, %{status: :ready} = state) do
    # Its end may be known to the caller before it is known here.
    if Slots.alive?(state.worker.slots),
      do: {:reply, {:ok, state.worker}, state},
      else: {:noreply, %{state | waiting: [from | state.waiting]}}
  end

  def handle_call(:await, _from, %{status: {:failed, error}} = state), do: {:reply, {:error, error}, state}

  def handle_call(:await, _from, %{status: :closed} = state),
    do: {:reply, {:error, Lifecycle.refusal(state.pool) || closed(state.pool)}, state}

  def handle_call(:await, from, state), do: {:noreply, %{state | waiting: [from | state.waiting]}}

  def handle_call({:replace, _}, from, %{next: %{}} = state),
    do: {:noreply, update_in(state.next.from, &[from | &1])}

  def handle_call({:replace, options}, from, %{status: :ready} = state),
    do: {:noreply, replace(state, options, [from])}

  def handle_call({:replace, _}, _from, %{status: :closed} = state),
    do: {:reply, {:error, closed(state.pool)}, state}

  # A new process is on its way in any case.
  def handle_call({:replace, _}, from, %{status: :starting} = state),
    do: {:noreply, %{state | waiting: [from | state.waiting]}}

  def handle_call({:replace, _}, from, state),
    do: {:noreply, start(%{state | waiting: [from | state.waiting]})}

  def handle_call(:close, _from, state) do
    for pid <- [state.pid, state.next && state.next.pid | Map.keys(state.left)],
        is_pid(pid),
        do: stop(state, pid)

    if state.next, do: answer(state.next, {:error, closed(state.pool)})
    state = state.taking_over |> Map.keys() |> Enum.reduce(state, &taken_over(&2, &1))
    for from <- state.waiting, do: GenServer.reply(from, {:error, closed(state.pool)})
    Placement.mark_lost(state.pool, state.index, :_, "its pool was drained")
    Placement.drop_worker(state.pool, state.index)
    Placement.put_worker(state.pool, state.index, :stopped, %{})
    {:reply, :ok, %{state | status: :closed, pid: nil, worker: nil, next: nil, left: %{}, waiting: []}}
  end

  def handle_call(:open, _from, %{status: :closed} = state), do: {:reply, :ok, start(state)}
  def handle_call(:open, _from, state), do: {:reply, :ok, state}

  defp stop(state, pid) do
    DynamicSupervisor.terminate_child(Worker.supervisor(state.pool), pid)
  catch
    :exit, _ -> :ok
  end

  # --- what becomes of processes ---

  @impl true
  def handle_info({:worker, pid, event}, state), do: {:noreply, heard(event, pid, state)}
  def handle_info({:DOWN, _, :process, pid, reason}, state), do: {:noreply, ended(pid, reason, state)}

  def handle_info({:start, generation}, %{generation: generation, pid: nil, status: status} = state)
      when status != :closed,
      do: {:noreply, start(state)}

  # What a session still has there is given up.
  def handle_info({:overdue, pid}, state) when is_map_key(state.left, pid),
    do: {:noreply, give_up(state, pid)}

  # A call that holds Python's interpreter lock keeps it from hearing that it is left.
  def handle_info({:taken_over, pid}, state), do: {:noreply, taken_over(state, pid)}

  def handle_info(:look, state) do
    {:noreply, if(why = Recycling.due(state), do: recycle(state, why), else: state)}
  end

  def handle_info(_, state), do: {:noreply, state}

  defp recycle(state, why) do
    options = [spare: true, why: why] ++ Keyword.take(state.options[:recycle], [:sessions, :max_wait])
    replace(state, options, [])
  end

  defp heard(:ready, pid, %{pid: pid} = state), do: seat(state, pid)
  defp heard(:ready, pid, %{next: %{pid: pid}} = state), do: switch(state)

  defp heard({:failed, text}, pid, %{pid: pid} = state),
    do: failed(%{state | generation: state.generation + 1}, text)

  defp heard({:failed, text}, pid, %{next: %{pid: pid}} = state) do
    Logger.error("SnakeBridge: a worker of the pool #{inspect(state.pool)} cannot be replaced: #{text}")
    answer(state.next, {:error, Error.new(:worker_start, "#{text} (the old process goes on)")})
    %{state | next: nil}
  end

  defp heard({:died, death}, pid, %{pid: pid, next: %{} = next} = state) do
    count(death, state)
    # What was to replace it, does; who waits for that waits on.
    Placement.put_worker(state.pool, state.index, :starting, %{})
    waiting = next.from ++ state.waiting
    %{state | status: :starting, pid: next.pid, worker: nil, next: nil, waiting: waiting}
  end

  # Between its start and its first call.
  defp heard({:died, death}, pid, %{pid: pid, worker: nil} = state), do: failed(state, death.text)

  defp heard({:died, death}, pid, %{pid: pid} = state) do
    count(death, state)
    age = System.monotonic_time(:millisecond) - state.worker.since

    if age > @healthy_after,
      do: start(%{state | status: :starting, pid: nil, worker: nil, backoff: @backoff_first}),
      else: rest(%{state | status: :resting})
  end

  defp heard(:vacant, pid, state) when is_map_key(state.left, pid) do
    Placement.drop_leaving(state.left[pid])
    Worker.finish(pid)
    %{state | left: Map.delete(state.left, pid)}
  end

  defp heard(:left, pid, state), do: taken_over(state, pid)

  defp heard(:unreachable, pid, %{pid: pid, status: :ready, next: nil} = state) do
    why = "its socket was removed"

    Logger.warning(
      "SnakeBridge: the worker #{state.worker.os_pid} of the pool #{inspect(state.pool)} is replaced: #{why}"
    )

    if Lifecycle.state(state.pool) == :running, do: replace(state, [spare: true, why: why], []), else: state
  end

  defp heard({:died, _}, pid, state), do: gone(state, pid)
  defp heard(_, _, state), do: state

  # One that was killed for what a call did, or on purpose, is not ill itself.
  defp count(%{killed_for: why}, _) when why in [:ignored_cancellation, :pool_stopped], do: :ok
  defp count(_, state), do: Breaker.worker_failed(state.pool, state.index)

  # A process of ours has ended without a word: a fault of this library, or somebody has killed it.
  defp ended(pid, reason, %{pid: pid} = state) do
    if state.worker, do: Worker.bury(state.worker)

    case state.worker do
      nil -> failed(state, "its process in Elixir ended: #{inspect(reason, limit: 10)}")
      _ -> heard({:died, Death.unseen(inspect(reason, limit: 10))}, pid, state)
    end
  end

  defp ended(pid, reason, %{next: %{pid: pid}} = state),
    do: heard({:failed, "its process in Elixir ended: #{inspect(reason, limit: 10)}."}, pid, state)

  defp ended(pid, _, state) do
    with %{^pid => worker} <- state.left, do: Worker.bury(worker)
    gone(state, pid)
  end

  defp gone(state, pid), do: taken_over(%{state | left: Map.delete(state.left, pid)}, pid)

  defp taken_over(state, pid) do
    {next, taking_over} = Map.pop(state.taking_over, pid)
    if next, do: answer(next, :ok)
    %{state | taking_over: taking_over}
  end

  # --- replacing ---

  defp replace(state, options, from) do
    spare = if options[:spare], do: spare(state)
    next = %{pid: spare, options: options, from: from, since: System.monotonic_time(:millisecond)}

    if spare do
      switch(%{state | next: next})
    else
      case launch(state) do
        {:ok, pid} ->
          %{state | next: %{next | pid: pid}}

        {:error, reason} ->
          answer(next, {:error, Error.new(:worker_start, inspect(reason, limit: 10))}) && state
      end
    end
  end

  # New sessions go to the new process, and others when the old one holds nothing of theirs.
  defp switch(%{next: next, worker: old, pid: old_pid} = state) do
    case seat(%{state | next: nil}, next.pid) do
      %{status: :ready} = state ->
        Telemetry.execute(
          [:snakebridge, :worker, :replaced],
          %{duration: (System.monotonic_time(:millisecond) - next.since) * 1000},
          %{pool: state.pool, worker: state.index, generation: state.generation, why: next.options[:why]}
        )

        # Until then the old one may take calls that come after the answer.
        state = put_in(state.taking_over[old_pid], next)
        Process.send_after(self(), {:taken_over, old_pid}, @patience)
        leave(put_in(state.left[old_pid], old), old_pid, next.options)

      state ->
        # The old one is whole, and stays.
        answer(
          next,
          {:error, Error.new(:worker_start, "the new process cannot be called; the old one goes on")}
        )

        Placement.put_worker(state.pool, state.index, Lifecycle.status(state.pool), old)
        %{state | status: :ready, pid: old_pid, worker: old}
    end
  end

  defp leave(state, pid, options) do
    old = state.left[pid]
    Worker.leave(pid)
    reason = "its worker was restarted"

    case {Keyword.get(options, :sessions, :wait), Keyword.get(options, :max_wait, :infinity)} do
      {:end, _} ->
        give_up(state, pid)

      {:wait, most} ->
        Placement.move_servers(state.pool, state.index, old.generation, reason)
        if most != :infinity, do: Process.send_after(self(), {:overdue, pid}, most)
        state
    end
  end

  defp give_up(state, pid) do
    {old, left} = Map.pop(state.left, pid)
    Placement.mark_lost(state.pool, state.index, old.generation, "its worker was restarted")
    Placement.drop_leaving(old)
    Worker.finish(pid)
    taken_over(%{state | left: left}, pid)
  end

  defp answer(next, answer), do: for(from <- next.from, do: GenServer.reply(from, answer))

  @impl true
  def terminate(_reason, state), do: Placement.drop_worker(state.pool, state.index)
end
