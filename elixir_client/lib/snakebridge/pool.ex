defmodule SnakeBridge.Pool do
  @moduledoc """
  Supervised Python workers, and the runtime client that uses them.

      config :snakebridge, pools: [default: [size: 2, python: "/venv/bin/python", env: [{"PYTHONPATH", "priv/python"}]]]

  Options of a pool: `:size` (workers; default: schedulers, at most 4), `:python`, `:env`, `:cd`, `:max_connections` (per worker, 64),
  `:journal` (where idempotent calls are recorded: `true`, `false`, a path, `[path: path, durability: :process | :power]`; docs/reliability.md),
  `:shared` (`false`: no shared memory, `[threshold: bytes]`), `:output` (where what Python prints goes: `:caller`, `:logger`, `:worker`; docs/talking.md),
  `:watch` (directories whose changed modules are loaded again; docs/development.md), `:start_timeout` (ms, 30 000), `:kill_after` (ms a call may ignore its cancellation before its worker is killed, 5 000).

  A session lives on one worker, the one with the fewest sessions when it began. The calling process itself sends and receives on a connection
  that it takes from a table, so a call passes through no other process. A dead worker is restarted with growing delays (100 ms to 5 s); its
  callers get `:worker_crash`, and refs that lived on it `:session_lost`.
  """
  use Supervisor

  alias SnakeBridge.{Error, Exchange, SessionManager, Telemetry}
  alias SnakeBridge.Exchange.Nesting
  alias SnakeBridge.Pool.{Journal, Python, Slots, Worker}

  @behaviour SnakeBridge.RuntimeClient

  @pools :snakebridge_pools
  @workers :snakebridge_workers
  @placements :snakebridge_placements
  # How often a call may find that its worker has just died.
  @not_begun 2

  # --- start ---

  @doc false
  def create_tables do
    for name <- [@pools, @workers, @placements, Slots.table(), SessionManager.table(), Nesting.table()] do
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
            {:error, Error.new(:unavailable, "the pool #{inspect(name)} cannot start: #{inspect(reason)}")}
        end

      {nil, :error} ->
        known = for({name, _, _} <- :ets.tab2list(@pools), do: inspect(name)) |> Enum.join(", ")

        {:error,
         Error.new(
           :unavailable,
           "there is no pool #{inspect(name)}; the pools are #{known}; add it to config :snakebridge, pools:"
         )}
    end
  end

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

    :ets.insert(@pools, {name, size, options})
    # Sessions of workers that an earlier, larger pool of this name had.
    :ets.select_delete(@placements, [{{{name, :_}, :"$1", :_, :_}, [{:>, :"$1", size}], [true]}])
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

    answer =
      with_worker(payload, opts, fn worker, session, context ->
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

    if key, do: tell(Exchange.take_outcome(), opts[:report])
    answer
  end

  # How the answer to a call with a key came about.
  defp tell(nil, _), do: :ok

  defp tell(outcome, report) do
    Telemetry.note_outcome(outcome)
    if is_function(report, 1), do: report.(outcome)
  end

  @impl true
  def execute_stream(tool, payload, callback, opts) do
    with {:ok, stream} <- open_stream(tool, payload, opts), do: Exchange.Stream.each(stream, callback)
  end

  @doc "Opens a stream for lazy reading with `SnakeBridge.Exchange.Stream.next/1`."
  def open_stream(tool, payload, opts) do
    with_worker(payload, opts, fn worker, _session, context ->
      Exchange.Stream.open(worker, tool, payload, context)
    end)
  end

  defp with_worker(payload, opts, use) do
    pool = Keyword.get(opts, :pool, :default)
    timeout = Keyword.get(opts, :timeout, 120_000)
    session = payload["session_id"] || "default"
    context = %{pool: pool, timeout: timeout, deadline: deadline(timeout), opts: opts, attempt: 1}
    attempt(session, context, use, if(payload["idempotent"] == true, do: 2, else: 1), @not_begun)
  end

  defp attempt(session, context, use, tries, not_begun) do
    with {:ok, worker} <- place(context, session) do
      case use.(worker, session, context) do
        # Its worker died before the call had come to it: nothing has happened yet, whatever the call does.
        {:error, %Error{category: :worker_crash, details: %{outcome: :not_started}}} when not_begun > 0 ->
          attempt(session, context, use, tries, not_begun - 1)

        {:error, %Error{category: :worker_crash}} when tries > 1 ->
          attempt(session, %{context | attempt: context.attempt + 1}, use, tries - 1, not_begun)

        {:error, %Error{category: :unknown_ref} = error} ->
          {:error, lost(context.pool, session, error)}

        result ->
          result
      end
    end
  end

  @doc false
  def deadline(:infinity), do: :infinity
  def deadline(ms) when is_integer(ms) and ms >= 0, do: System.monotonic_time(:millisecond) + ms

  def deadline(other),
    do: raise(ArgumentError, "a timeout is a number of milliseconds >= 0 or :infinity, not #{inspect(other)}")

  @doc false
  def left(:infinity), do: :infinity
  def left(deadline), do: max(deadline - System.monotonic_time(:millisecond), 0)

  # --- placement ---

  # The worker of a session, waiting for it to be ready; a new session gets the ready worker with the fewest sessions.
  defp place(%{pool: pool} = context, session) do
    case :ets.lookup(@placements, {pool, session}) do
      [{_, index, _, _}] ->
        case :ets.lookup(@workers, {pool, index}) do
          [{_, :ready, worker}] -> {:ok, worker}
          _ -> pool |> await(index, context) |> or_another(context, session)
        end

      [] ->
        with :ok <- living(session), :ok <- ensure_running(pool), {:ok, worker} <- choose(pool, context) do
          # Two first calls at once must agree.
          if :ets.insert_new(@placements, {{pool, session}, worker.index, worker.generation, nil}) do
            :atomics.add(worker.counts, 3, 1)
            {:ok, worker}
          else
            place(context, session)
          end
        end
    end
  end

  # A worker that was chosen beforehand, and cannot be had, is given up for any other.
  defp or_another({:error, %Error{category: :worker_start}} = error, %{pool: pool} = context, session) do
    case :ets.select_delete(@placements, [{{{pool, session}, :_, 0, nil}, [], [true]}]) do
      1 -> place(context, session)
      0 -> error
    end
  end

  defp or_another(result, _, _), do: result

  # What would be made in a session that has ended with its process, nobody would release.
  defp living(session) do
    if SessionManager.ended?(session),
      do:
        {:error,
         Error.new(
           :unknown_ref,
           "the session #{session} has ended with the process whose session it was, and what it held is released; " <>
             "make the object again, in a process that lives as long as it is needed",
           %{"session_id" => session}
         )},
      else: :ok
  end

  defp ensure_running(pool),
    do: if(:ets.member(@pools, pool) and whereis(pool) != nil, do: :ok, else: ensure(pool))

  defp choose(pool, context) do
    ready = ready(pool)

    case ready do
      [] ->
        [{_, size, _}] = :ets.lookup(@pools, pool)
        await_any(pool, Enum.to_list(1..size), context)

      _ ->
        {:ok, Enum.min_by(Enum.shuffle(ready), &:atomics.get(&1.counts, 3))}
    end
  end

  # Workers start side by side: the first that is ready will do, and only if none can start is it an error.
  defp await_any(pool, [index], context), do: await(pool, index, context)

  defp await_any(pool, [index | others], context) do
    case await(pool, index, context) do
      {:ok, worker} -> {:ok, worker}
      {:error, %Error{category: :timeout} = error} -> {:error, error}
      {:error, _} -> await_any(pool, others, context)
    end
  end

  defp await(pool, index, context) do
    with :ok <- ensure_running(pool), do: Worker.await(pool, index, left(context.deadline))
  end

  defp lost(pool, session, error) do
    case :ets.lookup(@placements, {pool, session}) do
      [{_, _, _, reason}] when is_binary(reason) ->
        %{
          error
          | category: :session_lost,
            message:
              "the object lived in a Python worker that is gone (#{reason}); make it again in this session, or begin a new one. #{error.message}"
        }

      _ ->
        error
    end
  end

  @doc false
  # How many sessions live on a worker.
  def placed_on(pool, index), do: :ets.select_count(@placements, [{{{pool, :_}, index, :_, :_}, [], [true]}])

  @doc false
  # Called by a worker whose process died: its sessions stay with it, but what they held is gone.
  def mark_lost(pool, index, reason) do
    for [key] <- :ets.match(@placements, {{pool, :"$1"}, index, :_, :_}) do
      :ets.update_element(@placements, {pool, key}, {4, reason})
      SnakeBridge.Session.Server.lost(key, reason)
    end

    :ok
  end

  @doc false
  # Puts the nth of several new sessions on a worker of its own, as far as there are as many; `place/2` waits for it.
  def place_on(pool, session, nth) do
    with :ok <- ensure_running(pool) do
      index = rem(nth - 1, size(pool)) + 1

      case :ets.lookup(@workers, {pool, index}) do
        [{_, :ready, worker}] ->
          if :ets.insert_new(@placements, {{pool, session}, index, worker.generation, nil}),
            do: :atomics.add(worker.counts, 3, 1)

        _ ->
          # Counted with the others when the worker is ready.
          :ets.insert_new(@placements, {{pool, session}, index, 0, nil})
      end
    end

    :ok
  end

  @doc false
  # Puts a new session on the worker that has the fewest, also of those that start: sessions that begin while the pool does would all meet in
  # the worker that is ready first.
  def spread(pool, session) do
    with :ok <- ensure_running(pool) do
      statuses = for index <- 1..size(pool), do: {index, status(pool, index)}
      start = Enum.filter(statuses, fn {_, {status, _}} -> status in [:ready, :starting] end)
      # Those that are down start again.
      choice =
        if start == [], do: Enum.filter(statuses, fn {_, {status, _}} -> status == :down end), else: start

      unless choice == [] do
        {index, _} = choice |> Enum.shuffle() |> Enum.min_by(&load(pool, &1))
        place_on(pool, session, index)
      end
    end

    :ok
  end

  defp status(pool, index) do
    case :ets.lookup(@workers, {pool, index}) do
      [{_, status, worker}] -> {status, worker}
      [] -> {:starting, %{}}
    end
  end

  defp load(_, {_, {:ready, worker}}), do: :atomics.get(worker.counts, 3)
  defp load(pool, {index, _}), do: placed_on(pool, index)

  @doc false
  # The worker of a session, and why what it held there is gone, if it is.
  def placement(pool, session) do
    case :ets.lookup(@placements, {pool, session}) do
      [{_, index, _, reason}] -> {index, reason}
      [] -> nil
    end
  end

  @doc false
  # How many workers a running pool has or will have.
  def size(pool), do: :ets.lookup_element(@pools, pool, 2)

  # --- sessions ---

  @doc "Ends a session in every pool that knows it."
  @spec release_session(String.t()) :: :ok
  def release_session(session) do
    for {pool, _, _} <- :ets.tab2list(@pools),
        {_, index, _, _} <- :ets.lookup(@placements, {pool, session}) do
      with {:ok, worker} <- ready_worker(pool, index) do
        payload = SnakeBridge.Payload.release_session(session)
        context = %{pool: pool, timeout: 10_000, deadline: deadline(10_000), opts: []}
        Exchange.call(worker, session, "snakebridge.release_session", payload, context)
      end

      # Of several that end a session at once one takes it off; its worker may be another process by now.
      with [_] <- :ets.take(@placements, {pool, session}),
           {:ok, worker} <- ready_worker(pool, index),
           do: :atomics.sub(worker.counts, 3, 1)
    end

    SnakeBridge.SessionContext.forget(session)
    :ok
  end

  defp ready_worker(pool, index) do
    case :ets.lookup(@workers, {pool, index}) do
      [{_, :ready, worker}] -> {:ok, worker}
      _ -> :none
    end
  end

  @doc false
  # Whether a worker may know the session.
  def placed?(session),
    do: Enum.any?(:ets.tab2list(@pools), fn {pool, _, _} -> :ets.member(@placements, {pool, session}) end)

  @doc false
  # A process that used Python has ended: what it had in flight is cancelled.
  def abandon(pid, holder), do: Exchange.abandon(pid, holder)

  # --- looking in ---

  @doc "What the workers of a pool are doing: one map per worker."
  @spec info(atom()) :: [map()]
  def info(pool \\ :default) do
    for {{^pool, index}, status, worker} <- :ets.tab2list(@workers) do
      %{
        index: index,
        status: status,
        os_pid: worker[:os_pid],
        generation: worker[:generation],
        sessions: sessions(worker)
      }
    end
    |> Enum.sort_by(& &1.index)
  end

  defp sessions(%{counts: counts}), do: :atomics.get(counts, 3)
  defp sessions(_), do: 0

  @doc false
  # The pools that were started.
  def names, do: for({name, _, _} <- :ets.tab2list(@pools), whereis(name) != nil, do: name)

  @doc false
  # The workers of a pool that take calls now.
  def ready(pool), do: for([worker] <- :ets.match(@workers, {{pool, :_}, :ready, :"$1"}), do: worker)

  @doc false
  def put_worker(pool, index, status, worker), do: :ets.insert(@workers, {{pool, index}, status, worker})

  @doc false
  def drop_worker(pool, index), do: :ets.delete(@workers, {pool, index})
end
