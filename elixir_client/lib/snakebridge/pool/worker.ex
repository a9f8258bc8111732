defmodule SnakeBridge.Pool.Worker do
  @moduledoc """
  One Python process: starts it, owns every socket to it, notices its death, starts the next. Calls do not pass through this process.

  The Port's stdin is the Python process's lifeline: it ends when this BEAM does, however that happens.
  """
  use GenServer, restart: :permanent

  require Logger

  alias SnakeBridge.{Breaker, CallbackRegistry, Error, Output, Pool, Shared}
  alias SnakeBridge.Pool.{Control, Death, Heartbeat, Journal, LastWords}
  alias SnakeBridge.Pool.{OutOfMemory, Placement, Python, Queue, Slots}

  @backoff_first 100
  @backoff_last 5_000
  # A worker that lived this long did not die of its start.
  @healthy_after 1_000
  @idle_kept 4
  @idle_sweep 10_000
  @look_every 20

  def start_link({pool, index, options}),
    do: GenServer.start_link(__MODULE__, {pool, index, options}, name: name(pool, index))

  defp name(pool, index), do: {:global_name, pool, index} |> via()
  defp via({_, pool, index}), do: Module.concat([__MODULE__, pool, Integer.to_string(index)])

  @doc "Waits until the worker is ready."
  @spec await(atom(), pos_integer(), timeout()) :: {:ok, map()} | {:error, Error.t()}
  def await(pool, index, timeout) do
    GenServer.call(name(pool, index), :await, timeout)
  catch
    :exit, {:timeout, _} ->
      {:error, Error.new(:timeout, "no Python worker of the pool #{inspect(pool)} was ready in time")}

    :exit, _ ->
      {:error,
       Error.new(:unavailable, "the pool #{inspect(pool)} is being stopped or restarted; try again", %{
         outcome: :not_started
       })}
  end

  @doc """
  Waits until a connection may be free. The answer is only a hint to look again: a connection that was handed to a process which gave up
  meanwhile would be lost.
  """
  @spec wait_turn(map(), integer() | :infinity) :: :look_again | {:error, Error.t()}
  def wait_turn(worker, deadline) do
    GenServer.call(worker.pid, {:wait, worker.generation}, Pool.left(deadline))
  catch
    :exit, {:timeout, _} ->
      # The hint may have come too late for us, but not for the next one.
      GenServer.cast(worker.pid, {:freed, worker.generation})

      {:error,
       Error.new(
         :timeout,
         "all #{worker.max_connections} connections to the worker were in use until the timeout; raise max_connections",
         %{outcome: :not_started}
       )}

    :exit, _ ->
      {:error, crash(worker, :not_started, "its pool was stopped")}
  end

  @doc "Says that a connection is free now, if anybody waits for one."
  @spec freed(map()) :: :ok
  def freed(worker) do
    if Queue.waiting?(worker), do: GenServer.cast(worker.pid, {:freed, worker.generation})
    :ok
  end

  @doc """
  Interrupts a request; if it is still running after the pool's grace period, the worker is killed, and the call's circuit breaker is told.
  """
  @spec cancel(map(), pos_integer(), non_neg_integer(), String.t(), Breaker.key() | nil) :: :ok
  def cancel(worker, connection_id, request_id, reason, circuit \\ nil) do
    GenServer.cast(worker.pid, {:cancel, worker.generation, {connection_id, request_id, circuit}, reason})
  end

  @doc "The error for a call whose connection broke: why the process died, as far as that is known."
  @spec crash(map(), :unknown | :not_started, String.t()) :: Error.t()
  def crash(worker, outcome, seen) do
    death =
      try do
        GenServer.call(worker.pid, {:why, worker.generation}, 3_000) || Death.unseen(seen)
      catch
        :exit, {:timeout, _} -> Death.unseen(seen)
        :exit, _ -> Death.unseen(seen, :pool_stopped)
      end

    Death.error(death, outcome)
  end

  # --- the process ---

  @impl true
  def init({pool, index, options}) do
    Process.flag(:trap_exit, true)
    # Sessions of an earlier life of this pool.
    Placement.mark_lost(pool, index, "its pool was restarted")
    Placement.put_worker(pool, index, :starting, %{})
    Slots.forget(pool, index)
    CallbackRegistry.forget({pool, index, :_})

    state = %{
      pool: pool,
      index: index,
      options: Keyword.put(options, :output, Output.mode(options)),
      generation: 0,
      status: :starting,
      port: nil,
      os_pid: nil,
      started: 0,
      ready_timer: nil,
      directory: nil,
      worker: nil,
      control: nil,
      words: LastWords.new(),
      waiting: [],
      queue: Queue.new(),
      asking: [],
      # dead workers, some of whose connections were still held when they died
      retired: [],
      last_death: nil,
      # what this process is being killed for
      killed_for: nil,
      # processes that the kernel had killed for memory when it began
      oom_kills: nil,
      backoff: @backoff_first
    }

    Process.send_after(self(), :sweep, @idle_sweep)
    {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state), do: {:noreply, start(state)}

  defp start(state) do
    state = %{
      state
      | generation: state.generation + 1,
        status: :starting,
        words: LastWords.new(),
        killed_for: nil,
        oom_kills: OutOfMemory.kills(),
        started: now()
    }

    Placement.put_worker(state.pool, state.index, :starting, %{})

    case Python.open(state.options) do
      {:ok, started} ->
        timer =
          Process.send_after(
            self(),
            {:not_ready, state.generation},
            Keyword.get(state.options, :start_timeout, 30_000)
          )

        Map.merge(state, %{
          port: started.port,
          os_pid: started.os_pid,
          directory: started.directory,
          ready_timer: timer,
          worker: started
        })

      {:error, text} ->
        failed(state, text)
    end
  end

  # It never became ready: whoever waits hears why, and the next try comes later.
  defp failed(state, text) do
    Logger.error("SnakeBridge: a worker of the pool #{inspect(state.pool)} cannot start: #{text}")
    Placement.put_worker(state.pool, state.index, :failed, %{})
    Breaker.worker_failed(state.pool, state.index)
    error = Error.new(:worker_start, text, %{outcome: :not_started})
    for from <- state.waiting, do: GenServer.reply(from, {:error, error})
    death = Death.given_up(text, LastWords.new())
    again(%{state | status: {:failed, error}, waiting: [], last_death: {state.generation, death}})
  end

  defp again(state) do
    Process.send_after(self(), {:start, state.generation}, state.backoff)

    %{
      state
      | backoff: min(2 * state.backoff, @backoff_last),
        port: nil,
        os_pid: nil,
        worker: nil,
        control: nil
    }
  end

  @impl true
  def handle_call(:await, _from, %{status: :ready} = state), do: {:reply, {:ok, state.worker}, state}
  def handle_call(:await, _from, %{status: {:failed, error}} = state), do: {:reply, {:error, error}, state}
  def handle_call(:await, from, state), do: {:noreply, %{state | waiting: [from | state.waiting]}}

  def handle_call({:wait, generation}, from, %{generation: generation, status: :ready} = state) do
    if Queue.empty?(state.queue), do: Process.send_after(self(), {:look, generation}, @look_every)
    {:noreply, %{state | queue: Queue.join(state.queue, from, state.worker)}}
  end

  def handle_call({:wait, _}, _from, state) do
    death = Death.unseen("it was replaced meanwhile")
    {:reply, {:error, Death.error(death, :not_started)}, state}
  end

  def handle_call({:why, generation}, from, state) do
    case state do
      %{last_death: {died, death}} when died >= generation ->
        {:reply, death, state}

      _ ->
        # The connection broke before the exit status came in; it will, or the process lives on.
        timer = Process.send_after(self(), {:no_reason, from}, 1_000)
        {:noreply, %{state | asking: [{from, timer} | state.asking]}}
    end
  end

  @impl true
  def handle_cast({:freed, generation}, %{generation: generation, status: :ready} = state),
    do: {:noreply, %{state | queue: Queue.wake(state.queue, state.worker)}}

  def handle_cast({:freed, _}, state), do: {:noreply, state}

  def handle_cast(
        {:cancel, generation, {connection, request, _} = stuck, reason},
        %{generation: generation, control: control} = state
      )
      when is_pid(control) do
    Control.cancel(control, connection, request, reason)
    grace = Keyword.get(state.options, :kill_after, 5_000)
    Process.send_after(self(), {:still_running?, generation, stuck}, grace)
    {:noreply, state}
  end

  def handle_cast({:cancel, _, _, _}, state), do: {:noreply, state}

  @impl true
  def handle_info({port, {:data, {_, line}}}, %{port: port} = state), do: {:noreply, line(line, state)}

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    oom? = OutOfMemory.grown?(state.oom_kills, OutOfMemory.kills())
    {:noreply, died(state, Death.of_exit(status, state.words, oom?, state.killed_for))}
  end

  def handle_info({:start, generation}, %{generation: generation, port: nil} = state),
    do: {:noreply, start(state)}

  def handle_info({:not_ready, generation}, %{generation: generation, status: :starting} = state) do
    Python.kill(state.os_pid)
    {:noreply, died(state, Death.given_up("it was not ready within its start timeout", state.words))}
  end

  def handle_info({:no_reason, from}, state) do
    case List.keytake(state.asking, from, 0) do
      {_, asking} ->
        GenServer.reply(from, nil)
        {:noreply, %{state | asking: asking}}

      nil ->
        {:noreply, state}
    end
  end

  def handle_info({:still_running?, generation, stuck}, %{generation: generation, control: control} = state)
      when is_pid(control) do
    Control.ask_stats(control, self(), stuck)
    {:noreply, state}
  end

  def handle_info(
        {:stats, generation, {connection, request, circuit}, answer},
        %{generation: generation} = state
      ) do
    stuck? =
      case answer do
        {:ok, %{"active" => active}} -> Enum.any?(active, &match?([^connection, ^request | _], &1))
        :no_answer -> true
      end

    if stuck? do
      Logger.warning("SnakeBridge: a call ignored its cancellation; the worker #{state.os_pid} is killed")
      Breaker.failed(circuit, :timeout)
      {:noreply, kill(state, :ignored_cancellation)}
    else
      {:noreply, state}
    end
  end

  def handle_info({:silent, generation}, %{generation: generation, status: :ready} = state) do
    Logger.warning("SnakeBridge: the worker #{state.os_pid} has stopped answering and is killed")
    {:noreply, kill(state, :missed_heartbeat)}
  end

  # A hint may have gone to a caller that had just given up or died; nobody waits longer than this for the next one.
  def handle_info({:look, generation}, %{generation: generation, status: :ready} = state) do
    queue = Queue.wake(state.queue, state.worker)
    unless Queue.empty?(queue), do: Process.send_after(self(), {:look, generation}, @look_every)
    {:noreply, %{state | queue: queue}}
  end

  def handle_info(:sweep, state) do
    Process.send_after(self(), :sweep, @idle_sweep)

    state = %{state | retired: Enum.reject(state.retired, &let_go?/1)}

    if state.status == :ready do
      if now() - state.started > @idle_sweep, do: Breaker.worker_well(state.pool, state.index)
      Slots.shrink(state.worker.slots, @idle_kept)
      # Who was woken and killed in the same moment has woken nobody else.
      {:noreply, %{state | queue: Queue.wake(state.queue, state.worker)}}
    else
      {:noreply, state}
    end
  end

  # The control connection broke while the process lives: it is of no use without.
  def handle_info({:EXIT, control, _}, %{control: control} = state) when is_pid(control) do
    Python.kill(state.os_pid)
    {:noreply, %{state | control: nil}}
  end

  def handle_info(_, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    Placement.drop_worker(state.pool, state.index)
    if state.port != nil and Port.info(state.port) != nil, do: Port.close(state.port)
    Python.kill(state.os_pid)
    retire(state)
    Python.cleanup(state.directory)
    Shared.Keeper.worker_gone(state.os_pid)
  end

  defp kill(state, why) do
    Python.kill(state.os_pid)
    %{state | killed_for: why}
  end

  defp retire(%{status: :ready, worker: worker}) do
    Slots.retire(worker.slots)
    # Nobody is left there to call or to drop them.
    CallbackRegistry.forget({worker.pool, worker.index, worker.generation})
  end

  defp retire(_), do: :ok

  # Whether nothing is left of a dead worker.
  defp let_go?(worker) do
    Slots.retire(worker.slots)
    if Slots.census(worker.slots).held == 0, do: Slots.forget(worker), else: false
  end

  # --- ready, dead ---

  defp line("snakebridge-ready " <> _, %{status: :starting} = state) do
    Process.cancel_timer(state.ready_timer)

    worker = %{
      pid: self(),
      pool: state.pool,
      index: state.index,
      generation: state.generation,
      os_pid: state.os_pid,
      address: state.worker.address,
      token: state.worker.token,
      max_connections: Keyword.get(state.options, :max_connections, 64),
      output: state.options[:output],
      journal: Journal.kept?(state.options),
      # whether it shares memory
      shared: Shared.directory() != nil and Keyword.get(state.options, :shared, true),
      slots: state.options |> Keyword.get(:max_connections, 64) |> Slots.new(),
      # unused, processes that wait for a connection, sessions
      counts: :atomics.new(3, [])
    }

    :atomics.put(worker.counts, 3, Placement.placed_on(state.pool, state.index))

    case Control.start_link(worker, Heartbeat.settings(state.options)) do
      {:ok, control} ->
        Slots.publish(worker)
        Placement.put_worker(state.pool, state.index, :ready, worker)
        for from <- state.waiting, do: GenServer.reply(from, {:ok, worker})
        %{state | status: :ready, worker: worker, control: control, waiting: []}

      {:error, error} ->
        Python.kill(state.os_pid)
        died(state, Death.given_up(Exception.message(error), state.words))
    end
  end

  defp line(text, state) do
    text = LastWords.printable(text)
    Logger.info(fn -> "python[#{state.pool}:#{state.index}] #{text}" end)
    %{state | words: LastWords.add(state.words, text)}
  end

  defp died(%{status: :starting} = state, death) do
    Python.cleanup(state.directory)

    failed(
      state,
      "Python (#{Python.executable(state.options) |> elem(1)}) ended before it was ready: #{death.text}#{LastWords.advice(state.words)}"
    )
  end

  defp died(state, death) do
    Placement.put_worker(state.pool, state.index, :down, %{})
    Placement.mark_lost(state.pool, state.index, death.how)
    # One that was killed for what a call did is not ill itself.
    unless death.killed_for == :ignored_cancellation, do: Breaker.worker_failed(state.pool, state.index)
    if state.control, do: Process.exit(state.control, :kill)
    retire(state)
    for {from, timer} <- state.asking, do: {Process.cancel_timer(timer), GenServer.reply(from, death)}

    Queue.dismiss(state.queue, {:error, Death.error(death, :not_started)})
    # What user code started lives in the process group of the worker.
    Python.kill(state.os_pid)
    Python.cleanup(state.directory)
    Shared.Keeper.worker_gone(state.os_pid)
    backoff = if now() - state.started > @healthy_after, do: @backoff_first, else: state.backoff

    Logger.warning(
      "SnakeBridge: the worker #{state.os_pid} of the pool #{inspect(state.pool)} died: #{death.text}"
    )

    again(%{
      state
      | status: :starting,
        retired: [state.worker | state.retired],
        asking: [],
        queue: Queue.new(),
        last_death: {state.generation, death},
        backoff: backoff
    })
  end

  defp now, do: System.monotonic_time(:millisecond)
end
