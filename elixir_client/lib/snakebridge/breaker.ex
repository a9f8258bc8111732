defmodule SnakeBridge.Breaker do
  @moduledoc """
  Circuit breakers: functions whose calls kill their workers again and again are refused for a while, and workers that die again and again
  get no new sessions (docs/retries.md).

  There is one per function (pool, module and name) and one per worker of a pool. The pool option `breaker:` has their numbers:

    * `:failures` and `:window` - how many failures within how many milliseconds open it (5 in 60 000)
    * `:rate` - if more than this share of the calls since the first of them have failed (0.5): a function whose calls mostly succeed is not to
      blame when somebody kills workers; 0: the number alone decides
    * `:open` - for how many milliseconds calls are then refused, with `:circuit_open` (30 000)
    * `:probes` - how many calls at once are let through afterwards, to see (3)
    * `:successes` - how many of them must succeed to close it (3); one that fails opens it again
    * `:count` - what is a failure: `:crash` (the worker died under the call), `:timeout` (it was killed because the call ignored its
      cancellation), `:python_error` (`[:crash, :timeout]`)

  `breaker: false` turns them off. When a breaker changes, there is an event `[:snakebridge, :breaker, :open | :half_open | :closed]`, with the
  measurement `rejections` and the metadata `pool`, and `module` and `function`, or `worker`; handlers run in a process of their own.

  A call looks into a table, where only breakers are that have something to tell; if its own is there, its success is counted there. This process
  is asked when a call fails, and when one may be a probe.
  """
  use GenServer

  require Logger

  alias SnakeBridge.Breaker.{Circuit, Settings}
  alias SnakeBridge.{Error, Telemetry}

  # key => state, until when it is open, how many calls were refused, how many have succeeded since it is here
  @table :snakebridge_breakers
  @refused 4
  @succeeded 5

  @typedoc "A function of a pool, or a worker of a pool."
  @type key :: {atom(), module :: String.t(), function :: String.t()} | {atom(), index :: pos_integer()}
  @typedoc "A call that is let through to see whether it succeeds."
  @type token :: reference()

  @doc false
  def table, do: @table

  @doc false
  # Checks the settings of a pool that starts, and forgets what an earlier pool of its name went through.
  def configure(pool, options) do
    :persistent_term.put({__MODULE__, pool}, Settings.new(options[:breaker]))
    ask({:forget, pool})
    :ok
  end

  defp settings(pool), do: :persistent_term.get({__MODULE__, pool}, nil)

  # --- calls ---

  @doc "The breaker that a call belongs to; requests that call no function have none."
  @spec key(atom(), map()) :: key() | nil
  def key(pool, %{"function" => function} = payload), do: {pool, payload["python_module"] || "", function}
  def key(_, _), do: nil

  @doc """
  Whether a call may be made. `:watched`: it says so with `succeeded/2` if it succeeds. Who gets a token says with `succeeded/2`, `failed/3` or
  `released/2` what came of it.
  """
  @spec permit(key() | nil) :: :pass | :watched | {:probe, token()} | {:error, Error.t()}
  def permit(nil), do: :pass

  def permit(key) do
    case :ets.lookup(@table, key) do
      [] ->
        :pass

      [{_, :closed, _, _, _}] ->
        :watched

      [{_, :open, until, _, _}] ->
        left = until - now()
        if left > 0, do: refused(key, left), else: probe(key)

      _ ->
        probe(key)
    end
  end

  defp probe(key) do
    case ask({:permit, key}) do
      {:refuse, left} -> refused(key, left)
      {:probe, token} -> {:probe, token}
      _ -> :pass
    end
  end

  defp refused({pool, module, function} = key, left) do
    add(key, @refused)

    text =
      "calls of #{name(module, function)} are refused, because too many of them have failed lately (a failure is the death of their worker, unless breaker: of the " <>
        "pool says otherwise); the next is let through in #{left} ms, to see. SnakeBridge.Breaker.list(#{inspect(pool)}) tells more"

    {:error, Error.new(:circuit_open, text, %{outcome: :not_started, retry_after_ms: left})}
  end

  defp add(key, counter) do
    :ets.update_counter(@table, key, {counter, 1})
  rescue
    # It was closed or forgotten just now.
    ArgumentError -> 0
  end

  @doc "A call has failed in a way that its pool may count; several that failed of one incident count once."
  @spec failed(key() | nil, :crash | :timeout | :python_error, token() | nil, incident :: term()) :: :ok
  def failed(key, kind, token \\ nil, incident \\ nil)
  def failed(nil, _, _, _), do: :ok

  def failed(key, kind, token, incident) do
    settings = settings(elem(key, 0))

    cond do
      settings != nil and kind in settings.count -> ask({:failed, key, settings, token, incident})
      # Calls that fail without harm to their worker are none of this breaker's business.
      token != nil or kind == :python_error -> succeeded(key, token)
      true -> nil
    end

    :ok
  end

  @doc "A call has succeeded: a probe, by its token, or any other of a function that has something to tell."
  @spec succeeded(key() | nil, token() | nil) :: :ok
  def succeeded(key, token \\ nil)
  def succeeded(nil, _), do: :ok

  def succeeded(key, nil) do
    if :ets.member(@table, key), do: add(key, @succeeded)
    :ok
  end

  def succeeded(key, token) do
    ask({:succeeded, key, token})
    :ok
  end

  @doc "A probe ended before it could tell anything."
  @spec released(key(), token()) :: :ok
  def released(key, token) do
    ask({:released, key, token})
    :ok
  end

  # --- workers ---

  @doc "The process of a worker has died, or could not start."
  @spec worker_failed(atom(), pos_integer()) :: :ok
  def worker_failed(pool, index), do: failed({pool, index}, :crash)

  @doc "A worker has been running for a while. Said several times after it was tainted, this makes up for it."
  @spec worker_well(atom(), pos_integer()) :: :ok
  def worker_well(pool, index) do
    if :ets.member(@table, {pool, index}), do: ask({:well, {pool, index}})
    :ok
  end

  @doc "Whether a worker gets no new sessions, because its processes died too often."
  @spec tainted?(atom(), pos_integer()) :: boolean()
  def tainted?(pool, index), do: state({pool, index}) == :open

  @doc "Those of some workers (anything, of which `index` tells which) that are not tainted; all of them if all are."
  @spec sound([worker], atom(), (worker -> pos_integer())) :: [worker] when worker: term()
  def sound(workers, pool, index) do
    case Enum.reject(workers, &tainted?(pool, index.(&1))) do
      [] -> workers
      sound -> sound
    end
  end

  # --- looking in ---

  @doc "The state of a breaker. One whose time is up is half open: the next call is a probe."
  @spec state(key()) :: Circuit.state()
  def state(key) do
    case :ets.lookup(@table, key) do
      [] -> :closed
      [{_, :open, until, _, _}] -> if until > now(), do: :open, else: :half_open
      [{_, state, _, _, _}] -> state
    end
  end

  @doc """
  The breakers of a pool that have something to tell: maps with `state`, `failures` (that count now), `rejections`, `retry_after_ms` (nil unless
  it is open), and `module` and `function`, or `worker`.
  """
  @spec list(atom()) :: [map()]
  def list(pool \\ :default) do
    failures = ask({:failures, pool}) || %{}

    for {key, _, until, rejections, _} <- :ets.tab2list(@table), elem(key, 0) == pool do
      state = state(key)

      Map.merge(named(key), %{
        state: state,
        failures: Map.get(failures, key, 0),
        rejections: rejections,
        retry_after_ms: if(state == :open, do: max(until - now(), 0))
      })
    end
  end

  defp named({pool, module, function}), do: %{pool: pool, module: module, function: function}
  defp named({pool, index}), do: %{pool: pool, worker: index}

  defp name("", function), do: function
  defp name(module, function), do: "#{module}.#{function}"

  # --- changes ---

  defp ask(question) do
    GenServer.call(__MODULE__, question)
  catch
    # The application is being stopped.
    :exit, _ -> nil
  end

  defp tell(key, circuit, rejections) do
    if circuit.state == :open, do: Logger.warning("SnakeBridge: " <> warning(key, circuit.settings))
    measurements = %{rejections: rejections}

    # A handler may take its time, and make calls: neither this process nor who asked it waits for that.
    Task.Supervisor.start_child(SnakeBridge.Tasks, fn ->
      Telemetry.execute([:snakebridge, :breaker, circuit.state], measurements, named(key))
    end)
  end

  defp warning({pool, index}, settings) do
    "the worker #{index} of the pool #{inspect(pool)} is tainted: its processes have died too often (#{settings.failures} in #{settings.window} ms, " <>
      "or again on probation); it gets no new sessions for #{settings.open} ms as long as there is another"
  end

  defp warning({pool, module, function}, settings) do
    "calls of #{name(module, function)} in the pool #{inspect(pool)} are refused for #{settings.open} ms: they have failed too often " <>
      "(#{settings.failures} times in #{settings.window} ms, and more than #{round(settings.rate * 100)} % of them meanwhile, or again on probation; counted are #{Enum.map_join(settings.count, ", ", &inspect/1)})"
  end

  # --- the process ---

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @impl true
  def init(nil) do
    :ets.delete_all_objects(@table)

    # circuits by key; the key of each probe by its token, which is the monitor of who makes it; for which keys a timer runs
    {:ok, %{circuits: %{}, probes: %{}, tidied: MapSet.new()}}
  end

  @impl true
  def handle_call({:forget, pool}, _, state) do
    keys = for {key, _} <- state.circuits, elem(key, 0) == pool, do: key
    {:reply, :ok, Enum.reduce(keys, state, &forget(&2, &1))}
  end

  def handle_call({:failures, pool}, _, state) do
    now = now()

    counts =
      for {key, circuit} <- state.circuits,
          elem(key, 0) == pool,
          do: {key, length(Circuit.recent(circuit, now))}

    {:reply, Map.new(counts), state}
  end

  def handle_call({:failed, key, settings, token, incident}, _, state) do
    state = forget_probe(state, token)
    known = state.circuits[key]

    state =
      put(
        state,
        key,
        Circuit.failed(known || Circuit.new(settings), now(), incident, counted(key, @succeeded))
      )

    {:reply, :ok, tidy_later(state, key, settings)}
  end

  def handle_call({:permit, key}, {pid, _}, state) do
    case state.circuits do
      %{^key => circuit} ->
        token = Process.monitor(pid)
        {answer, circuit} = Circuit.permit(circuit, token, now())
        state = put(state, key, circuit)

        if answer == :probe do
          {:reply, {:probe, token}, put_in(state.probes[token], key)}
        else
          Process.demonitor(token, [:flush])
          {:reply, answer, state}
        end

      _ ->
        {:reply, :pass, state}
    end
  end

  def handle_call({ended, key, token}, _, state) when ended in [:succeeded, :released] do
    {:reply, :ok, ended(ended, key, token, state)}
  end

  # A worker needs no permission to be well: it is its own probe.
  def handle_call({:well, key}, _, state) do
    with %{^key => circuit} <- state.circuits,
         {:probe, circuit} <- Circuit.permit(circuit, :well, now()) do
      {:reply, :ok, put(state, key, Circuit.succeeded(circuit, :well))}
    else
      _ -> {:reply, :ok, state}
    end
  end

  @impl true
  def handle_info({:DOWN, token, :process, _, _}, state) do
    {:noreply, ended(:released, state.probes[token], token, state)}
  end

  def handle_info({:tidy, key}, state) do
    state = %{state | tidied: MapSet.delete(state.tidied, key)}

    case state.circuits do
      %{^key => circuit} ->
        if forgettable?(circuit, now()),
          do: {:noreply, forget(state, key)},
          else: {:noreply, tidy_later(state, key, circuit.settings)}

      _ ->
        {:noreply, state}
    end
  end

  # An open circuit that nobody has asked for long is as good as new.
  defp forgettable?(%{state: :open} = circuit, now), do: now > circuit.until + circuit.settings.window
  defp forgettable?(circuit, now), do: Circuit.idle?(circuit, now)

  defp tidy_later(state, key, settings) do
    unless MapSet.member?(state.tidied, key), do: Process.send_after(self(), {:tidy, key}, settings.window)
    %{state | tidied: MapSet.put(state.tidied, key)}
  end

  defp forget(state, key) do
    :ets.delete(@table, key)
    %{state | circuits: Map.delete(state.circuits, key)}
  end

  defp ended(how, key, token, state) do
    state = forget_probe(state, token)

    case state.circuits do
      %{^key => circuit} ->
        circuit =
          if how == :succeeded, do: Circuit.succeeded(circuit, token), else: Circuit.released(circuit, token)

        put(state, key, circuit)

      _ ->
        state
    end
  end

  defp forget_probe(state, nil), do: state

  defp forget_probe(state, token) do
    Process.demonitor(token, [:flush])
    %{state | probes: Map.delete(state.probes, token)}
  end

  # The circuit as it is now.
  defp put(state, key, circuit) do
    before = Map.get(state.circuits, key)
    rejections = counted(key, @refused)
    changed? = circuit.state != if(before, do: before.state, else: :closed)
    if changed?, do: tell(key, circuit, rejections)

    if Circuit.idle?(circuit, now()) do
      forget(state, key)
    else
      # Calls count in it meanwhile: what they have counted is left as it is.
      if before == nil, do: :ets.insert(@table, {key, circuit.state, circuit.until, 0, 0})
      if changed?, do: :ets.update_element(@table, key, [{2, circuit.state}, {3, circuit.until}])
      put_in(state.circuits[key], circuit)
    end
  end

  defp counted(key, counter) do
    :ets.lookup_element(@table, key, counter)
  rescue
    # It has nothing to tell yet.
    ArgumentError -> 0
  end

  defp now, do: System.monotonic_time(:millisecond)
end
