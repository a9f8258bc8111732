defmodule SnakeBridge.SessionPool do
  @moduledoc """
  Several sessions with the same `init`, for throughput: each on a worker of its own as far as there are as many.

      children = [
        {SnakeBridge.SessionPool,
         name: MyApp.Models, size: 4, init: fn -> SnakeBridge.call("my_models", "load", ["prices.pkl"]) end}
      ]

      {:ok, prices} = SnakeBridge.SessionPool.call(MyApp.Models, :predict, [rows])

  ## Options

  Those of `SnakeBridge.Session`, and:

    * `:name` - an atom (required)
    * `:size` - how many sessions (the number of schedulers, at most 4)
    * `:strategy` - `:least_busy` (default) or `:round_robin`, among the sessions that are ready and have room
    * `:max_calls` - how many callers may have one session at a time: 1, or 16 where the sessions are `concurrent: true`
    * `:max_queue` - how many callers may wait for a session (1000); more are refused
    * `:queue_timeout` - how long one waits, in ms (15 000)

  ## What happens when

  A session whose worker dies begins again by itself; meanwhile the others serve. A call that was running there answers `:worker_crash`, or is run again
  on another session when it is `idempotent: true`; a call that had not begun is run on another session in any case. A caller that dies gives its session back.
  """
  use Supervisor

  alias SnakeBridge.{Error, Pool, Session}
  alias SnakeBridge.Session.Visit
  alias SnakeBridge.SessionPool.Desk

  @own [:name, :size, :strategy, :max_calls, :max_queue, :queue_timeout]
  @reruns 2

  @doc false
  def child_spec(options) do
    %{
      id: {__MODULE__, options[:name]},
      start: {__MODULE__, :start_link, [options]},
      type: :supervisor
    }
  end

  @doc "Starts a pool of sessions. They begin in the background."
  @spec start_link(keyword()) :: Supervisor.on_start()
  def start_link(options) do
    options = checked(options)
    Supervisor.start_link(__MODULE__, options, name: options[:name])
  end

  defp checked(options) do
    {own, session} = Keyword.split(options, @own)
    calls = if session[:concurrent], do: 16, else: 1

    own =
      Keyword.merge(
        [
          size: min(4, System.schedulers_online()),
          strategy: :least_busy,
          max_calls: calls,
          max_queue: 1000,
          queue_timeout: 15_000
        ],
        own
      )

    unless is_atom(own[:name]) and own[:name] != nil,
      do: raise(ArgumentError, "a pool of sessions needs a name:, an atom, not #{inspect(own[:name])}")

    for key <- [:size, :max_calls],
        not (is_integer(own[key]) and own[key] > 0),
        do: raise(ArgumentError, "#{key}: must be an integer > 0, not #{inspect(own[key])}")

    unless own[:strategy] in [:least_busy, :round_robin],
      do:
        raise(ArgumentError, "strategy: must be :least_busy or :round_robin, not #{inspect(own[:strategy])}")

    unless is_integer(own[:max_queue]) and own[:max_queue] >= 0,
      do: raise(ArgumentError, "max_queue: must be an integer >= 0, not #{inspect(own[:max_queue])}")

    Pool.deadline(own[:queue_timeout])
    # Here, where the caller sees it, and not in a child that cannot start.
    Keyword.put(own, :session_options, Session.checked(session))
  end

  @impl true
  def init(options) do
    name = options[:name]
    label = inspect(name)

    desk =
      Keyword.merge(Keyword.take(options, @own), desk: desk(name), label: label, session: &session(name, &1))

    # A pool that was killed leaves its processes to end by themselves; their names must be free.
    for left <- [desk(name) | Enum.map(1..options[:size], &session(name, &1))],
        do: ended(Process.whereis(left))

    sessions =
      for index <- 1..options[:size] do
        own = [
          name: session(name, index),
          label: "#{label}[#{index}]",
          worker: index,
          watcher: {desk(name), index}
        ]

        Supervisor.child_spec({Session, options[:session_options] ++ own}, id: index)
      end

    Supervisor.init([{Desk, desk} | sessions], strategy: :one_for_one, max_restarts: 10 * options[:size])
  end

  defp ended(nil), do: :ok

  defp ended(pid) do
    monitor = Process.monitor(pid)

    receive do
      {:DOWN, ^monitor, _, _, _} -> :ok
    after
      1_000 -> Process.demonitor(monitor, [:flush])
    end
  end

  defp desk(name), do: Module.concat(name, "Desk")

  @doc "One of the sessions, by its number from 1, for what `SnakeBridge.Session` can do."
  @spec session(atom(), pos_integer()) :: GenServer.name()
  def session(name, index), do: Module.concat(name, "Session#{index}")

  @doc "How many sessions a running pool has."
  @spec size(atom()) :: pos_integer()
  def size(name), do: length(info(name).sessions)

  @doc "`SnakeBridge.Session.call/4`, on the session whose turn it is."
  @spec call(atom(), (Session.state() -> term()) | Session.method(), keyword() | [term()]) :: Session.answer()
  def call(name, work, args_or_opts \\ [])

  def call(name, work, opts) when is_function(work, 1) do
    again = if opts[:idempotent] == true, do: :all, else: :nothing
    run(name, work, again, deadline(opts[:timeout]))
  end

  def call(name, method, args), do: call(name, method, args, [])

  @spec call(atom(), Session.method(), [term()], keyword()) :: Session.answer()
  def call(name, method, args, opts) when is_list(args) do
    {work, again, deadline} = Session.method_call(method, args, opts)
    run(name, work, again, deadline)
  end

  @doc false
  def run(name, work, again, deadline, reruns \\ @reruns) do
    visiting = fn session ->
      case Visit.place(session, deadline) do
        {:ok, place} -> {:visited, Visit.once(place, work)}
        {:error, error} -> {:unvisited, error}
      end
    end

    case borrow(name, visiting, deadline) do
      {:visited, {:error, %Error{} = error} = result} ->
        if reruns > 0 and Visit.again?(error, again),
          do: run(name, work, again, deadline, reruns - 1),
          else: result

      {:visited, result} ->
        result

      # It ended in this moment; the work has not begun, whatever it is.
      {:unvisited, %Error{category: category}} when reruns > 0 and category != :timeout ->
        run(name, work, again, deadline, reruns - 1)

      {:unvisited, error} ->
        {:error, error}

      # No session was to be had. A worker that died while they began is no reason to give up, and nothing was done.
      {:error, error} ->
        if reruns > 0 and Visit.again?(error, :all),
          do: run(name, work, again, deadline, reruns - 1),
          else: {:error, error}
    end
  end

  @doc """
  Borrows a session for as long as a function runs, which gets it: for several calls that belong together, for a stream.

      SnakeBridge.SessionPool.checkout(MyApp.Models, fn session ->
        session |> SnakeBridge.Session.stream(:generate, ["Hello"]) |> Enum.each(&IO.write/1)
      end)

  Answers what the function returns, or `{:error, error}` when no session was to be had. Options: `timeout:`.
  """
  @spec checkout(atom(), (GenServer.name() -> result), keyword()) :: result | {:error, Error.t()}
        when result: term()
  def checkout(name, function, opts \\ []) when is_function(function, 1),
    do: borrow(name, function, deadline(opts[:timeout]))

  defp borrow(name, function, deadline) do
    with {:ok, {index, _} = lease} <- Desk.checkout(desk(name), name, deadline) do
      try do
        function.(session(name, index))
      after
        Desk.checkin(desk(name), lease)
      end
    end
  end

  @doc "Runs a function with the state of every session, one after another: to put new weights everywhere, say."
  @spec each(atom(), (Session.state() -> term()), keyword()) :: [Session.answer()]
  def each(name, function, opts \\ []) when is_function(function, 1),
    do: for(index <- 1..size(name), do: Session.call(session(name, index), function, opts))

  @doc "Which sessions are ready and how many callers have each, and how many callers wait."
  @spec info(atom()) :: %{sessions: [map()], waiting: non_neg_integer()}
  def info(name), do: GenServer.call(desk(name), :info)

  defp deadline(timeout),
    do: Pool.deadline(timeout || Application.get_env(:snakebridge, :timeout, 120_000))
end
