defmodule SnakeBridge.Session.Server do
  @moduledoc """
  The owner of a session: begins its lives, notices their ends, and keeps casts in order. It knows where the session is and what its state is, and tells
  callers; it never calls Python itself, so it always answers.

  Where a session is ready, its place stands in the registry `SnakeBridge.Sessions` under the server's pid: callers find it there without asking.
  Under the id of its Python session the pool finds the server when the worker dies.
  """
  use GenServer

  require Logger

  alias SnakeBridge.{Error, Pool, Telemetry}
  alias SnakeBridge.Session.Life

  @registry SnakeBridge.Sessions
  @backoff_first 100
  @backoff_last 5_000
  # A life that lasted this long makes up for earlier failures.
  @healthy_after 5_000
  @failures_at_choice 2
  # How often a cast that found its session gone is given to the next life.
  @reruns 2
  @stopped "the application :snakebridge was stopped"

  @typedoc "Where a session is: its server, which life it is in, its Python session, its pool, and its state."
  @type place :: %{
          server: pid(),
          generation: pos_integer(),
          session_id: String.t(),
          pool: atom(),
          state: term()
        }

  # --- for callers ---

  @doc "Where the session is, if it is ready."
  @spec place(pid()) :: place() | nil
  def place(server) do
    case Registry.lookup(@registry, server) do
      [{_, place}] -> if lost?(place), do: nil, else: place
      [] -> nil
    end
  rescue
    # The application is stopped, and its tables are gone.
    ArgumentError -> nil
  end

  @doc "Whether a Python session is the life of a session."
  @spec life?(String.t()) :: boolean()
  def life?(session_id), do: Registry.lookup(@registry, {:session, session_id}) != []

  @doc "Whether a process is the server of a session."
  @spec session?(pid()) :: boolean()
  def session?(pid), do: match?({__MODULE__, _, _}, :proc_lib.translate_initial_call(pid))

  @doc "Whether the worker on which a place is has died."
  @spec lost?(place()) :: boolean()
  def lost?(place) do
    match?({_, reason} when is_binary(reason), Pool.Placement.at(place.pool, place.session_id))
  rescue
    # As above.
    ArgumentError -> true
  end

  @doc "A caller found that what the state of a place names is not there any more."
  @spec gone(place(), String.t()) :: :ok
  def gone(place, reason) do
    GenServer.call(place.server, {:gone, place.generation, reason})
  catch
    :exit, _ -> :ok
  end

  @doc false
  # Called by the pool when the worker of a session has died; most sessions have no server.
  def lost(session_id, reason) do
    for {server, _} <- Registry.lookup(@registry, {:session, session_id}),
        do: send(server, {:lost, session_id, reason})

    :ok
  end

  # --- the process ---

  @impl true
  def init(options) do
    Process.flag(:trap_exit, true)

    state = %{
      options: options,
      status: :starting,
      life: nil,
      session_id: nil,
      place: nil,
      generation: 0,
      since: now(),
      failures: 0,
      last_error: nil,
      waiting: [],
      # of each the function, and how often it found its session gone
      casts: :queue.new(),
      # the one that runs
      cast: nil
    }

    {:ok, state, {:continue, :begin}}
  end

  @impl true
  def handle_continue(:begin, state), do: {:noreply, begin(state)}

  @impl true
  def handle_call({:await, left}, from, %{status: :ready} = state) do
    # The caller may have seen the end of the worker before the word of it came here.
    if lost?(state.place),
      do: ended("its worker died", wait(state, from, left)),
      else: {:reply, {:ok, state.place}, state}
  end

  def handle_call({:await, left}, from, state), do: {:noreply, wait(state, from, left)}

  # Answered when it is so: the caller looks for the next life then.
  def handle_call({:gone, generation, reason}, _from, %{status: :ready, generation: generation} = state) do
    case ended(reason, state) do
      {:noreply, state} -> {:reply, :ok, state}
      {:stop, why, state} -> {:stop, why, :ok, state}
    end
  end

  def handle_call({:gone, _, _}, _from, state), do: {:reply, :ok, state}

  def handle_call(:info, _from, state) do
    worker =
      with %{pool: pool, session_id: id} <- state.place,
           {index, _} <- Pool.Placement.at(pool, id),
           do: index,
           else: (_ -> nil)

    info = %{
      status: state.status,
      pool: state.options[:pool],
      session_id: state.session_id,
      worker: worker,
      lives: state.generation,
      failures: state.failures,
      last_error: state.last_error,
      casts: :queue.len(state.casts)
    }

    {:reply, info, state}
  end

  # From a process that takes it for something else, which must not end it for everybody.
  def handle_call(_, _from, state) do
    text =
      "#{state.options[:label]} is a session, which does not answer that: call it with SnakeBridge.Session"

    {:reply, {:error, Error.new(:invalid_request, text)}, state}
  end

  @impl true
  def handle_cast({:cast, function}, state),
    do: {:noreply, next_cast(%{state | casts: :queue.in({function, 0}, state.casts)})}

  @impl true
  def handle_info({:begun, life, id}, %{life: life} = state) do
    if listed({:session, id}, nil), do: {:noreply, %{state | session_id: id}}, else: ended(@stopped, state)
  end

  def handle_info({:ready, life, result}, %{life: life} = state) do
    place = %{
      server: self(),
      generation: state.generation,
      session_id: state.session_id,
      pool: state.options[:pool],
      state: result
    }

    cond do
      lost?(place) -> ended("its worker died while it began", state)
      listed(self(), place) -> {:noreply, ready(state, place)}
      true -> ended(@stopped, state)
    end
  end

  def handle_info({:failed, life, error}, %{life: life} = state), do: failed(error, state)

  def handle_info({:ran, life, outcome}, %{life: life} = state) do
    state = %{state | cast: nil, casts: left(outcome, state)}

    # The next one is not sent after a worker that is gone.
    cond do
      state.status != :ready -> {:noreply, state}
      lost?(state.place) -> ended("its worker died", state)
      outcome != :done -> ended(elem(outcome, 1), state)
      true -> {:noreply, next_cast(state)}
    end
  end

  def handle_info({:lost, id, reason}, %{status: :ready, session_id: id} = state), do: ended(reason, state)

  def handle_info({:EXIT, life, reason}, %{life: life} = state),
    do: ended("its process ended: #{inspect(reason, limit: 10)}", state)

  # The registry tells those who are listed when it ends.
  def handle_info({:EXIT, _, _}, %{status: :ready} = state),
    do: if(place(self()), do: {:noreply, state}, else: ended(@stopped, state))

  def handle_info(:begin, %{status: :resting} = state), do: {:noreply, begin(state)}
  def handle_info(_, state), do: {:noreply, state}

  @impl true
  def terminate(_reason, state) do
    error =
      Error.new(:unavailable, "the session #{state.options[:label]} was stopped", %{outcome: :not_started})

    state |> answer({:error, error}) |> end_life()
  end

  # --- lives ---

  defp begin(state) do
    # A worker of choice that cannot be had is given up for any other.
    options =
      if state.failures > @failures_at_choice, do: Keyword.delete(state.options, :worker), else: state.options

    %{
      state
      | status: :starting,
        generation: state.generation + 1,
        since: now(),
        life: Life.start(options),
        session_id: nil
    }
  end

  defp ready(state, place) do
    tell(state, :ready, %{duration: (now() - state.since) * 1000})
    state = answer(state, {:ok, place})
    next_cast(%{state | status: :ready, place: place, since: now(), last_error: nil})
  end

  # The life is over although it had begun well, or its process died.
  defp ended(reason, state) do
    error = Error.new(:session_lost, "the session #{state.options[:label]} was lost: #{reason}")
    healthy? = state.status == :ready and now() - state.since >= @healthy_after
    again(error, %{state | failures: if(healthy?, do: 0, else: state.failures)}, not healthy?)
  end

  defp failed(error, state) do
    text = "the session #{state.options[:label]} cannot begin: #{Exception.message(error)}"
    told = %{error | message: text, python_type: nil, notes: []}
    again(told, answer(state, {:error, told}), true)
  end

  # The first end after a good life is followed by a new one at once.
  defp again(error, state, counts?) do
    tell(state, :lost, %{}, error)

    if state.cast,
      do: Logger.error("SnakeBridge: a cast was running when #{error.message}; it is not run again")

    state = state |> end_life() |> Map.merge(%{place: nil, cast: nil, last_error: error})
    state = if counts?, do: %{state | failures: state.failures + 1}, else: state
    most = state.options[:max_failures]

    cond do
      state.failures > most ->
        Logger.error("SnakeBridge: #{error.message}; given up (max_failures: #{most})")
        {:stop, {:shutdown, {:session_failed, error}}, answer(state, {:error, error})}

      state.failures == 0 ->
        Logger.warning("SnakeBridge: #{error.message}; it begins again")
        {:noreply, begin(state)}

      true ->
        rest = rest(state.failures)
        Logger.warning("SnakeBridge: #{error.message}; it begins again in #{rest} ms")
        Process.send_after(self(), :begin, rest)
        {:noreply, %{state | status: :resting}}
    end
  end

  defp rest(failures), do: min(@backoff_first * Integer.pow(2, min(failures - 1, 10)), @backoff_last)

  # Its Python session is released by SnakeBridge.SessionManager.
  defp end_life(%{life: nil} = state), do: state

  defp end_life(%{life: life} = state) do
    unlist(self())
    if state.session_id, do: unlist({:session, state.session_id})
    Process.unlink(life)
    Process.exit(life, :kill)
    receive(do: ({:EXIT, ^life, _} -> :ok), after: (0 -> :ok))
    %{state | life: nil}
  end

  # There is no registry while the application is stopped.
  defp listed(key, value) do
    match?({:ok, _}, Registry.register(@registry, key, value))
  rescue
    ArgumentError -> false
  end

  defp unlist(key) do
    Registry.unregister(@registry, key)
  rescue
    ArgumentError -> :ok
  end

  # --- parts ---

  # Those who gave up are forgotten: where init hangs, somebody may ask again and again.
  defp wait(state, from, left) do
    waiting = for {_, deadline} = waits <- state.waiting, Pool.left(deadline) != 0, do: waits
    %{state | waiting: [{from, Pool.deadline(left)} | waiting]}
  end

  defp answer(state, answer) do
    for {from, _} <- state.waiting, do: GenServer.reply(from, answer)
    %{state | waiting: []}
  end

  defp left({:unbegun, _}, %{cast: {function, reruns}} = state) when reruns < @reruns,
    do: :queue.in_r({function, reruns + 1}, state.casts)

  defp left({:unbegun, reason}, state) do
    Logger.error(
      "SnakeBridge: a cast to the session #{state.options[:label]} failed: #{reason}; given up after #{@reruns + 1} attempts"
    )

    state.casts
  end

  defp left(:done, state), do: state.casts

  defp next_cast(%{status: :ready, cast: nil} = state) do
    case :queue.out(state.casts) do
      {{:value, {function, _} = cast}, casts} ->
        Life.run(state.life, function)
        %{state | casts: casts, cast: cast}

      {:empty, _} ->
        state
    end
  end

  defp next_cast(state), do: state

  defp tell(state, event, measurements, error \\ nil) do
    metadata = %{session: state.options[:label], pool: state.options[:pool]}
    Telemetry.execute([:snakebridge, :session, event], measurements, metadata)

    with {watcher, index} <- state.options[:watcher],
         do: GenServer.cast(watcher, {:session, event, index, self(), error})
  end

  defp now, do: System.monotonic_time(:millisecond)
end
