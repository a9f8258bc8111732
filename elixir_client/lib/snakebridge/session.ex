defmodule SnakeBridge.Session do
  @moduledoc """
  A Python session with state, as a process of a supervision tree: a model that is loaded once and used by many.

      children = [
        {SnakeBridge.Session,
         name: MyApp.Model,
         init: fn -> SnakeBridge.call("my_models", "load", ["prices.pkl"]) end,
         warm_up: fn model -> SnakeBridge.call(model, :predict, [[[0.0, 0.0]]]) end}
      ]

      {:ok, prices} = SnakeBridge.Session.call(MyApp.Model, :predict, [rows])
      {:ok, n} = SnakeBridge.Session.call(MyApp.Model, fn model -> SnakeBridge.get_attr(model, :n_features_in_) end)

  `init` runs inside of a fresh Python session and returns `{:ok, state}`; the state is a ref, or any small term that holds refs. Calls run **in the
  calling process**, inside of that session and with that state: arguments and results are not copied through the process of the session, which only
  owns its life. As in any session, calls run one at a time unless it is `concurrent: true`.

  ## Options

    * `:init` - a function without arguments that returns `{:ok, state}` or `{:error, reason}` (required)
    * `:warm_up` - a function of the state that runs before the first call does (compile, load lazily); `{:error, reason}` from it is a failure
    * `:name` - as for a `GenServer`
    * `:restart` - what its supervisor does when it ends: `:permanent` (default), `:transient` for sessions that are stopped one by one, as those of
      users: `stop/1`, and giving up after too many failures, end these for good
    * `:pool`, `:timeout`, `:retry` (`SnakeBridge.Retry`) - of the Python calls in the session that name none themselves
    * `:pinned`, `:concurrent`, `:max_queue`, `:overflow`, `:max_bytes` - as for `SnakeBridge.create_session/1`
    * `:recover`, `:replayable`, `:on_difference` - the same. With `recover: :lineage` a session whose worker dies keeps its state, which Python makes anew
      (docs/recovery.md); only if that fails does it begin again with `init`
    * `:max_failures` - how often in a row it may fail to begin, or be lost soon after, before its process gives up and its supervisor decides
      (10). Between attempts it rests 100 ms, then twice as long each time, at most 5 s

  ## What happens when

    * **its worker dies**: the session begins again with `init` at once, without waiting for a call. A call that was running answers
      `:worker_crash`, or is run again when it is `idempotent: true`. Calls that come meanwhile wait, and what had not begun is run then.
    * **`init` fails**: callers that wait get its error; the next attempt follows after a rest.
    * **the caller dies**: what it had running in Python is interrupted; the session stays.
    * **its process ends**: what it held in Python is released, in the background.

  `start_link/1` returns at once; `await/2` waits. The state is copied to each caller: keep large things in Python.
  """

  alias SnakeBridge.{Error, Pool, Ref, Retry, SessionContext, StreamRef}
  alias SnakeBridge.Session.{Server, Visit}

  @type session :: GenServer.server()
  @type state :: term()
  @typedoc "A method of the state, or, if that is a map, of the object under one of its keys."
  @type method :: atom() | String.t() | {key :: term(), method :: atom() | String.t()}
  @type answer :: Visit.answer()

  @options [
    :name,
    :init,
    :warm_up,
    :pool,
    :timeout,
    :retry,
    :pinned,
    :concurrent,
    :max_queue,
    :overflow,
    :max_bytes,
    :recover,
    :replayable,
    :on_difference,
    :max_failures,
    :label,
    :worker,
    :watcher
  ]

  @doc false
  def child_spec(options) do
    {restart, options} = Keyword.pop(options, :restart, :permanent)

    %{
      id: {__MODULE__, options[:name] || make_ref()},
      start: {__MODULE__, :start_link, [options]},
      restart: restart
    }
  end

  @doc "Starts a session. It begins in the background."
  @spec start_link(keyword()) :: GenServer.on_start()
  def start_link(options) do
    options = options |> checked() |> Keyword.put_new(:pool, :default) |> Keyword.put_new(:max_failures, 10)
    {name, options} = Keyword.pop(options, :name)
    options = Keyword.put_new(options, :label, if(name, do: inspect(name), else: "without a name"))
    GenServer.start_link(Server, options, if(name, do: [name: name], else: []))
  end

  @doc false
  def checked(options) do
    for key <- Keyword.keys(options),
        key not in @options,
        do: raise(ArgumentError, "a session has no option #{inspect(key)}; see SnakeBridge.Session")

    unless is_function(options[:init], 0),
      do:
        raise(
          ArgumentError,
          "init: must be a function without arguments that returns {:ok, state}, not #{inspect(options[:init])}"
        )

    unless options[:warm_up] == nil or is_function(options[:warm_up], 1),
      do: raise(ArgumentError, "warm_up: must be a function of the state, not #{inspect(options[:warm_up])}")

    Pool.deadline(options[:timeout] || 0)
    Retry.new(options[:retry])

    unless match?(n when is_integer(n) and n >= 0, Keyword.get(options, :max_failures, 0)),
      do:
        raise(ArgumentError, "max_failures: must be an integer >= 0, not #{inspect(options[:max_failures])}")

    options
  end

  # --- calls ---

  @doc """
  Runs a function in the session, with its state, in the calling process: `call(session, fn model -> ... end, opts)`; or calls a method of the state:
  `call(session, :predict, [rows], opts)`, `call(session, {:scaler, :transform}, [rows])` where the state is a map.

  The function may return `{:ok, value}` or `{:error, reason}`; any other result is answered as `{:ok, result}`, and a `SnakeBridge.Error` that
  is raised as `{:error, error}`. Other exceptions reach the caller as they are.

  Options of the first form are `timeout:` (how long to wait for the session to be ready, 120 s) and `idempotent:`. Those of the second are those of
  `SnakeBridge.call_method/4`. `idempotent: true` allows the call to be run again after a crash.
  """
  @spec call(session(), (state() -> term()) | method(), keyword() | [term()]) :: answer()
  def call(session, work, args_or_opts \\ [])

  def call(session, work, opts) when is_function(work, 1) do
    again = if opts[:idempotent] == true, do: :all, else: :nothing
    Visit.run(session, work, again, deadline(opts[:timeout]))
  end

  def call(_, work, _) when is_function(work),
    do:
      raise(
        ArgumentError,
        "the function of a call takes the session's state, as fn state -> ... end, not #{inspect(work)}"
      )

  def call(session, method, args), do: call(session, method, args, [])

  @spec call(session(), method(), [term()], keyword()) :: answer()
  def call(session, method, args, opts) when is_list(args) do
    {work, again, deadline} = method_call(method, args, opts)
    Visit.run(session, work, again, deadline)
  end

  @doc "As `call/3`; raises."
  def call!(session, work, args_or_opts \\ []), do: session |> call(work, args_or_opts) |> bang()
  @doc "As `call/4`; raises."
  def call!(session, method, args, opts), do: session |> call(method, args, opts) |> bang()

  defp bang(:ok), do: :ok
  defp bang({:ok, value}), do: value
  defp bang({:error, error}) when is_exception(error), do: raise(error)
  defp bang({:error, reason}), do: raise(Error.new(:unavailable, "the call answered #{inspect(reason)}"))

  @doc false
  # The work of a method call, what of it may be run again, and until when. A ref that is gone never came to its method.
  def method_call(method, args, opts) do
    {idempotent, opts} = Keyword.pop(opts, :idempotent, false)
    deadline = deadline(get_in(opts, [:__runtime__, :timeout]))

    work = fn state ->
      {target, name} = target(state, method)
      SnakeBridge.call_method(target, name, args, opts)
    end

    {work, if(idempotent == true, do: :all, else: :unbegun), deadline}
  end

  @doc false
  def target(state, {key, name}) when is_map(state) and not is_struct(state) do
    case state do
      %{^key => target} ->
        {target, name}

      _ ->
        raise ArgumentError,
              "the state of the session has no #{inspect(key)}; it has #{inspect(Map.keys(state))}"
    end
  end

  def target(%kind{} = ref, name) when kind in [Ref, StreamRef] and not is_tuple(name), do: {ref, name}

  def target(state, method) do
    raise ArgumentError,
          "the state of the session is #{inspect(state, limit: 5)}, which has no method #{inspect(method)}: for a map of refs name the key, " <>
            "{key, method}; for anything else give a function of the state"
  end

  defp deadline(timeout),
    do: Pool.deadline(timeout || Application.get_env(:snakebridge, :timeout, 120_000))

  # --- casts, streams ---

  @doc """
  Runs a function with the state, or calls a method of it, some time later, in the session's own process. Casts run one after another, in the order in which they
  came; those that have not begun wait for the next life. Failures are logged.
  """
  @spec cast(session(), (state() -> term()) | method(), [term()], keyword()) :: :ok
  def cast(session, work, args \\ [], opts \\ [])

  def cast(session, work, _, _) when is_function(work, 1),
    do: GenServer.cast(Visit.checked(session), {:cast, work})

  def cast(session, method, args, opts) when is_list(args) do
    {work, _, _} = method_call(method, args, opts)
    GenServer.cast(Visit.checked(session), {:cast, work})
  end

  @doc """
  A lazy stream of what a method of the state yields, or of the enumerable that a function of the state returns. It enters the session when it is first
  asked for an item; its errors are raised. While it runs, other calls of the session wait, unless that is `concurrent: true`.
  """
  @spec stream(session(), (state() -> Enumerable.t()) | method(), [term()], keyword()) :: Enumerable.t()
  def stream(session, work, args \\ [], opts \\ [])

  def stream(session, work, _, opts) when is_function(work, 1) do
    fn acc, reducer ->
      case Visit.place(session, deadline(opts[:timeout])) do
        {:ok, place} ->
          outer = SessionContext.enter(place.session_id)

          try do
            # What the consumer does with an item is done in the consumer's own session.
            step(place, outer, fn ->
              Enumerable.reduce(work.(place.state), acc, outside(reducer, place, outer))
            end)
          after
            SessionContext.enter(outer)
          end

        {:error, error} ->
          raise error
      end
    end
  end

  def stream(session, method, args, opts) when is_list(args) do
    stream(session, fn state ->
      {target, name} = target(state, method)
      SnakeBridge.stream(target, name, args, opts)
    end)
  end

  defp outside(reducer, place, outer) do
    fn item, acc ->
      SessionContext.enter(outer)

      try do
        reducer.(item, acc)
      after
        SessionContext.enter(place.session_id)
      end
    end
  end

  defp step(place, outer, reduce) do
    case reduced(place, reduce) do
      {:suspended, acc, continue} ->
        {:suspended, acc,
         fn acc ->
           SessionContext.enter(place.session_id)

           try do
             step(place, outer, fn -> continue.(acc) end)
           after
             SessionContext.enter(outer)
           end
         end}

      ended ->
        ended
    end
  end

  # Who reads only streams finds out, too, that the state is gone.
  defp reduced(place, reduce) do
    reduce.()
  rescue
    error in Error ->
      Visit.note(error, place)
      reraise error, __STACKTRACE__
  end

  # --- looking in ---

  @doc "Waits until the session is ready, or answers why it is not."
  @spec await(session(), timeout()) :: :ok | {:error, Error.t()}
  def await(session, timeout \\ 120_000),
    do: with({:ok, _} <- Visit.place(session, deadline(timeout)), do: :ok)

  @doc "The state of the session: what `init` returned."
  @spec state(session(), timeout()) :: {:ok, state()} | {:error, Error.t()}
  def state(session, timeout \\ 120_000),
    do: with({:ok, place} <- Visit.place(session, deadline(timeout)), do: {:ok, place.state})

  @doc """
  What the session is doing: `:status` (`:starting`, `:ready`, or `:resting` before the next attempt), `:pool`, `:worker`, `:session_id`, `:lives` (how
  often it has begun), `:failures` (in a row), `:last_error`, `:casts` (that wait).
  """
  @spec info(session()) :: map()
  def info(session), do: GenServer.call(Visit.checked(session), :info)

  @doc """
  Ends a session; what it held in Python is released. A supervisor starts it again, with `init`, unless it was started with `restart: :transient`
  (or `:temporary`).
  """
  @spec stop(session()) :: :ok
  def stop(session), do: GenServer.stop(session)
end
