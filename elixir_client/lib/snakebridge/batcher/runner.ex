defmodule SnakeBridge.Batcher.Runner do
  @moduledoc """
  The process that makes the Python call of a batch, and hands each caller its part. It lives as long as its batcher, so that it is one caller to Python,
  and takes one batch at a time.
  """
  alias SnakeBridge.{Error, Pool, Runtime, RuntimeClient, Session, SessionPool, Telemetry}
  alias SnakeBridge.Session.Visit

  @typedoc "One call that waits: whom to answer, with what it came, when, and until when somebody waits for it."
  @type entry :: %{
          from: GenServer.from(),
          args: [term()],
          rows: non_neg_integer(),
          came: integer(),
          deadline: integer() | :infinity
        }

  @doc "Starts a runner, linked to the calling batcher, which hears `{:idle, pid}` after each batch."
  @spec start(keyword()) :: pid()
  def start(options) do
    batcher = self()
    client = RuntimeClient.current()
    :proc_lib.spawn_link(fn -> RuntimeClient.with_client(client, fn -> serve(batcher, options) end) end)
  end

  @doc "Has a batch run."
  @spec run(pid(), [entry()]) :: :ok
  def run(runner, entries) do
    send(runner, {:run, entries})
    :ok
  end

  defp serve(batcher, options) do
    receive do
      {:run, entries} ->
        batch(entries, options)
        send(batcher, {:idle, self()})

      _ ->
        :ok
    end

    serve(batcher, options)
  end

  defp batch(entries, options) do
    case Enum.filter(entries, &awaited?/1) do
      [] -> :ok
      entries -> measured(entries, options)
    end
  end

  # Who died, or gave up, is dropped. Of callers on other nodes only the latter is known here.
  defp awaited?(%{from: {pid, _}, deadline: deadline}),
    do: (node(pid) != node() or Process.alive?(pid)) and Pool.left(deadline) != 0

  defp measured(entries, options) do
    started = System.monotonic_time()
    waits = for entry <- entries, do: System.convert_time_unit(started - entry.came, :native, :microsecond)
    attempt(entries, options)

    measurements = %{
      size: length(entries),
      rows: entries |> Enum.map(& &1.rows) |> Enum.sum(),
      wait_time: div(Enum.sum(waits), length(waits)),
      longest_wait: Enum.max(waits),
      duration: System.convert_time_unit(System.monotonic_time() - started, :native, :microsecond)
    }

    Telemetry.execute([:snakebridge, :batch, :stop], measurements, %{batcher: options[:label]})
  end

  # These are nobody's input's fault: what was asked for in halves would answer the same.
  @everybodys [:timeout, :cancelled, :unavailable, :session_lost, :worker_start, :session_deadlock] ++
                [:unauthorized, :protocol_error, :protocol_mismatch, :unsupported_version]

  # Python keeps the errors of the function apart. The end of its process hits all: then each stands for itself, and the one that ends it again
  # has done it. So does an argument that cannot travel (a ref that is gone, a tensor whose data is too short): the batch is halved until it
  # stands alone.
  defp attempt(entries, options) do
    case ask(entries, options) do
      {:ok, results} ->
        for {entry, result} <- Enum.zip(entries, results), do: GenServer.reply(entry.from, result)

      {:error, %Error{category: :worker_crash}} when length(entries) > 1 ->
        for entry <- entries, awaited?(entry), do: attempt([entry], options)

      {:error, %Error{category: category}} when length(entries) > 1 and category not in @everybodys ->
        {some, others} = Enum.split(entries, div(length(entries), 2))
        attempt(some, options)
        attempt(others, options)

      {:error, error} ->
        for entry <- entries, do: GenServer.reply(entry.from, {:error, error})
    end
  end

  defp ask(entries, options) do
    deadline = entries |> Enum.map(& &1.deadline) |> Enum.max()
    calls = for entry <- entries, do: entry.args

    # What was not begun is begun again; what was, is not.
    case options[:of] do
      {:session, session} -> Visit.run(session, &call(&1, calls, options, deadline), :unbegun, deadline)
      {:sessions, pool} -> SessionPool.run(pool, &call(&1, calls, options, deadline), :unbegun, deadline)
      :module -> call(nil, calls, options, deadline)
    end
  rescue
    error in Error -> {:error, error}
    error -> {:error, refusal(Exception.message(error), __STACKTRACE__)}
  catch
    kind, reason -> {:error, refusal(Exception.format_banner(kind, reason), __STACKTRACE__)}
  end

  # A wrong option, or a value that cannot be written; the callers are told.
  defp refusal(text, stacktrace) do
    details = %{stacktrace: Exception.format_stacktrace(stacktrace)}
    Error.new(:invalid_request, "the batch cannot be called: #{text}", details)
  end

  defp call(state, calls, options, deadline) do
    {target, name} =
      if options[:module],
        do: {options[:module], options[:function]},
        else: Session.target(state, options[:method])

    args = with function when is_function(function, 1) <- options[:args], do: function.(state)

    unless is_list(args),
      do:
        raise(
          ArgumentError,
          "the function args: must return a list of arguments, not #{inspect(args, limit: 5)}"
        )

    Runtime.call_batch(
      target,
      name,
      calls,
      [args: args, runtime: [timeout: Pool.left(deadline)] ++ pool(options)] ++
        Keyword.take(options, [:kwargs, :join, :pad_to])
    )
  end

  defp pool(options), do: if(options[:of] == :module and options[:pool], do: [pool: options[:pool]], else: [])
end
