defmodule SnakeBridge.Pool.Worker do
  @moduledoc """
  One Python process from its start to its end: owns every socket to it, lets callers wait for a connection, notices its death. Calls do not pass
  through this process. Whose work it does, and what follows it, `SnakeBridge.Pool.Seat` decides.

  The Port's stdin is the Python process's lifeline: it ends when this BEAM does, however that happens.

  Its owner hears `{:worker, pid, event}`: `:ready`, `{:failed, text}` (it never became ready), `{:died, death}`, `:left` (sessions that hold
  nothing are refused from now on), `:vacant` (nothing needs it any more), `:unreachable` (it lives, and nobody can connect
  to it). A dead worker stays while callers hold connections to it, and to tell them why it died.
  """
  use GenServer, restart: :temporary, shutdown: 10_000

  require Logger

  alias SnakeBridge.{Breaker, CallbackRegistry, Error, Output, Pool, Shared}

  alias SnakeBridge.Pool.{
    Admission,
    Control,
    Death,
    Heartbeat,
    Journal,
    LastWords,
    OutOfMemory,
    Placement,
    Python,
    Slots,
    Waiting
  }

  @idle_kept 4
  @idle_sweep 10_000
  @look_every 20
  @leave_every 25
  # Longer than it takes to give up a process that does not answer hello.
  @seat_timeout 15_000

  @doc "Starts a Python process for `owner`."
  @spec start(atom(), keyword(), pid()) :: {:ok, pid()} | {:error, term()}
  def start(pool, options, owner),
    do: DynamicSupervisor.start_child(supervisor(pool), {__MODULE__, {pool, options, owner}})

  @doc "The supervisor of the Python processes of a pool."
  @spec supervisor(atom()) :: atom()
  def supervisor(pool), do: Module.concat([Pool, pool, Workers])

  def start_link({pool, options, owner}), do: GenServer.start_link(__MODULE__, {pool, options, owner})

  @doc "Puts a ready worker into the place `index` of its pool: from now on it takes calls, and belongs to the caller."
  @spec seat(pid(), pos_integer(), pos_integer()) :: {:ok, map()} | {:error, Error.t()}
  def seat(pid, index, generation) do
    GenServer.call(pid, {:seat, self(), index, generation}, @seat_timeout)
  catch
    :exit, reason -> {:error, Error.new(:worker_start, "the worker ended: #{inspect(reason, limit: 10)}")}
  end

  @doc "Leaves a worker behind: sessions that hold nothing go elsewhere. Its owner hears `:vacant` when none is left and nothing runs."
  @spec leave(pid()) :: :ok
  def leave(pid), do: GenServer.cast(pid, :leave)

  @doc "Ends a worker that takes no calls any more as soon as those that run have ended."
  @spec finish(pid()) :: :ok
  def finish(pid), do: GenServer.cast(pid, :finish)

  @doc "Kills the Python process, because its pool is being drained or stopped and something in it does not end."
  @spec kill(pid()) :: :ok
  def kill(pid), do: GenServer.cast(pid, :kill)

  @doc "Does for a worker whose process here was killed what that has not done any more: nobody takes it for alive, and nothing of it stays."
  @spec bury(map()) :: :ok
  def bury(worker) do
    Slots.retire(worker.slots)
    Placement.worker_lost(worker, "its process in Elixir ended")
    Slots.forget(worker)
    CallbackRegistry.forget({worker.pool, worker.index, worker.generation})
    Python.kill(worker.os_pid)
    Shared.Keeper.worker_gone(worker.os_pid)
  end

  # --- the process ---

  @impl true
  def init({pool, options, owner}) do
    Process.flag(:trap_exit, true)

    state = %{
      pool: pool,
      options: Keyword.put(options, :output, Output.mode(options)),
      owner: owner,
      owned: Process.monitor(owner),
      # :starting, :ready (nobody calls it yet), :seated, :leaving, :finishing, :dead
      status: :starting,
      label: "#{pool}",
      port: nil,
      os_pid: nil,
      ready_timer: nil,
      directory: nil,
      started: nil,
      worker: nil,
      control: nil,
      words: LastWords.new(),
      # what it is being killed for, and how many processes the kernel had killed for memory when it began
      killed_for: nil,
      oom_kills: OutOfMemory.kills(),
      waiting: nil,
      # callers that want to know why it died
      asking: [],
      death: nil,
      # the sessions that keep it, as Python says
      kept_by: nil
    }

    {:ok, state, {:continue, :start}}
  end

  @impl true
  def handle_continue(:start, state) do
    case Python.open(state.options) do
      {:ok, started} ->
        timer = Process.send_after(self(), :not_ready, Keyword.get(state.options, :start_timeout, 30_000))

        {:noreply,
         %{
           state
           | port: started.port,
             os_pid: started.os_pid,
             directory: started.directory,
             ready_timer: timer,
             started: started
         }}

      {:error, text} ->
        failed(state, text)
    end
  end

  # It never became ready.
  defp failed(state, text) do
    tell(state, {:failed, text})
    {:stop, :normal, state}
  end

  defp tell(state, event), do: send(state.owner, {:worker, self(), event})

  @impl true
  def handle_call({:seat, owner, index, generation}, _from, %{status: :ready} = state) do
    worker = described(state, index, generation)

    case Control.start_link(worker, Heartbeat.settings(state.options)) do
      {:ok, control} ->
        Process.demonitor(state.owned, [:flush])
        Slots.publish(worker)
        Process.send_after(self(), :sweep, @idle_sweep)

        state = %{
          state
          | status: :seated,
            owner: owner,
            owned: Process.monitor(owner),
            worker: worker,
            control: control,
            label: "#{state.pool}:#{index}",
            waiting: Waiting.new(Admission.new(state.options))
        }

        {:reply, {:ok, worker}, state}

      {:error, error} ->
        {:stop, :normal, {:error, error}, state}
    end
  end

  def handle_call({:seat, _, _, _}, _from, state),
    do: {:reply, {:error, Error.new(:worker_start, "the worker is #{state.status}")}, state}

  def handle_call({:wait, claim}, from, %{status: status, waiting: waiting} = state)
      when status in [:seated, :leaving, :finishing] do
    if Slots.admits?(state.worker.slots, claim) do
      if Waiting.empty?(waiting), do: Process.send_after(self(), :look, @look_every)
      {:noreply, %{state | waiting: Waiting.join(waiting, from, claim, state.worker)}}
    else
      {:reply, :shut, state}
    end
  end

  def handle_call({:wait, _}, _from, state), do: {:reply, gone(state.death), state}

  def handle_call({:give, session}, from, %{control: control} = state) when is_pid(control) do
    Control.give(control, session, from)
    {:noreply, state}
  end

  def handle_call({:give, _}, _from, state), do: {:reply, :no_answer, state}

  def handle_call(:why, _from, %{status: :dead} = state), do: {:reply, state.death, state}

  def handle_call(:why, from, state) do
    # The connection broke before the exit status came in; it will, or the process lives on.
    timer = Process.send_after(self(), {:no_reason, from}, 1_000)
    {:noreply, %{state | asking: [{from, timer} | state.asking]}}
  end

  @impl true
  def handle_cast(:freed, %{waiting: waiting} = state) when waiting != nil,
    do: {:noreply, %{state | waiting: Waiting.grant(waiting, state.worker)}}

  def handle_cast({:cancel, {connection, request, _} = call, reason}, %{control: control} = state)
      when is_pid(control) do
    Control.cancel(control, connection, request, reason)
    grace = Keyword.get(state.options, :kill_after, 5_000)
    Process.send_after(self(), {:still_running?, call}, grace)
    {:noreply, state}
  end

  def handle_cast(:leave, %{status: :seated} = state) do
    send(self(), :leaving)
    {:noreply, %{state | status: :leaving}}
  end

  def handle_cast(:finish, %{status: status} = state) when status in [:seated, :leaving] do
    Slots.shut(state.worker.slots)
    send(self(), :leaving)
    {:noreply, %{state | status: :finishing}}
  end

  def handle_cast(:finish, %{status: :ready} = state), do: {:stop, :normal, state}

  def handle_cast(:kill, state), do: {:noreply, kill(state, :pool_stopped)}

  def handle_cast(_, state), do: {:noreply, state}

  @impl true
  def handle_info({port, {:data, {_, line}}}, %{port: port} = state), do: {:noreply, line(line, state)}

  def handle_info({port, {:exit_status, status}}, %{port: port} = state) do
    oom? = OutOfMemory.grown?(state.oom_kills, OutOfMemory.kills())
    died(state, Death.of_exit(status, state.words, oom?, state.killed_for))
  end

  def handle_info(:not_ready, %{status: :starting} = state) do
    Python.kill(state.os_pid)
    limit = Keyword.get(state.options, :start_timeout, 30_000)

    died(
      state,
      Death.given_up("it was not ready within its start timeout (start_timeout: #{limit})", state.words)
    )
  end

  def handle_info({:no_reason, from}, state) do
    case List.keytake(state.asking, from, 0) do
      {_, asking} ->
        GenServer.reply(from, nil)
        if state.status == :seated and not Python.reachable?(state.started), do: tell(state, :unreachable)
        {:noreply, %{state | asking: asking}}

      nil ->
        {:noreply, state}
    end
  end

  def handle_info({:still_running?, call}, %{control: control} = state) when is_pid(control) do
    Control.ask_stats(control, self(), call)
    {:noreply, state}
  end

  def handle_info({:stats, _, {connection, request, circuit}, answer}, state) do
    stuck? =
      case answer do
        {:ok, %{"active" => active}} -> Enum.any?(active, &match?([^connection, ^request | _], &1))
        :no_answer -> true
      end

    if stuck? and state.status != :dead do
      Logger.warning("SnakeBridge: a call ignored its cancellation; the worker #{state.os_pid} is killed")
      Breaker.failed(circuit, :timeout)
      {:noreply, kill(state, :ignored_cancellation)}
    else
      {:noreply, state}
    end
  end

  def handle_info({:silent, _}, %{status: status} = state) when status != :dead do
    Logger.warning("SnakeBridge: the worker #{state.os_pid} has stopped answering and is killed")
    {:noreply, kill(state, :missed_heartbeat)}
  end

  # A caller may have died without a word; nobody waits longer than this for its place.
  def handle_info(:look, %{waiting: waiting} = state) when waiting != nil do
    waiting = waiting |> Waiting.expire(state.worker) |> Waiting.grant(state.worker)
    unless Waiting.empty?(waiting), do: Process.send_after(self(), :look, Waiting.pause(waiting, @look_every))
    {:noreply, %{state | waiting: waiting}}
  end

  # Python is asked again and again: sessions end in their own time.
  def handle_info(:leaving, %{status: :leaving, control: control} = state) when is_pid(control) do
    Control.leave(control, self())
    {:noreply, state}
  end

  def handle_info(:leaving, %{status: :finishing} = state) do
    if busy?(state),
      do: Process.send_after(self(), :leaving, @leave_every) && {:noreply, state},
      else: {:stop, :normal, state}
  end

  def handle_info({:kept_by, sessions}, %{status: :leaving} = state) do
    if state.kept_by == nil, do: tell(state, :left)
    if sessions == [] and not busy?(state), do: tell(state, :vacant)
    Process.send_after(self(), :leaving, @leave_every)
    {:noreply, %{state | kept_by: sessions}}
  end

  def handle_info(:depart, state), do: depart(state)
  def handle_info(:sweep, %{status: :dead} = state), do: {:noreply, state}

  def handle_info(:sweep, state) do
    Process.send_after(self(), :sweep, @idle_sweep)
    if state.status == :seated, do: Breaker.worker_well(state.pool, state.worker.index)
    Slots.shrink(state.worker.slots, @idle_kept)
    {:noreply, state}
  end

  # The control connection broke while the process lives: it is of no use without.
  def handle_info({:EXIT, control, _}, %{control: control} = state) when is_pid(control) do
    Python.kill(state.os_pid)
    {:noreply, %{state | control: nil}}
  end

  # Nobody is left who would end it.
  def handle_info({:DOWN, owned, :process, _, _}, %{owned: owned} = state),
    do: if(state.status == :dead, do: {:noreply, state}, else: {:stop, :normal, state})

  def handle_info(_, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    if state.port != nil and Port.info(state.port) != nil, do: Port.close(state.port)
    unless state.status == :dead, do: Python.kill(state.os_pid)
    if state.worker, do: retire(state)
    stopped = Death.unseen("its pool was stopped", :pool_stopped)
    if state.waiting, do: Waiting.dismiss(state.waiting, state.worker, gone(stopped))
    Python.cleanup(state.directory)
    Shared.Keeper.worker_gone(state.os_pid)
  end

  defp kill(state, why) do
    Python.kill(state.os_pid)
    %{state | killed_for: state.killed_for || why}
  end

  defp retire(%{worker: %{slots: slots}} = state) do
    # Whoever comes late to one that was replaced goes on to the next; it has not died.
    if state.status == :finishing, do: Slots.shrink(slots, 0), else: Slots.retire(slots)
    Slots.forget(state.worker)
    # Nobody is left there to call or to drop them.
    CallbackRegistry.forget({state.pool, state.worker.index, state.worker.generation})
  end

  # --- ready, dead ---

  defp line("snakebridge-ready " <> _, %{status: :starting} = state) do
    Process.cancel_timer(state.ready_timer)
    Python.warm_up(state.started)
    tell(state, :ready)
    %{state | status: :ready}
  end

  defp line(text, state) do
    text = LastWords.printable(text)
    Logger.info(fn -> "python[#{state.label}] #{text}" end)
    %{state | words: LastWords.add(state.words, text)}
  end

  # What callers are told of it.
  defp described(state, index, generation) do
    size = Keyword.get(state.options, :max_connections, 64)

    %{
      pid: self(),
      pool: state.pool,
      index: index,
      generation: generation,
      os_pid: state.os_pid,
      address: state.started.address,
      token: state.started.token,
      connect: [],
      remote: false,
      max_connections: size,
      output: state.options[:output],
      journal: Journal.kept?(state.options),
      # whether it shares memory
      shared: Shared.directory() != nil and Keyword.get(state.options, :shared, true),
      session_queue: state.options[:max_session_queue],
      slots: Slots.new(size),
      since: System.monotonic_time(:millisecond),
      # calls begun, processes that wait for a connection, sessions
      counts: :atomics.new(3, [])
    }
  end

  defp busy?(state),
    do: Slots.census(state.worker.slots).held > 0 or not Waiting.empty?(state.waiting)

  defp died(%{status: :starting} = state, death) do
    python = state.options |> Python.executable() |> elem(1)

    failed(
      state,
      "Python (#{python}) ended before it was ready: #{death.text}#{LastWords.advice(state.words)}"
    )
  end

  defp died(state, death) do
    if state.control, do: Process.exit(state.control, :kill)
    if state.worker, do: Slots.retire(state.worker.slots)
    # These first: whoever hears of the end asks for the next worker.
    if state.worker, do: Placement.worker_lost(state.worker, death.how)
    tell(state, {:died, death})
    for {from, timer} <- state.asking, do: {Process.cancel_timer(timer), GenServer.reply(from, death)}
    if state.waiting, do: Waiting.dismiss(state.waiting, state.worker, gone(death))
    if state.worker, do: CallbackRegistry.forget({state.pool, state.worker.index, state.worker.generation})
    # What user code started lives in the process group of the worker.
    Python.kill(state.os_pid)
    Python.cleanup(state.directory)
    Shared.Keeper.worker_gone(state.os_pid)

    Logger.warning(
      "SnakeBridge: the worker #{state.os_pid} of the pool #{inspect(state.pool)} died: #{death.text}"
    )

    state = %{state | status: :dead, death: death, asking: [], waiting: nil, control: nil, port: nil}
    Process.send_after(self(), :depart, @idle_sweep)
    if state.worker, do: {:noreply, state}, else: {:stop, :normal, state}
  end

  defp gone(nil), do: gone(Death.unseen("it was replaced meanwhile"))
  defp gone(death), do: {:error, Death.error(death, :not_started)}

  # The last who reads from it, reads what came before its end.
  defp depart(state) do
    Slots.retire(state.worker.slots)

    if Slots.census(state.worker.slots).held == 0 do
      {:stop, :normal, state}
    else
      Process.send_after(self(), :depart, @idle_sweep)
      {:noreply, state}
    end
  end
end
