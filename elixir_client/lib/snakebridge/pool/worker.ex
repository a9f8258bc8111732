defmodule SnakeBridge.Pool.Worker do
  @moduledoc """
  One Python process: starts it, owns every socket to it, notices its death, starts the next. Calls do not pass through this process.

  The Port's stdin is the Python process's lifeline: it ends when this BEAM does, however that happens.
  """
  use GenServer, restart: :permanent

  require Logger

  alias SnakeBridge.{CallbackRegistry, Error, Lane.Connection, Output, Pool, Shared}
  alias SnakeBridge.Pool.{Control, Python, Slots}

  @backoff_first 100
  @backoff_last 5_000
  # A worker that lived this long did not die of its start.
  @healthy_after 1_000
  @tail_lines 40
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
      {:error, Error.new(:unavailable, "the pool #{inspect(pool)} is being stopped or restarted; try again")}
  end

  # --- connections ---

  @doc """
  Takes a connection for `holder` (`SnakeBridge.SessionManager.track/0`), a new one if need be; waits its turn when all are in use. `request`
  is what to cancel when the holder dies.
  """
  @spec checkout(map(), Slots.holder(), pos_integer(), integer() | :infinity) ::
          {:ok, Connection.t()} | {:error, Error.t()}
  def checkout(worker, holder, request, deadline) do
    case Slots.take(worker.slots, holder, request) do
      {:ready, connection} ->
        {:ok, connection}

      {:empty, lease} ->
        open(worker, lease)

      :none ->
        with :look_again <- wait_turn(worker, deadline), do: checkout(worker, holder, request, deadline)
    end
  rescue
    # The pool was stopped, and the table of its connections has gone with it.
    ArgumentError -> {:error, crash(worker, :not_started, "its pool was stopped")}
  end

  defp open(worker, lease) do
    with {:ok, connection} <-
           Connection.open(worker.address, worker.token, :call, Output.features(worker.output)) do
      connection = Slots.put(worker.slots, lease, connection)

      with {:error, reason} <- Connection.give(connection, worker.pid) do
        discard(worker, connection)
        {:error, crash(worker, :not_started, inspect(reason))}
      else
        :ok -> {:ok, connection}
      end
    else
      {:error, error} ->
        Slots.give_up(worker.slots, lease)
        freed(worker)
        {:error, crash(worker, :not_started, error.message)}
    end
  end

  # The answer is only a hint to look again: a connection that was handed to a process which gave up meanwhile would be lost.
  defp wait_turn(worker, deadline) do
    GenServer.call(worker.pid, {:wait, worker.generation}, Pool.left(deadline))
  catch
    :exit, {:timeout, _} ->
      # The hint may have come too late for us, but not for the next one.
      GenServer.cast(worker.pid, {:freed, worker.generation})

      {:error,
       Error.new(
         :timeout,
         "all #{worker.max_connections} connections to the worker were in use until the timeout; raise max_connections"
       )}

    :exit, _ ->
      {:error, crash(worker, :not_started, "its pool was stopped")}
  end

  @doc "Gives a connection back."
  @spec checkin(map(), Connection.t()) :: :ok
  def checkin(worker, connection) do
    Slots.back(worker.slots, connection)
    freed(worker)
  end

  @doc "Closes a connection that cannot be used any more."
  @spec discard(map(), Connection.t()) :: :ok
  def discard(worker, connection) do
    Slots.close(worker.slots, connection)
    freed(worker)
  end

  defp freed(worker) do
    if :atomics.get(worker.counts, 2) > 0, do: GenServer.cast(worker.pid, {:freed, worker.generation})
    :ok
  end

  @doc "Cancels what a dead process had in flight on any worker, closes its connections and frees their slots."
  @spec abandon(Slots.holder()) :: :ok
  def abandon(holder) do
    for worker <- Slots.workers(), held <- Slots.held(worker.slots, holder) do
      case held do
        %Connection{lease: {_, _, request}} = connection ->
          cancel(worker, connection.id, request, "caller_down")
          discard(worker, connection)

        lease ->
          Slots.give_up(worker.slots, lease)
          freed(worker)
      end
    end

    :ok
  end

  @doc "Interrupts a request; if it is still running after the pool's grace period, the worker is killed."
  @spec cancel(map(), pos_integer(), non_neg_integer(), String.t()) :: :ok
  def cancel(worker, connection_id, request_id, reason) do
    GenServer.cast(worker.pid, {:cancel, worker.generation, connection_id, request_id, reason})
  end

  @doc "The error for a call whose connection broke: why the process died, as far as that is known."
  @spec crash(map(), :unknown | :not_started, String.t()) :: Error.t()
  def crash(worker, outcome, seen) do
    why =
      try do
        GenServer.call(worker.pid, {:why, worker.generation}, 3_000)
      catch
        :exit, _ -> seen
      end

    ran =
      if outcome == :unknown,
        do: "it is not known whether the call took effect",
        else: "the call had not started"

    Error.new(:worker_crash, "the Python worker died: #{why || seen}; #{ran}", %{outcome: outcome})
  end

  # --- the process ---

  @impl true
  def init({pool, index, options}) do
    Process.flag(:trap_exit, true)
    # Sessions of an earlier life of this pool.
    Pool.mark_lost(pool, index, "its pool was restarted")
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
      tail: :queue.new(),
      waiting: [],
      queue: :queue.new(),
      asking: [],
      # dead workers, some of whose connections were still held when they died
      retired: [],
      last_death: nil,
      backoff: @backoff_first
    }

    Process.send_after(self(), :sweep, @idle_sweep)
    {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state), do: {:noreply, start(state)}

  defp start(state) do
    state = %{state | generation: state.generation + 1, status: :starting, tail: :queue.new(), started: now()}
    Pool.put_worker(state.pool, state.index, :starting, %{})

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
    Pool.put_worker(state.pool, state.index, :failed, %{})
    error = Error.new(:worker_start, text)
    for from <- state.waiting, do: GenServer.reply(from, {:error, error})
    again(%{state | status: {:failed, error}, waiting: [], last_death: {state.generation, text}})
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
    if :queue.is_empty(state.queue), do: Process.send_after(self(), {:look, generation}, @look_every)
    queue = :queue.in(from, state.queue)
    # Counted first, then looked: whoever frees a connection from here on tells us.
    :atomics.put(state.worker.counts, 2, :queue.len(queue))
    {:noreply, %{state | queue: wake(queue, state.worker)}}
  end

  def handle_call({:wait, _}, _from, state),
    do:
      {:reply, {:error, Error.new(:worker_crash, "the worker was restarted", %{outcome: :not_started})},
       state}

  def handle_call({:why, generation}, from, state) do
    case state do
      %{last_death: {died, text}} when died >= generation ->
        {:reply, text, state}

      _ ->
        # The connection broke before the exit status came in; it will, or the process lives on.
        timer = Process.send_after(self(), {:no_reason, from}, 1_000)
        {:noreply, %{state | asking: [{from, timer} | state.asking]}}
    end
  end

  @impl true
  def handle_cast({:freed, generation}, %{generation: generation, status: :ready} = state),
    do: {:noreply, %{state | queue: wake(state.queue, state.worker)}}

  def handle_cast({:freed, _}, state), do: {:noreply, state}

  def handle_cast(
        {:cancel, generation, connection, request, reason},
        %{generation: generation, control: control} = state
      )
      when is_pid(control) do
    Control.cancel(control, connection, request, reason)
    grace = Keyword.get(state.options, :kill_after, 5_000)
    Process.send_after(self(), {:still_running?, generation, connection, request}, grace)
    {:noreply, state}
  end

  def handle_cast({:cancel, _, _, _, _}, state), do: {:noreply, state}

  @impl true
  def handle_info({port, {:data, {_, line}}}, %{port: port} = state), do: {:noreply, line(line, state)}

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    {:noreply, died(state, describe(status))}
  end

  def handle_info({:start, generation}, %{generation: generation, port: nil} = state),
    do: {:noreply, start(state)}

  def handle_info({:not_ready, generation}, %{generation: generation, status: :starting} = state) do
    kill(state)
    {:noreply, died(state, "it was not ready within its start timeout")}
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

  def handle_info(
        {:still_running?, generation, connection, request},
        %{generation: generation, control: control} = state
      )
      when is_pid(control) do
    Control.ask_stats(control, self(), {connection, request})
    {:noreply, state}
  end

  def handle_info({:stats, generation, {connection, request}, answer}, %{generation: generation} = state) do
    stuck? =
      case answer do
        {:ok, %{"active" => active}} -> Enum.any?(active, &match?([^connection, ^request | _], &1))
        :no_answer -> true
      end

    if stuck? do
      Logger.warning("SnakeBridge: a call ignored its cancellation; the worker #{state.os_pid} is killed")
      kill(state)
    end

    {:noreply, state}
  end

  # A hint may have gone to a caller that had just given up or died; nobody waits longer than this for the next one.
  def handle_info({:look, generation}, %{generation: generation, status: :ready} = state) do
    queue = wake(state.queue, state.worker)
    unless :queue.is_empty(queue), do: Process.send_after(self(), {:look, generation}, @look_every)
    {:noreply, %{state | queue: queue}}
  end

  def handle_info(:sweep, state) do
    Process.send_after(self(), :sweep, @idle_sweep)

    state = %{state | retired: Enum.reject(state.retired, &let_go?/1)}

    if state.status == :ready do
      Slots.shrink(state.worker.slots, @idle_kept)
      # Who was woken and killed in the same moment has woken nobody else.
      {:noreply, %{state | queue: wake(state.queue, state.worker)}}
    else
      {:noreply, state}
    end
  end

  # The control connection broke while the process lives: it is of no use without.
  def handle_info({:EXIT, control, _}, %{control: control} = state) when is_pid(control) do
    kill(state)
    {:noreply, %{state | control: nil}}
  end

  def handle_info(_, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    Pool.drop_worker(state.pool, state.index)
    if state.port != nil and Port.info(state.port) != nil, do: Port.close(state.port)
    kill(state)
    retire(state)
    Python.cleanup(state.directory)
    Shared.Keeper.worker_gone(state.os_pid)
  end

  # --- connections ---

  # Tells the first in the queue that still lives to look again.
  defp wake(queue, worker) do
    queue = :queue.filter(fn {pid, _} -> Process.alive?(pid) end, queue)

    queue =
      case Slots.free?(worker.slots) && :queue.out(queue) do
        {{:value, from}, rest} ->
          GenServer.reply(from, :look_again)
          rest

        _ ->
          queue
      end

    :atomics.put(worker.counts, 2, :queue.len(queue))
    queue
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
      # whether it shares memory
      shared: Shared.directory() != nil and Keyword.get(state.options, :shared, true),
      slots: state.options |> Keyword.get(:max_connections, 64) |> Slots.new(),
      # unused, processes that wait for a connection, sessions
      counts: :atomics.new(3, [])
    }

    :atomics.put(worker.counts, 3, Pool.placed_on(state.pool, state.index))

    case Control.start_link(worker) do
      {:ok, control} ->
        Slots.publish(worker)
        Pool.put_worker(state.pool, state.index, :ready, worker)
        for from <- state.waiting, do: GenServer.reply(from, {:ok, worker})
        %{state | status: :ready, worker: worker, control: control, waiting: []}

      {:error, error} ->
        kill(state)
        died(state, Exception.message(error))
    end
  end

  defp line(text, state) do
    # User code prints what it likes; logs and error messages are text.
    text = printable(text)
    Logger.info(fn -> "python[#{state.pool}:#{state.index}] #{text}" end)
    tail = :queue.in(text, state.tail)
    tail = if :queue.len(tail) > @tail_lines, do: :queue.drop(tail), else: tail
    %{state | tail: tail}
  end

  defp printable(text) do
    for part <- String.chunk(text, :valid), into: "", do: if(String.valid?(part), do: part, else: "\uFFFD")
  end

  defp died(%{status: :starting} = state, how) do
    Python.cleanup(state.directory)

    failed(
      state,
      "Python (#{Python.executable(state.options) |> elem(1)}) ended before it was ready: #{how}.#{words(state)}#{advice(state)}"
    )
  end

  defp died(state, how) do
    text = "#{how}.#{words(state)}"
    Pool.put_worker(state.pool, state.index, :down, %{})
    Pool.mark_lost(state.pool, state.index, how)
    if state.control, do: Process.exit(state.control, :kill)
    retire(state)
    for {from, timer} <- state.asking, do: {Process.cancel_timer(timer), GenServer.reply(from, text)}

    gone =
      {:error,
       Error.new(:worker_crash, "the Python worker died: #{text}; the call had not started", %{
         outcome: :not_started
       })}

    for from <- :queue.to_list(state.queue), do: GenServer.reply(from, gone)
    # What user code started lives in the process group of the worker.
    kill(state)
    Python.cleanup(state.directory)
    Shared.Keeper.worker_gone(state.os_pid)
    backoff = if now() - state.started > @healthy_after, do: @backoff_first, else: state.backoff
    Logger.warning("SnakeBridge: the worker #{state.os_pid} of the pool #{inspect(state.pool)} died: #{text}")

    again(%{
      state
      | status: :starting,
        retired: [state.worker | state.retired],
        asking: [],
        queue: :queue.new(),
        last_death: {state.generation, text},
        backoff: backoff
    })
  end

  defp words(state) do
    case :queue.to_list(state.tail) do
      [] -> ""
      lines -> " Its last words: #{lines |> Enum.join("\n") |> String.slice(-4096..-1)}"
    end
  end

  defp advice(state) do
    if Enum.any?(:queue.to_list(state.tail), &String.contains?(&1, "bridge_adapter")) do
      " Install the Python half with: pip install bridge-adapter (or set config :snakebridge, pools: [default: [python: ...]])"
    else
      ""
    end
  end

  defp describe(status) when status > 128,
    do: "it was killed by signal #{status - 128}#{signal(status - 128)}"

  defp describe(status), do: "it exited with status #{status}"

  defp signal(9), do: " (SIGKILL: out of memory, or killed by hand)"
  defp signal(11), do: " (SIGSEGV: a crash in native code)"
  defp signal(6), do: " (SIGABRT)"
  defp signal(15), do: " (SIGTERM)"
  defp signal(_), do: ""

  defp kill(%{os_pid: nil}), do: :ok

  # The shell's own kill, on purpose: the kill program of procps-ng 4.0.2 (Debian 12) reads "-1234" as "-1", every process there is.
  defp kill(%{os_pid: pid}) when is_integer(pid) and pid > 1 do
    System.cmd("/bin/sh", ["-c", "kill -s KILL -- -#{pid} #{pid} 2>/dev/null; true"])
    :ok
  end

  defp now, do: System.monotonic_time(:millisecond)
end
