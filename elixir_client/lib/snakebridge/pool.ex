defmodule SnakeBridge.Pool do
  @moduledoc """
  Supervised Python workers, and the runtime client that uses them.

      config :snakebridge, pools: [default: [size: 2, python: "/venv/bin/python", env: [{"PYTHONPATH", "priv/python"}]]]

  Options of a pool: `:size` (workers; default: schedulers, at most 4), `:python`, `:env`, `:cd`, `:max_connections` (per worker, 64),
  `:journal` (where idempotent calls are recorded: `true`, `false`, a path, `[path: path, durability: :process | :power]`; docs/reliability.md),
  `:shared` (`false`: no shared memory, `[threshold: bytes]`), `:output` (where what Python prints goes: `:caller`, `:logger`, `:worker`; docs/talking.md),
  `:workers` (remote workers that this pool connects to instead of starting its own; docs/security.md),
  `:policy` (what may be called: `:default`, `:listed`, `:open`, a path, `[allow: [...], deny: [...]]`; docs/permissions.md),
  `:watch` (directories whose changed modules are loaded again; docs/development.md), `:start_timeout` (ms, 30 000), `:kill_after` (ms a call may ignore its cancellation before its worker is killed, 5 000),
  `:retry` and `:breaker` (what becomes of calls whose workers die: `SnakeBridge.Retry`, `SnakeBridge.Breaker`), `:heartbeat` (after what silence a worker
  counts as dead: `[interval: 5_000, timeout: 30_000]`, or `false`; docs/retries.md).

  How it lives (docs/lifecycle.md): `:spares` (processes that stand by, 0), `:preload` (Python modules that a process imports before it is ready), `:recycle`
  (`[after: ms, calls: n, rss: bytes]`), `:shutdown` (ms that calls get to finish when the pool stops, 3 000), `:max_queue` (calls that may wait for a
  connection to a worker, 10 000), `:overflow` (what happens to one more: `:reject`, `:drop_oldest`, `:wait`), `:max_session_queue` (calls that may wait for
  their session).

  A session lives on one worker, the one with the fewest sessions when it began. The calling process itself sends and receives on a connection
  that it takes from a table, so a call passes through no other process. A dead worker is followed by the next at once, then with growing delays
  (100 ms to 5 s); its
  callers get `:worker_crash`, and refs that lived on it `:session_lost`.
  """
  use Supervisor

  alias SnakeBridge.{Breaker, Error, Exchange, Retry, SessionContext, SessionManager, Telemetry}
  alias SnakeBridge.Exchange.Nesting

  alias SnakeBridge.Pool.{
    Attempts,
    Journal,
    Lifecycle,
    Places,
    Placement,
    Python,
    Remote,
    Resident,
    Seat,
    SeatClient,
    Settings,
    Slots,
    Spares,
    Worker
  }

  @behaviour SnakeBridge.RuntimeClient

  @pools :snakebridge_pools
  # Milliseconds: how long a worker that is not reached is told again that a session has ended, and the pause before that.
  @release_patience 10_000
  @release_pause 200

  # --- start ---

  @doc false
  def create_tables do
    for name <- [
          @pools,
          Lifecycle.table(),
          Slots.table(),
          SessionManager.table(),
          Nesting.table(),
          Breaker.table() | Placement.tables()
        ] do
      kind = if name == Nesting.table(), do: :bag, else: :set
      :ets.new(name, [:named_table, :public, kind, read_concurrency: true, write_concurrency: true])
    end

    :ok
  end

  @doc "Starts the pools of the configuration; a pool that is running already is left alone."
  def start_configured do
    for {name, _} <- configured(), do: ensure(name)
    :ok
  end

  defp configured, do: Application.get_env(:snakebridge, :pools, default: [])

  defp ensure(name) when not is_atom(name), do: missing(name)

  defp ensure(name) do
    case {whereis(name), Keyword.fetch(configured(), name)} do
      {pid, _} when is_pid(pid) ->
        known(name)

      {nil, {:ok, options}} ->
        case DynamicSupervisor.start_child(SnakeBridge.Pools, {__MODULE__, [{:name, name} | options]}) do
          {:ok, _} ->
            :ok

          {:error, {:already_started, _}} ->
            :ok

          {:error, reason} ->
            {:error,
             Error.new(:unavailable, "the pool #{inspect(name)} cannot start: #{inspect(reason)}", %{
               outcome: :not_started
             })}
        end

      {nil, :error} ->
        missing(name)
    end
  end

  defp missing(name) do
    known = for({name, _, _} <- :ets.tab2list(@pools), do: inspect(name)) |> Enum.join(", ")

    {:error,
     Error.new(
       :unavailable,
       "there is no pool #{inspect(name)}; the pools are #{known}; add it to config :snakebridge, pools:",
       %{outcome: :not_started}
     )}
  end

  defp known(name) do
    if :ets.member(@pools, name) do
      :ok
    else
      text =
        "the pool #{inspect(name)} belongs to an earlier life of the application :snakebridge; restart its supervisor, or have it started by config :snakebridge, pools:"

      {:error, Error.new(:unavailable, text, %{outcome: :not_started})}
    end
  end

  @doc false
  def ensure_running(pool),
    do: if(:ets.member(@pools, pool) and whereis(pool) != nil, do: :ok, else: ensure(pool))

  @doc false
  # How many workers a running pool has or will have.
  def size(pool), do: :ets.lookup_element(@pools, pool, 2)

  def child_spec(options) do
    # Here already: supervisors log how they start their children.
    options = options |> Places.read() |> Python.out_of_sight()

    %{
      id: {__MODULE__, Keyword.get(options, :name, :default)},
      start: {__MODULE__, :start_link, [options]},
      type: :supervisor
    }
  end

  @doc "Starts a pool. Returns at once; its workers start in the background."
  @spec start_link(keyword()) :: Supervisor.on_start()
  def start_link(options) do
    name = Keyword.get(options, :name, :default)
    options = options |> Places.read() |> Python.out_of_sight() |> Keyword.put(:name, name)
    Supervisor.start_link(__MODULE__, options, name: registered(name))
  end

  @doc "The supervisor of a pool, or nil."
  @spec whereis(atom()) :: pid() | nil
  def whereis(name), do: Process.whereis(registered(name))

  defp registered(name), do: Module.concat(__MODULE__, name)

  @impl true
  def init(options) do
    name = options[:name]
    options = Settings.check!(options)
    size = options[:size]
    Retry.configure(name, options)
    Breaker.configure(name, options)
    Lifecycle.begin(name, max(size, earlier_size(name)))
    :ets.insert(@pools, {name, size, options})
    Placement.forget_beyond(name, size)
    Python.sweep()
    # Ended in the opposite order: the pool drains before anything else ends.
    children = workers(name, options) ++ [{Lifecycle, {name, options}}]
    Supervisor.init(children, strategy: :one_for_one, max_restarts: 10 * size)
  end

  defp earlier_size(name), do: if(:ets.member(@pools, name), do: size(name), else: 1)

  # Those that others have started, or seats for processes of ours.
  defp workers(name, options) do
    kind = if options[:workers], do: Remote, else: Seat

    places =
      for index <- 1..options[:size], do: Supervisor.child_spec({kind, {name, index, options}}, id: index)

    processes = {DynamicSupervisor, name: Worker.supervisor(name), strategy: :one_for_one}
    spares = if Keyword.get(options, :spares, 0) > 0, do: [{Spares, {name, options}}], else: []
    if kind == Seat, do: [processes] ++ spares ++ places, else: places
  end

  # --- the runtime client ---

  @doc "This client takes Elixir terms as they are."
  @impl true
  def native_terms?, do: true

  @impl true
  def execute(tool, payload, opts) do
    key = Journal.key(tool, payload)
    {given, payload} = Map.pop(payload, "idempotency_key")

    {answer, attempts} =
      run(payload, opts, fn worker, session, context ->
        cond do
          worker.journal ->
            context = Map.put(context, :key, Journal.at(key, context.attempt))
            Exchange.call(worker, session, tool, payload, context)

          given ->
            {:error, Journal.missing(context.pool)}

          true ->
            Exchange.call(worker, session, tool, payload, context)
        end
      end)

    if key != nil or attempts > 1 or opts[:report] != nil,
      do: tell(answer, key, attempts, opts[:report])

    answer
  end

  # As often as the policy says, each time on whichever process has the session's place.
  defp run(payload, opts, use) do
    Attempts.run(payload, opts, fn worker, session, context ->
      Placement.follow(worker, context, session, &use.(&1, session, context))
    end)
  end

  # How an answer came about: the journal knows of earlier attempts than ours.
  defp tell({:ok, _}, key, attempts, report) do
    outcome = Exchange.take_outcome() || %{attempts: 1, replayed: false}
    outcome = %{outcome | attempts: max(outcome.attempts, attempts)}
    if key != nil or attempts > 1, do: Telemetry.note_outcome(outcome)
    if is_function(report, 1), do: report.(outcome)
  end

  defp tell(_, _, _, _), do: :ok

  @impl true
  def execute_stream(tool, payload, callback, opts) do
    with {:ok, stream} <- open_stream(tool, payload, opts), do: Exchange.Stream.each(stream, callback)
  end

  @doc """
  Opens a stream for lazy reading with `SnakeBridge.Exchange.Stream.next/1`. One that is idempotent is opened again when its worker dies, and goes
  on behind the items that have come.
  """
  def open_stream(tool, payload, opts), do: open_stream(tool, payload, opts, 0)

  defp open_stream(tool, payload, opts, skip) do
    again = &open_stream(tool, payload, opts, &1)

    {opened, _} =
      run(payload, opts, fn worker, session, context ->
        context = if skip > 0, do: Map.put(context, :skip, skip), else: context

        # Whether the worker takes it is known only from its first answer.
        with {:ok, stream} <- Exchange.Stream.open(worker, session, tool, payload, context),
             do: {:ok, %{stream | taken: skip, moved: fn -> moved(worker, session, context, again) end}}
      end)

    with {:ok, stream} <- opened do
      if payload["idempotent"] == true and repeated?(opts),
        do: {:ok, %{stream | again: again}},
        else: {:ok, stream}
    end
  end

  defp moved(worker, session, context, again),
    do: with({:ok, _} <- Placement.next(worker, context, session), do: again.(context[:skip] || 0))

  # Whether the policy knows of second attempts.
  defp repeated?(opts),
    do: Retry.new(opts[:retry], Retry.of(Keyword.get(opts, :pool, :default))).max_attempts > 1

  @doc false
  def deadline(:infinity), do: :infinity
  def deadline(ms) when is_integer(ms) and ms >= 0, do: System.monotonic_time(:millisecond) + ms

  def deadline(other),
    do: raise(ArgumentError, "a timeout is a number of milliseconds >= 0 or :infinity, not #{inspect(other)}")

  @doc false
  def left(:infinity), do: :infinity
  def left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  # --- sessions ---

  @doc "Ends a session in every pool that knows it. Where a worker lives and cannot be reached, it is asked again for so many milliseconds."
  @spec release_session(String.t(), non_neg_integer()) :: :ok
  def release_session(session, patience \\ @release_patience) do
    for {pool, _, _} <- :ets.tab2list(@pools), Placement.placed?(pool, session) do
      with {:ok, worker} <- Placement.current(pool, session),
           do: end_session(worker, pool, session, deadline(patience))

      Placement.forget(pool, session)
    end

    SessionContext.forget(session)
    :ok
  end

  # What it holds in Python would stay there for good.
  defp end_session(worker, pool, session, until) do
    payload = SnakeBridge.Payload.release_session(session)
    {options, _} = SessionContext.options(session)
    opts = if options == %{}, do: [], else: [session_options: options]
    context = %{pool: pool, timeout: 10_000, deadline: deadline(10_000), opts: opts, ends: true}

    with {:error, %Error{outcome: :not_started}} <-
           Exchange.call(worker, session, "snakebridge.release_session", payload, context),
         true <- left(until) > 0 and Slots.alive?(worker.slots) do
      Process.sleep(min(@release_pause, left(until)))
      end_session(worker, pool, session, until)
    end
  end

  @doc false
  # Whether a worker may know the session.
  def placed?(session),
    do: Enum.any?(:ets.tab2list(@pools), fn {pool, _, _} -> Placement.placed?(pool, session) end)

  @doc false
  # A process that used Python has ended: what it had in flight is cancelled.
  def abandon(pid, holder), do: Exchange.abandon(pid, holder)

  # --- looking in ---

  @doc """
  What the workers of a pool are doing, one map per worker: `status`, `os_pid`, `generation`, `sessions`, `age_ms`, `calls` (begun so far), `running`
  (connections in use), `queue` (calls that wait for one), `rss` (bytes), and `leaving` (the same of processes that have been replaced and are still needed).
  """
  @spec info(atom()) :: [map()]
  def info(pool \\ :default) do
    leaving = pool |> Placement.leaving() |> Enum.group_by(& &1.index)

    for {index, status, worker} <- Placement.workers(pool) do
      left = for old <- Map.get(leaving, index, []), do: Map.delete(facts(old), :sessions)

      Map.merge(facts(worker), %{
        index: index,
        status: status,
        leaving: left,
        tainted: Breaker.tainted?(pool, index),
        breaker: Breaker.state({pool, index})
      })
    end
    |> Enum.sort_by(& &1.index)
  end

  defp facts(%{slots: slots} = worker) do
    %{
      os_pid: worker.os_pid,
      generation: worker.generation,
      sessions: :atomics.get(worker.counts, 3),
      age_ms: System.monotonic_time(:millisecond) - worker.since,
      calls: :atomics.get(worker.counts, 1),
      running: Slots.census(slots).held,
      queue: :atomics.get(worker.counts, 2),
      rss: Resident.bytes(worker.os_pid)
    }
  end

  defp facts(_) do
    empty = Map.new([:os_pid, :generation, :age_ms, :rss], &{&1, nil})
    Map.merge(empty, %{sessions: 0, calls: 0, running: 0, queue: 0})
  end

  @doc "The state of a pool: `:starting`, `:running`, `:draining` or `:stopped`."
  @spec state(atom()) :: :starting | :running | :draining | :stopped
  def state(pool \\ :default), do: Lifecycle.state(pool)

  # --- its life ---

  @doc """
  Drains a pool: new calls are refused (`:unavailable`, to be made again later), those that run may finish; after `timeout` milliseconds the rest are
  cancelled, and processes in which a call ignores that are killed. Then the pool is stopped, until `resume/1`.

  Calls that functions of running calls make are let through. The answer tells how many calls `finished`, were `cancelled`, `killed` and `refused`,
  and `duration_ms`.
  """
  @spec drain(atom(), timeout()) :: {:ok, Lifecycle.report()} | {:error, Error.t()}
  defdelegate drain(pool, timeout \\ 30_000), to: Lifecycle

  @doc "Starts the workers of a drained pool again."
  @spec resume(atom()) :: :ok | {:error, Error.t()}
  defdelegate resume(pool), to: Lifecycle

  @doc """
  Replaces the processes of a pool one after another, without failing a call: the new one starts first, then takes over, and the old one ends when nothing
  needs it any more. Returns when the last has taken over.

  Options: `sessions: :wait` (the default: a session that holds objects keeps its process until it is released, at most `max_wait:` milliseconds, default
  `:infinity`) or `:end` (its objects are gone, and calls that use them get `:session_lost`); `start_timeout:` (ms for each, 60 000). A
  `SnakeBridge.Session` begins again on the new process in both cases.
  """
  @spec restart(atom(), keyword()) :: :ok | {:error, Error.t()}
  def restart(pool \\ :default, opts \\ []) do
    unless Keyword.keys(opts) -- [:sessions, :max_wait, :start_timeout] == [] and
             opts[:sessions] in [nil, :wait, :end],
           do:
             raise(
               ArgumentError,
               "restart/2 takes sessions: :wait | :end, max_wait: and start_timeout:, not #{inspect(opts)}"
             )

    options = Keyword.take(opts, [:sessions, :max_wait]) ++ [why: "restart"]
    timeout = Keyword.get(opts, :start_timeout, 60_000)

    with :ok <- ensure_running(pool) do
      # They have the code of before.
      if Keyword.get(:ets.lookup_element(@pools, pool, 3), :spares, 0) > 0, do: Spares.renew(pool)

      Enum.reduce_while(1..size(pool), :ok, fn index, :ok ->
        case SeatClient.replace(pool, index, options, timeout) do
          :ok -> {:cont, :ok}
          error -> {:halt, error}
        end
      end)
    end
  end

  @doc false
  # The pools that were started.
  def names, do: for({name, _, _} <- :ets.tab2list(@pools), whereis(name) != nil, do: name)
end
