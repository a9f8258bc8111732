defmodule SnakeBridge.Pool.Remote do
  @moduledoc """
  A worker of a pool that somebody else has started, on another machine perhaps: connects to it, notices that it is gone, and connects
  again. It has a place of the pool as `SnakeBridge.Pool.Seat` has, and answers callers as `SnakeBridge.Pool.Worker` does.

  A connection that breaks is not the end of what lives there: each Python process tells an `instance`, and while the same one answers,
  sessions and refs go on. When another answers, what its predecessor held is lost, as with any worker that died.
  """
  use GenServer, restart: :permanent

  require Logger

  alias SnakeBridge.{Breaker, CallbackRegistry, Error, Output}
  alias SnakeBridge.Lane.Connection

  alias SnakeBridge.Pool.{
    Admission,
    Control,
    Death,
    Heartbeat,
    Lifecycle,
    Line,
    Placement,
    Seat,
    Slots,
    Waiting,
    WorkerClient
  }

  @backoff_first 100
  @backoff_last 5_000
  # How long callers wait for a worker that cannot be reached before they are told so.
  @patience 5_000
  # A new connection takes a handshake.
  @idle_kept 16
  @idle_sweep 10_000
  @look_every 20

  def start_link({pool, index, options}),
    do: GenServer.start_link(__MODULE__, {pool, index, options}, name: Seat.name(pool, index))

  @impl true
  def init({pool, index, options}) do
    Process.flag(:trap_exit, true)
    Placement.mark_lost(pool, index, :_, "its pool was restarted")
    # Of an earlier life of this process, which has crashed.
    earlier = for %{pool: ^pool, index: ^index, generation: generation} <- Slots.workers(), do: generation
    Slots.forget(pool, index)
    CallbackRegistry.forget({pool, index, :_})
    Placement.put_worker(pool, index, :starting, %{})
    Process.send_after(self(), :sweep, @idle_sweep)

    state = %{
      pool: pool,
      index: index,
      place: Enum.at(options[:workers], index - 1),
      options: Keyword.put(options, :output, Output.mode(options)),
      generation: Enum.max(earlier, fn -> 0 end),
      # :connecting | :ready | {:failed, error} | :closed
      status: :connecting,
      # since when it is reached, or cannot be
      since: now(),
      # the process that holds the control connection, or tries to open it
      line: nil,
      control: nil,
      # which Python process was reached last
      instance: nil,
      # the worker as callers know it, also while it cannot be reached
      worker: nil,
      # callers that wait for it to be ready
      waiting: [],
      # callers that wait for a free connection
      turns: turns(options),
      # callers that want to know why their connection broke, and the breakers of their calls
      asking: [],
      # breakers of calls whose connections broke since it was last reached: of those that killed it, if it was killed
      suspects: MapSet.new(),
      # workers before this one, some of whose connections were still held
      retired: [],
      loss: nil,
      backoff: @backoff_first
    }

    if Lifecycle.closed?(pool) do
      Placement.put_worker(pool, index, :stopped, %{})
      {:ok, %{state | status: :closed}}
    else
      {:ok, state, {:continue, :connect}}
    end
  end

  defp turns(options), do: options |> Admission.new() |> Waiting.new()

  @impl true
  def handle_continue(:connect, state), do: {:noreply, connect(state)}

  defp connect(%{place: place} = state),
    do: %{state | line: Line.start_link(place, Heartbeat.settings(state.options))}

  # --- calls of callers ---

  @impl true
  def handle_call(:await, _from, %{status: :ready} = state), do: {:reply, {:ok, state.worker}, state}
  def handle_call(:await, _from, %{status: {:failed, error}} = state), do: {:reply, {:error, error}, state}

  def handle_call(:await, _from, %{status: :closed} = state),
    do: {:reply, {:error, Lifecycle.refusal(state.pool) || Seat.closed(state.pool)}, state}

  def handle_call(:await, from, state), do: {:noreply, %{state | waiting: [from | state.waiting]}}

  def handle_call({:wait, claim}, from, %{status: :ready} = state) do
    if Slots.admits?(state.worker.slots, claim) do
      if Waiting.empty?(state.turns), do: Process.send_after(self(), :look, @look_every)
      {:noreply, %{state | turns: Waiting.join(state.turns, from, claim, state.worker)}}
    else
      {:reply, :shut, state}
    end
  end

  def handle_call({:wait, _}, _from, state), do: {:reply, gone(state, state.loss || unreached()), state}

  # Another process answers already.
  def handle_call({:why, generation, circuit}, _from, %{generation: now} = state) when generation < now do
    Breaker.failed(circuit, :crash, nil, {state.index, generation})
    {:reply, state.loss, state}
  end

  def handle_call({:why, _, circuit}, from, %{status: :ready} = state) do
    # The connection broke before anything was heard of the others; it will, or the worker lives on.
    timer = Process.send_after(self(), {:no_reason, from}, 1_000)
    {:noreply, %{state | asking: [{from, timer, circuit} | state.asking]}}
  end

  def handle_call({:why, _, circuit}, _from, state),
    do: {:reply, state.loss, %{state | suspects: MapSet.put(state.suspects, circuit)}}

  # Its pool has been drained: what runs there runs for others, and what sessions hold stays.
  def handle_call(:close, _from, state) do
    if state.line, do: Process.exit(state.line, :kill)
    error = Seat.closed(state.pool)
    for from <- state.waiting, do: GenServer.reply(from, {:error, error})
    state = let_down(state, Death.unseen("its pool was drained", :pool_stopped))
    Placement.put_worker(state.pool, state.index, :stopped, %{})
    {:reply, :ok, %{given_up(state) | status: :closed, line: nil, waiting: []}}
  end

  def handle_call(:open, _from, %{status: :closed} = state) do
    Placement.put_worker(state.pool, state.index, :starting, %{})
    {:reply, :ok, connect(%{state | status: :connecting, since: now(), backoff: @backoff_first})}
  end

  def handle_call(:open, _from, state), do: {:reply, :ok, state}

  def handle_call(_, _from, state) do
    text =
      "the worker at #{state.place.address} is not this pool's to start or stop; do that where it was started"

    {:reply, {:error, Error.new(:invalid_request, text)}, state}
  end

  @impl true
  def handle_cast(:freed, %{status: :ready} = state),
    do: {:noreply, %{state | turns: Waiting.grant(state.turns, state.worker)}}

  def handle_cast({:cancel, {connection, request, _} = call, reason}, %{status: :ready} = state) do
    Control.cancel(state.control, connection, request, reason)
    grace = Keyword.get(state.options, :kill_after, 5_000)
    Process.send_after(self(), {:still_running?, call}, grace)
    {:noreply, state}
  end

  # What a call does that ignores its cancellation, nobody here can end; its caller need not wait for that.
  def handle_cast(:kill, %{worker: %{slots: slots}} = state) do
    for connection <- Slots.busy(slots), do: Connection.close(connection)
    {:noreply, %{state | loss: Death.unseen("its pool was drained", :pool_stopped)}}
  end

  def handle_cast(_, state), do: {:noreply, state}

  # --- the connection ---

  @impl true
  def handle_info({:reached, line, facts}, %{line: line} = state) do
    state = state |> same_or_lost(facts) |> worker(facts)
    send(line, {:begin, state.worker})
    {:noreply, %{state | suspects: MapSet.new()}}
  end

  def handle_info({:controlled, line, control}, %{line: line} = state) do
    if state.generation > 1 or state.loss, do: say(state, "is reached again")
    Slots.publish(state.worker)
    :atomics.put(state.worker.counts, 3, Placement.placed_on(state.pool, state.index))
    Placement.put_worker(state.pool, state.index, Lifecycle.status(state.pool), state.worker)
    for from <- state.waiting, do: GenServer.reply(from, {:ok, state.worker})

    {:noreply,
     %{state | status: :ready, since: now(), control: control, waiting: [], backoff: @backoff_first}}
  end

  def handle_info({:unreachable, line, error}, %{line: line} = state),
    do: {:noreply, unreachable(state, error)}

  def handle_info({:EXIT, line, reason}, %{line: line, status: :ready} = state),
    do: {:noreply, lost(state, "the connection to it broke#{ended(reason)}")}

  # The control connection could not be opened.
  def handle_info({:EXIT, line, %Error{} = error}, %{line: line} = state),
    do: {:noreply, unreachable(state, error)}

  # A failed attempt has told of itself; this one could not.
  def handle_info({:EXIT, line, reason}, %{line: line} = state) do
    error =
      Error.new(:unavailable, "the worker at #{state.place.address} cannot be used: #{inspect(reason)}", %{
        outcome: :not_started
      })

    {:noreply, unreachable(state, error)}
  end

  # That of an outage may come after the pool was drained.
  def handle_info(:connect, %{line: nil, status: status} = state) when status != :closed,
    do: {:noreply, connect(state)}

  # It may compute, and keep Python from answering: calls that run there go on. New ones would wait for it.
  def handle_info({:silent, _}, %{status: :ready} = state) do
    Process.exit(state.line, :kill)
    {:noreply, lost(state, "it has stopped answering (heartbeat: of the pool sets the limit)")}
  end

  # --- what calls leave to do ---

  def handle_info({:no_reason, from}, state) do
    {asked, asking} = Enum.split_with(state.asking, &match?({^from, _, _}, &1))
    for {from, _, _} <- asked, do: GenServer.reply(from, nil)
    {:noreply, %{state | asking: asking}}
  end

  def handle_info({:still_running?, call}, %{status: :ready} = state) do
    Control.ask_stats(state.control, self(), call)
    {:noreply, state}
  end

  def handle_info({:stats, _, {connection, request, circuit}, {:ok, %{"active" => active}}}, state) do
    if Enum.any?(active, &match?([^connection, ^request | _], &1)) do
      Breaker.failed(circuit, :timeout)

      Logger.warning(
        "SnakeBridge: a call ignores its cancellation on the worker at #{state.place.address}, which can only be restarted where it runs"
      )
    end

    {:noreply, state}
  end

  def handle_info(:look, %{status: :ready} = state) do
    turns = state.turns |> Waiting.expire(state.worker) |> Waiting.grant(state.worker)
    unless Waiting.empty?(turns), do: Process.send_after(self(), :look, Waiting.pause(turns, @look_every))
    {:noreply, %{state | turns: turns}}
  end

  def handle_info(:sweep, state) do
    Process.send_after(self(), :sweep, @idle_sweep)
    state = %{state | retired: Enum.reject(state.retired, &let_go?/1)}

    if state.status == :ready do
      if now() - state.since > @idle_sweep, do: Breaker.worker_well(state.pool, state.index)
      Slots.shrink(state.worker.slots, @idle_kept)
    end

    {:noreply, state}
  end

  def handle_info(_, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    Placement.drop_worker(state.pool, state.index)
    if state.line, do: Process.exit(state.line, :kill)
    let_down(state, Death.unseen("its pool was stopped", :pool_stopped))
    if state.worker, do: retire(state.worker)
  end

  # --- reached, lost ---

  # None was reached before.
  defp same_or_lost(%{instance: nil, worker: nil} = state, facts), do: %{state | instance: facts.instance}

  defp same_or_lost(state, %{instance: instance}) do
    if instance != nil and instance == state.instance do
      state
    else
      why = "the worker at #{state.place.address} was restarted"
      Placement.mark_lost(state.pool, state.index, :_, why)
      for circuit <- state.suspects, do: Breaker.failed(circuit, :crash, nil, {state.index, state.generation})
      given_up(%{state | loss: Death.unseen(why), instance: instance})
    end
  end

  defp given_up(%{worker: nil} = state), do: state

  defp given_up(%{worker: worker} = state) do
    retire(worker)
    %{state | retired: [worker | state.retired], worker: nil}
  end

  # The same process as before: what callers know of it still holds.
  defp worker(%{worker: %{}} = state, _), do: state

  defp worker(%{place: place, options: options} = state, facts) do
    generation = state.generation + 1
    most = Keyword.get(options, :max_connections, 64)

    worker = %{
      pid: self(),
      pool: state.pool,
      index: state.index,
      generation: generation,
      # Nobody may take it for a process of this machine.
      os_pid: nil,
      remote: true,
      address: place.address,
      token: place.token,
      connect: [instance: facts.instance] ++ place.connect,
      max_connections: most,
      output: options[:output],
      # Each worker may have a file of its own, so a key is only one key where the option says that they share it.
      journal: Keyword.get(options, :journal, false) == true and "journal" in facts.features,
      shared: false,
      session_queue: options[:max_session_queue],
      slots: Slots.new(most),
      since: now(),
      # calls begun, processes that wait for a connection, sessions
      counts: :atomics.new(3, [])
    }

    %{state | generation: generation, worker: worker}
  end

  defp lost(state, why) do
    say(state, "cannot be reached: #{why}")
    Breaker.worker_failed(state.pool, state.index)
    Placement.put_worker(state.pool, state.index, :starting, %{})
    # Those that nobody uses are most likely broken, too.
    Slots.shrink(state.worker.slots, 0)
    again(let_down(%{state | status: :connecting, since: now()}, Death.unseen(why)))
  end

  # Whoever waits for something from it is told why nothing comes.
  defp let_down(state, loss) do
    for {from, timer, _} <- state.asking, do: {Process.cancel_timer(timer), GenServer.reply(from, loss)}
    if state.worker, do: Waiting.dismiss(state.turns, state.worker, gone(state, loss))
    suspects = for {_, _, circuit} <- state.asking, into: state.suspects, do: circuit
    %{state | control: nil, loss: loss, asking: [], suspects: suspects, turns: turns(state.options)}
  end

  defp ended({:shutdown, :normal}), do: ""
  defp ended({:shutdown, reason}), do: ": #{inspect(reason, limit: 10)}"
  defp ended(reason), do: ": #{inspect(reason, limit: 10)}"

  # An outage may be over in a moment: callers wait that long. Who is not trusted will not be trusted in a moment.
  defp unreachable(state, error) do
    patience = Keyword.get(state.options, :start_timeout, @patience)

    if error.category != :unavailable or now() - state.since >= patience,
      do: again(failed(state, error)),
      else: again(state)
  end

  defp failed(state, error) do
    unless match?({:failed, %{message: message}} when message == error.message, state.status),
      do: say(state, "cannot be used: #{error.message}")

    error = %{error | outcome: :not_started, retry_after_ms: state.backoff}
    Placement.put_worker(state.pool, state.index, :failed, %{})
    for from <- state.waiting, do: GenServer.reply(from, {:error, error})
    %{state | status: {:failed, error}, waiting: [], loss: Death.unseen(error.message)}
  end

  # Not all at once, when many nodes have lost the same machine.
  defp again(state) do
    Process.send_after(self(), :connect, div(state.backoff, 2) + :rand.uniform(state.backoff))
    %{state | line: nil, backoff: min(2 * state.backoff, @backoff_last)}
  end

  defp retire(worker) do
    Slots.retire(worker.slots)
    CallbackRegistry.forget({worker.pool, worker.index, worker.generation})
  end

  # Whether nothing is left of a worker before this one.
  defp let_go?(worker) do
    Slots.retire(worker.slots)
    if Slots.census(worker.slots).held == 0, do: Slots.forget(worker), else: false
  end

  defp gone(state, loss),
    do: {:error, Death.error(loss, :not_started, WorkerClient.lost(state.place.address))}

  defp unreached, do: Death.unseen("it is not reached yet")

  defp say(state, text),
    do:
      Logger.warning(
        "SnakeBridge: the worker at #{state.place.address} of the pool #{inspect(state.pool)} #{text}"
      )

  defp now, do: System.monotonic_time(:millisecond)
end
