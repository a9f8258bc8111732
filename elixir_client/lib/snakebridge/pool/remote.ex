defmodule SnakeBridge.Pool.Remote do
  @moduledoc """
  A worker of a pool that somebody else has started, on another machine perhaps: connects to it, notices that it is gone, and connects
  again. To callers it is what `SnakeBridge.Pool.Worker` is, and answers the same messages.

  A connection that breaks is not the end of what lives there: each Python process tells an `instance`, and while the same one answers,
  sessions and refs go on. When another answers, what its predecessor held is lost, as with any worker that died.
  """
  use GenServer, restart: :permanent

  require Logger

  alias SnakeBridge.{CallbackRegistry, Error, Output}
  alias SnakeBridge.Lane.Connection
  alias SnakeBridge.Pool.{Control, Placement, Queue, Slots, Worker}

  @backoff_first 100
  @backoff_last 5_000
  # How long callers wait for a worker that cannot be reached before they are told so.
  @patience 5_000
  # A new connection takes a handshake.
  @idle_kept 16
  @idle_sweep 10_000
  @look_every 20

  def start_link({pool, index, options}),
    do: GenServer.start_link(__MODULE__, {pool, index, options}, name: Worker.name(pool, index))

  @impl true
  def init({pool, index, options}) do
    Process.flag(:trap_exit, true)
    Placement.mark_lost(pool, index, "its pool was restarted")
    Slots.forget(pool, index)
    CallbackRegistry.forget({pool, index, :_})
    Placement.put_worker(pool, index, :starting, %{})
    Process.send_after(self(), :sweep, @idle_sweep)

    state = %{
      pool: pool,
      index: index,
      place: Enum.at(options[:workers], index - 1),
      options: Keyword.put(options, :output, Output.mode(options)),
      generation: 0,
      # :connecting | :ready | {:failed, error}
      status: :connecting,
      # since when it cannot be reached
      since: now(),
      # the process that holds the control connection, or tries to open it
      line: nil,
      control: nil,
      # the worker as callers know it, also while it cannot be reached
      worker: nil,
      # callers that wait for it to be ready
      waiting: [],
      # callers that wait for a free connection
      queue: Queue.new(),
      # callers that want to know why their connection broke
      asking: [],
      # workers before this one, some of whose connections were still held
      retired: [],
      loss: nil,
      backoff: @backoff_first
    }

    {:ok, state, {:continue, :connect}}
  end

  @impl true
  def handle_continue(:connect, state), do: {:noreply, connect(state)}

  # --- the line: a process of its own, so that a machine that does not answer holds up nobody here ---

  defp connect(%{place: place} = state) do
    remote = self()
    %{state | line: spawn_link(fn -> line(remote, place) end)}
  end

  defp line(remote, place) do
    with {:ok, facts} <- ask(place),
         :ok <- tell(remote, {:reached, self(), facts}),
         worker = receive(do: ({:begin, worker} -> worker)),
         {:ok, control} <- Control.start_link(worker) do
      # Control ends normally when its connection does, which a link alone does not tell.
      monitor = Process.monitor(control)
      tell(remote, {:controlled, self(), control})
      receive(do: ({:DOWN, ^monitor, _, _, reason} -> exit({:shutdown, reason})))
    else
      {:error, error} -> tell(remote, {:unreachable, self(), error})
    end
  end

  # Which process answers there, and what it can do. Not as control connection: Python would call functions over that.
  defp ask(place) do
    with {:ok, connection} <- Connection.open(place.address, place.token, :call, [], place.connect) do
      Connection.close(connection)
      {:ok, Map.take(connection, [:instance, :features])}
    end
  end

  defp tell(pid, message) do
    send(pid, message)
    :ok
  end

  # --- calls of callers ---

  @impl true
  def handle_call(:await, _from, %{status: :ready} = state), do: {:reply, {:ok, state.worker}, state}
  def handle_call(:await, _from, %{status: {:failed, error}} = state), do: {:reply, {:error, error}, state}
  def handle_call(:await, from, state), do: {:noreply, %{state | waiting: [from | state.waiting]}}

  def handle_call({:wait, generation}, from, %{generation: generation, status: :ready} = state) do
    if Queue.empty?(state.queue), do: Process.send_after(self(), {:look, generation}, @look_every)
    {:noreply, %{state | queue: Queue.join(state.queue, from, state.worker)}}
  end

  def handle_call({:wait, _}, _from, state), do: {:reply, gone(state), state}

  def handle_call({:why, generation}, from, %{generation: generation, status: :ready} = state) do
    # The connection broke before anything was heard of the others; it will, or the worker lives on.
    timer = Process.send_after(self(), {:no_reason, from}, 1_000)
    {:noreply, %{state | asking: [{from, timer} | state.asking]}}
  end

  def handle_call({:why, _}, _from, state), do: {:reply, state.loss, state}

  def handle_call(_, _from, state) do
    text =
      "the worker at #{state.place.address} is not this pool's to start or stop; do that where it was started"

    {:reply, {:error, Error.new(:invalid_request, text)}, state}
  end

  @impl true
  def handle_cast({:freed, generation}, %{generation: generation, status: :ready} = state),
    do: {:noreply, %{state | queue: Queue.wake(state.queue, state.worker)}}

  def handle_cast(
        {:cancel, generation, connection, request, reason},
        %{generation: generation, status: :ready} = state
      ) do
    Control.cancel(state.control, connection, request, reason)
    grace = Keyword.get(state.options, :kill_after, 5_000)
    Process.send_after(self(), {:still_running?, generation, connection, request}, grace)
    {:noreply, state}
  end

  def handle_cast(_, state), do: {:noreply, state}

  # --- the connection ---

  @impl true
  def handle_info({:reached, line, facts}, %{line: line} = state) do
    state = state |> same_or_lost(facts) |> worker(facts)
    send(line, {:begin, state.worker})
    {:noreply, state}
  end

  def handle_info({:controlled, line, control}, %{line: line} = state) do
    if state.generation > 1 or state.loss, do: say(state, "is reached again")
    Slots.publish(state.worker)
    :atomics.put(state.worker.counts, 3, Placement.placed_on(state.pool, state.index))
    Placement.put_worker(state.pool, state.index, :ready, state.worker)
    for from <- state.waiting, do: GenServer.reply(from, {:ok, state.worker})
    {:noreply, %{state | status: :ready, control: control, waiting: [], backoff: @backoff_first}}
  end

  def handle_info({:unreachable, line, error}, %{line: line} = state),
    do: {:noreply, unreachable(state, error)}

  def handle_info({:EXIT, line, reason}, %{line: line, status: :ready} = state),
    do: {:noreply, lost(state, reason)}

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

  def handle_info(:connect, %{line: nil} = state), do: {:noreply, connect(state)}

  # --- what calls leave to do ---

  def handle_info({:no_reason, from}, state) do
    {asked, asking} = Enum.split_with(state.asking, &match?({^from, _}, &1))
    for {from, _} <- asked, do: GenServer.reply(from, nil)
    {:noreply, %{state | asking: asking}}
  end

  def handle_info(
        {:still_running?, generation, connection, request},
        %{generation: generation, status: :ready} = state
      ) do
    Control.ask_stats(state.control, self(), {connection, request})
    {:noreply, state}
  end

  def handle_info(
        {:stats, generation, {connection, request}, {:ok, %{"active" => active}}},
        %{generation: generation} = state
      ) do
    if Enum.any?(active, &match?([^connection, ^request | _], &1)) do
      Logger.warning(
        "SnakeBridge: a call ignores its cancellation on the worker at #{state.place.address}, which can only be restarted where it runs"
      )
    end

    {:noreply, state}
  end

  def handle_info({:look, generation}, %{generation: generation, status: :ready} = state) do
    queue = Queue.wake(state.queue, state.worker)
    unless Queue.empty?(queue), do: Process.send_after(self(), {:look, generation}, @look_every)
    {:noreply, %{state | queue: queue}}
  end

  def handle_info(:sweep, state) do
    Process.send_after(self(), :sweep, @idle_sweep)
    state = %{state | retired: Enum.reject(state.retired, &let_go?/1)}

    if state.status == :ready do
      Slots.shrink(state.worker.slots, @idle_kept)
      {:noreply, %{state | queue: Queue.wake(state.queue, state.worker)}}
    else
      {:noreply, state}
    end
  end

  def handle_info(_, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    Placement.drop_worker(state.pool, state.index)
    if state.line, do: Process.exit(state.line, :kill)
    if state.worker, do: retire(state.worker)
  end

  # --- reached, lost ---

  defp same_or_lost(%{worker: %{connect: connect}} = state, facts) do
    if facts.instance != nil and connect[:instance] == facts.instance do
      state
    else
      why = "the worker at #{state.place.address} was restarted"
      Placement.mark_lost(state.pool, state.index, why)
      retire(state.worker)
      %{state | retired: [state.worker | state.retired], worker: nil, loss: why}
    end
  end

  defp same_or_lost(state, _), do: state

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
      slots: Slots.new(most),
      # unused, processes that wait for a connection, sessions
      counts: :atomics.new(3, [])
    }

    %{state | generation: generation, worker: worker}
  end

  defp lost(state, reason) do
    why = "the connection to it broke#{ended(reason)}"
    say(state, "cannot be reached: #{why}")
    Placement.put_worker(state.pool, state.index, :starting, %{})
    # Those that nobody uses are most likely broken, too.
    Slots.shrink(state.worker.slots, 0)
    for {from, timer} <- state.asking, do: {Process.cancel_timer(timer), GenServer.reply(from, why)}
    Queue.dismiss(state.queue, gone(state))

    again(%{
      state
      | status: :connecting,
        since: now(),
        control: nil,
        loss: why,
        asking: [],
        queue: Queue.new()
    })
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
    %{state | status: {:failed, error}, waiting: [], loss: error.message}
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

  defp gone(state),
    do:
      {:error,
       Error.new(
         :worker_crash,
         "the worker at #{state.place.address} cannot be reached; the call had not started",
         %{outcome: :not_started}
       )}

  defp say(state, text),
    do:
      Logger.warning(
        "SnakeBridge: the worker at #{state.place.address} of the pool #{inspect(state.pool)} #{text}"
      )

  defp now, do: System.monotonic_time(:millisecond)
end
