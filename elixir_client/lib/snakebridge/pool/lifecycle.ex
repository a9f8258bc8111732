defmodule SnakeBridge.Pool.Lifecycle do
  @moduledoc """
  The states of a pool: starting, running, draining, stopped. While it drains, calls that come from outside are refused, those that run finish, and what
  they call in turn is let through. When the pool's supervisor stops, it drains first, for as long as the pool's `shutdown:` says.
  """
  use GenServer

  require Logger

  alias SnakeBridge.{Error, Telemetry}
  alias SnakeBridge.Pool.{Placement, Seat, SeatClient, Slots, Spares, Worker, WorkerClient}

  @states :snakebridge_pool_states
  @look_every 5
  @shutdown 3_000
  # What is cancelled gets so long to end.
  @grace 1_000
  # Where a drain has no end, callers are told to come again after so long.
  @longest_pause 60_000
  # What is left of a pool whose supervisor was killed ends by itself; a seat that is just seating a process takes longest.
  @patience 20_000

  @type report :: %{
          finished: non_neg_integer(),
          cancelled: non_neg_integer(),
          killed: non_neg_integer(),
          refused: non_neg_integer(),
          duration_ms: non_neg_integer()
        }

  @doc false
  def table, do: @states

  def child_spec({_, options} = arguments) do
    # Beyond that it is killed, and the workers end with it.
    time = shutdown(options) + @grace + 2_000
    %{id: __MODULE__, start: {__MODULE__, :start_link, [arguments]}, shutdown: time}
  end

  defp shutdown(options), do: Keyword.get(options, :shutdown, @shutdown)

  def start_link({pool, options}), do: GenServer.start_link(__MODULE__, {pool, options}, name: name(pool))

  defp name(pool), do: Module.concat(__MODULE__, pool)

  @doc "The state of a pool."
  @spec state(atom()) :: :starting | :running | :draining | :stopped
  def state(pool) do
    case :ets.lookup(@states, pool) do
      [{_, :open, _, _}] -> if Placement.ready(pool) == [], do: :starting, else: :running
      [{_, state, _, _}] -> state
      [] -> :stopped
    end
  end

  @doc "Whether a pool has been told to drain, and not to resume: nothing is started in it."
  @spec closed?(atom()) :: boolean()
  def closed?(pool),
    do: match?([{_, state, _, _}] when state != :open, :ets.lookup(@states, pool))

  @doc """
  A pool of this name and size begins. When this returns, nothing is left of an earlier one whose supervisor was killed: its processes have their
  names until they have ended.
  """
  @spec begin(atom(), pos_integer()) :: true
  def begin(pool, size) do
    seats = for index <- 1..size, do: Seat.name(pool, index)

    for name <- [name(pool), Worker.supervisor(pool), Spares.name(pool) | seats],
        pid = Process.whereis(name),
        do: ended(pid, Process.monitor(pid))

    :ets.delete(@states, pool)
  end

  defp ended(pid, monitor) do
    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    after
      @patience ->
        Process.exit(pid, :kill)
        receive(do: ({:DOWN, ^monitor, _, _, _} -> :ok))
    end
  end

  @doc "What the table of workers says of one that is ready."
  @spec status(atom()) :: :ready | :draining
  def status(pool),
    do: if(match?([{_, :draining, _, _}], :ets.lookup(@states, pool)), do: :draining, else: :ready)

  @doc "The error of a call that comes now, which is counted; nil while the pool takes calls."
  @spec refusal(atom()) :: Error.t() | nil
  def refusal(pool) do
    case :ets.lookup(@states, pool) do
      [{_, :draining, refused, until}] ->
        :counters.add(refused, 1, 1)

        text =
          "the pool #{inspect(pool)} is draining and takes no new calls; use another pool, or call again later"

        refused(text, if(until == :infinity, do: @longest_pause, else: max(until - now(), 100)))

      [{_, :stopped, refused, _}] ->
        :counters.add(refused, 1, 1)
        refused("the pool #{inspect(pool)} was drained; SnakeBridge.Pool.resume/1 starts it again", nil)

      _ ->
        nil
    end
  end

  defp refused(text, pause),
    do: Error.new(:unavailable, text, %{outcome: :not_started, retry_after_ms: pause})

  @doc "Drains a pool."
  @spec drain(atom(), timeout()) :: {:ok, report()} | {:error, Error.t()}
  def drain(pool, timeout) do
    GenServer.call(name(pool), {:drain, timeout}, :infinity)
  catch
    :exit, reason -> {:error, unanswered(pool, reason)}
  end

  @doc "Starts a drained pool again."
  @spec resume(atom()) :: :ok | {:error, Error.t()}
  def resume(pool) do
    GenServer.call(name(pool), :resume, :infinity)
  catch
    :exit, reason -> {:error, unanswered(pool, reason)}
  end

  defp unanswered(pool, {:noproc, _}) do
    Error.new(
      :unavailable,
      "the pool #{inspect(pool)} is not running; start it, with SnakeBridge.Pool in a supervision tree"
    )
  end

  defp unanswered(pool, _) do
    text =
      "the pool #{inspect(pool)} is being stopped, or the process that drains it was killed; SnakeBridge.Pool.state/1 tells what has become of it"

    Error.new(:unavailable, text)
  end

  # --- the process ---

  @impl true
  def init({pool, options}) do
    Process.flag(:trap_exit, true)
    state = %{pool: pool, options: options, size: Keyword.fetch!(options, :size), report: nil}

    # The process before this one may have been killed.
    case :ets.lookup(@states, pool) do
      [{_, :draining, _, until}] ->
        {:ok, state, {:continue, {:drain, if(until == :infinity, do: until, else: max(until - now(), 0))}}}

      [{_, :stopped, refused, _}] ->
        {:ok, %{state | report: report(refused)}}

      [{_, :open, _, _}] ->
        {:ok, state}

      [] ->
        opened(pool)
        {:ok, state}
    end
  end

  defp report(refused),
    do: %{
      finished: 0,
      cancelled: 0,
      killed: 0,
      refused: :counters.get(refused, 1),
      duration_ms: 0
    }

  defp opened(pool), do: :ets.insert(@states, {pool, :open, :counters.new(1, []), 0})

  @impl true
  def handle_call({:drain, _}, _from, %{report: %{}} = state), do: {:reply, {:ok, state.report}, state}

  def handle_call({:drain, timeout}, _from, state) do
    state = stopped(state, timeout)
    {:reply, {:ok, state.report}, state}
  end

  def handle_call(:resume, _from, %{report: nil} = state), do: {:reply, :ok, state}

  def handle_call(:resume, _from, state) do
    opened(state.pool)
    for index <- 1..state.size, do: SeatClient.open(state.pool, index)
    if spares?(state), do: Spares.renew(state.pool)
    {:reply, :ok, %{state | report: nil}}
  end

  @impl true
  def handle_continue({:drain, timeout}, state), do: {:noreply, stopped(state, timeout)}

  defp stopped(state, timeout) do
    report = drained(state.pool, timeout)
    if spares?(state), do: Spares.close(state.pool)
    for index <- 1..state.size, do: SeatClient.close(state.pool, index)
    :ets.update_element(@states, state.pool, {2, :stopped})
    %{state | report: report}
  end

  defp spares?(state), do: Keyword.get(state.options, :spares, 0) > 0

  @impl true
  def terminate(reason, state) do
    asked? = reason in [:normal, :shutdown] or match?({:shutdown, _}, reason)
    if asked? and state.report == nil, do: drained(state.pool, shutdown(state.options))

    # After a fault of this process the next one goes on from here; where the supervisor was killed, everything ends.
    if asked? or reason == :killed, do: :ets.delete(@states, state.pool)
  end

  # --- draining ---

  # Work that runs is let finish, then cancelled, then its process killed.
  defp drained(pool, timeout) do
    begun = now()
    [{_, _, refused, _}] = :ets.lookup(@states, pool)

    until = if timeout == :infinity, do: :infinity, else: begun + timeout
    :ets.insert(@states, {pool, :draining, refused, until})
    close_door(pool)
    running = running(pool)
    Telemetry.execute([:snakebridge, :pool, :drain, :start], %{running: running}, %{pool: pool})
    left = until_idle(pool, until)

    for worker <- workers(pool), connection <- Slots.busy(worker.slots) do
      {_, _, request} = connection.lease
      WorkerClient.cancel(worker, connection.id, request, "cancelled")
    end

    killed = if left > 0, do: until_idle(pool, now() + @grace), else: 0
    for worker <- workers(pool), busy(worker) > 0, do: Worker.kill(worker.pid)

    report = %{
      finished: max(running - left, 0),
      cancelled: left - min(killed, left),
      killed: killed,
      refused: :counters.get(refused, 1),
      duration_ms: now() - begun
    }

    Telemetry.execute([:snakebridge, :pool, :drain, :stop], report, %{pool: pool})
    if left > 0, do: Logger.warning("SnakeBridge: the pool #{inspect(pool)} was drained: #{inspect(report)}")
    report
  end

  # What is left when it is time, or 0.
  defp until_idle(pool, deadline) do
    # Also those that became ready meanwhile.
    close_door(pool)

    case running(pool) do
      0 -> 0
      left -> if over?(deadline), do: left, else: wait_idle(pool, deadline)
    end
  end

  # Whoever gives a connection back tells nobody, so that a call costs no message.
  defp wait_idle(pool, deadline) do
    Process.sleep(@look_every)
    until_idle(pool, deadline)
  end

  defp over?(:infinity), do: false
  defp over?(deadline), do: now() >= deadline

  defp close_door(pool) do
    Placement.drain(pool)
    for worker <- workers(pool), do: Slots.drain(worker.slots)
  end

  defp running(pool), do: pool |> workers() |> Enum.map(&busy/1) |> Enum.sum()

  defp busy(worker), do: Slots.census(worker.slots).held + :atomics.get(worker.counts, 2)

  defp workers(pool),
    do: for(worker <- Slots.workers(), worker.pool == pool, Slots.alive?(worker.slots), do: worker)

  defp now, do: System.monotonic_time(:millisecond)
end
