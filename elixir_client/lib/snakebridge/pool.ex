defmodule SnakeBridge.Pool do
  @moduledoc """
  Supervised Python workers, and the runtime client that uses them.

      config :snakebridge, pools: [default: [size: 2, python: "/venv/bin/python", env: [{"PYTHONPATH", "priv/python"}]]]

  Options of a pool: `:size` (workers; default: schedulers, at most 4), `:python`, `:env`, `:cd`, `:max_connections` (per worker, 64),
  `:journal` (where idempotent calls are recorded: `true`, `false`, a path, `[path: path, durability: :process | :power]`; docs/reliability.md),
  `:shared` (`false`: no shared memory, `[threshold: bytes]`), `:output` (where what Python prints goes: `:caller`, `:logger`, `:worker`; docs/talking.md),
  `:watch` (directories whose changed modules are loaded again; docs/development.md), `:start_timeout` (ms, 30 000), `:kill_after` (ms a call may ignore its cancellation before its worker is killed, 5 000),
  `:retry` and `:breaker` (what becomes of calls whose workers die: `SnakeBridge.Retry`, `SnakeBridge.Breaker`), `:heartbeat` (after what silence a worker
  counts as dead: `[interval: 5_000, timeout: 30_000]`, or `false`; docs/retries.md).

  A session lives on one worker, the one with the fewest sessions when it began. The calling process itself sends and receives on a connection
  that it takes from a table, so a call passes through no other process. A dead worker is restarted with growing delays (100 ms to 5 s); its
  callers get `:worker_crash`, and refs that lived on it `:session_lost`.
  """
  use Supervisor

  alias SnakeBridge.{Breaker, Error, Exchange, Retry, SessionManager, Telemetry}
  alias SnakeBridge.Exchange.Nesting
  alias SnakeBridge.Pool.{Attempts, Heartbeat, Journal, Placement, Python, Slots, Worker}

  @behaviour SnakeBridge.RuntimeClient

  @pools :snakebridge_pools

  # --- start ---

  @doc false
  def create_tables do
    for name <- [
          @pools,
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

  defp ensure(name) do
    case {whereis(name), Keyword.fetch(configured(), name)} do
      {pid, _} when is_pid(pid) ->
        :ok

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
        known = for({name, _, _} <- :ets.tab2list(@pools), do: inspect(name)) |> Enum.join(", ")

        {:error,
         Error.new(
           :unavailable,
           "there is no pool #{inspect(name)}; the pools are #{known}; add it to config :snakebridge, pools:",
           %{outcome: :not_started}
         )}
    end
  end

  @doc false
  def ensure_running(pool),
    do: if(:ets.member(@pools, pool) and whereis(pool) != nil, do: :ok, else: ensure(pool))

  @doc false
  # How many workers a running pool has or will have.
  def size(pool), do: :ets.lookup_element(@pools, pool, 2)

  def child_spec(options) do
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
    Supervisor.start_link(__MODULE__, Keyword.put(options, :name, name), name: registered(name))
  end

  @doc "The supervisor of a pool, or nil."
  @spec whereis(atom()) :: pid() | nil
  def whereis(name), do: Process.whereis(registered(name))

  defp registered(name), do: Module.concat(__MODULE__, name)

  @impl true
  def init(options) do
    name = options[:name]
    size = Keyword.get(options, :size, min(4, System.schedulers_online()))

    unless is_integer(size) and size > 0,
      do: raise(ArgumentError, "the size of a pool must be a positive integer, not #{inspect(size)}")

    Retry.configure(name, options)
    Breaker.configure(name, options)
    Heartbeat.settings(options)
    :ets.insert(@pools, {name, size, options})
    Placement.forget_beyond(name, size)
    Python.sweep()
    workers = for index <- 1..size, do: Supervisor.child_spec({Worker, {name, index, options}}, id: index)
    Supervisor.init(workers, strategy: :one_for_one, max_restarts: 10 * size)
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
      Attempts.run(payload, opts, fn worker, session, context ->
        cond do
          worker.journal ->
            Exchange.call(
              worker,
              session,
              tool,
              payload,
              Map.put(context, :key, Journal.at(key, context.attempt))
            )

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

  @doc "Opens a stream for lazy reading with `SnakeBridge.Exchange.Stream.next/1`."
  def open_stream(tool, payload, opts) do
    {opened, _} =
      Attempts.run(payload, opts, fn worker, _session, context ->
        Exchange.Stream.open(worker, tool, payload, context)
      end)

    opened
  end

  @doc false
  def deadline(:infinity), do: :infinity
  def deadline(ms) when is_integer(ms) and ms >= 0, do: System.monotonic_time(:millisecond) + ms

  def deadline(other),
    do: raise(ArgumentError, "a timeout is a number of milliseconds >= 0 or :infinity, not #{inspect(other)}")

  @doc false
  def left(:infinity), do: :infinity
  def left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  # --- sessions ---

  @doc "Ends a session in every pool that knows it."
  @spec release_session(String.t()) :: :ok
  def release_session(session) do
    for {pool, _, _} <- :ets.tab2list(@pools), Placement.placed?(pool, session) do
      with {:ok, worker} <- Placement.current(pool, session) do
        payload = SnakeBridge.Payload.release_session(session)
        context = %{pool: pool, timeout: 10_000, deadline: deadline(10_000), opts: []}
        Exchange.call(worker, session, "snakebridge.release_session", payload, context)
      end

      Placement.forget(pool, session)
    end

    SnakeBridge.SessionContext.forget(session)
    :ok
  end

  @doc false
  # Whether a worker may know the session.
  def placed?(session),
    do: Enum.any?(:ets.tab2list(@pools), fn {pool, _, _} -> Placement.placed?(pool, session) end)

  @doc false
  # A process that used Python has ended: what it had in flight is cancelled.
  def abandon(pid, holder), do: Exchange.abandon(pid, holder)

  # --- looking in ---

  @doc "What the workers of a pool are doing: one map per worker."
  @spec info(atom()) :: [map()]
  def info(pool \\ :default) do
    for {index, status, worker} <- Placement.workers(pool) do
      %{
        index: index,
        status: status,
        os_pid: worker[:os_pid],
        generation: worker[:generation],
        sessions: sessions(worker),
        tainted: Breaker.tainted?(pool, index),
        breaker: Breaker.state({pool, index})
      }
    end
    |> Enum.sort_by(& &1.index)
  end

  defp sessions(%{counts: counts}), do: :atomics.get(counts, 3)
  defp sessions(_), do: 0

  @doc false
  # The pools that were started.
  def names, do: for({name, _, _} <- :ets.tab2list(@pools), whereis(name) != nil, do: name)
end
