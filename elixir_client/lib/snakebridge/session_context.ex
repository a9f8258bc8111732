defmodule SnakeBridge.SessionContext do
  @moduledoc """
  Which session the calls of a process run in: the one it was put into, else its automatic one, which lives as long as the process.

  Sessions can be shared: any process may enter a session by its id.
  """
  alias SnakeBridge.{Error, Retry, SessionManager}

  @told [:pinned, :concurrent, :replayable, :max_queue, :overflow, :max_bytes]
  @session :snakebridge_session
  @options :snakebridge_session_options

  @doc false
  def create_table do
    :ets.new(@options, [:named_table, :public, :set, read_concurrency: true])
    :ok
  end

  @doc "The session of the calling process."
  @spec current() :: String.t()
  def current, do: Process.get(@session) || SessionManager.auto_session()

  @doc """
  Runs a function in a session. Options: `:session_id` (default: a new one, released at the end).
  """
  @spec with_session(keyword(), (() -> result)) :: result when result: term()
  def with_session(opts \\ [], fun) when is_function(fun, 0) do
    case Keyword.get(opts, :session_id) do
      nil ->
        {:ok, session} = create(opts)

        try do
          inside(session, fun)
        after
          close(session)
        end

      session ->
        inside(session, fun)
    end
  end

  @doc false
  def inside(session, fun) do
    before = enter(session)

    try do
      fun.()
    after
      enter(before)
    end
  end

  @doc false
  # Puts the calling process into a session, or into none (nil); what it was in before.
  def enter(nil), do: Process.delete(@session)
  def enter(session), do: Process.put(@session, session)

  @doc false
  # The options that make a session what it is.
  def known, do: @told ++ [:recover, :on_difference]

  @doc """
  A new session id. Options:

    * `:pinned` - `true` keeps its calls on one Python thread
    * `:concurrent` - `true` lets them run side by side
    * `:max_queue` - how many of its calls may wait (0: none). One more is refused as `:overloaded`
    * `:overflow` - who is: `:reject` (the default), the one that comes, or `:drop_oldest`, the one that has waited longest
    * `:max_bytes` - how many bytes its objects may hold in Python, as far as their sizes are known. More are refused as `:memory_limit`
    * `:recover` - `:lineage` has what it holds made anew when its worker dies (docs/recovery.md); `replayable: true` says that every one of its calls may
      be made again, `on_difference: :warn` that an object which comes out different is good enough
    * `:pool`, `:timeout`, `:retry` (`SnakeBridge.Retry`) - those of its calls that name none themselves

  An option that makes no sense raises `ArgumentError`. Of a session that is concurrent, no call waits.
  """
  @spec create(keyword()) :: {:ok, String.t()}
  def create(opts \\ []) do
    id =
      Keyword.get(opts, :session_id) ||
        "session_#{:erlang.unique_integer([:positive])}_#{System.os_time(:millisecond)}"

    # A policy that is none is found here, not by some call.
    Retry.new(opts[:retry])

    chosen =
      for {key, value} <- Keyword.take(opts, @told),
          value not in [nil, false],
          into: recovery(opts),
          do: {to_string(key), told(key, value)}

    defaults =
      for {key, value} <- Keyword.take(opts, [:pool, :timeout, :retry]), value != nil, do: {key, value}

    if chosen != %{} or defaults != [], do: :ets.insert(@options, {id, chosen, defaults})
    {:ok, id}
  end

  defp told(key, true) when key in [:pinned, :concurrent, :replayable], do: true
  defp told(:max_queue, count) when is_integer(count) and count >= 0, do: count
  defp told(:max_bytes, count) when is_integer(count) and count > 0, do: count
  defp told(:overflow, policy) when policy in [:reject, :drop_oldest], do: to_string(policy)

  defp told(key, value) do
    rule =
      case key do
        :max_queue -> "an integer of at least 0, the number of calls that may wait"
        :max_bytes -> "an integer of at least 1, the bytes that its objects may hold"
        :overflow -> ":reject or :drop_oldest"
        _ -> "true or false"
      end

    raise ArgumentError, "the session option #{key} is #{inspect(value, limit: 5)}; it must be #{rule}"
  end

  defp recovery(opts) do
    recover = opts[:recover]
    how = Keyword.get(opts, :on_difference, :fail)

    cond do
      recover not in [nil, false, :lineage] ->
        raise ArgumentError, "recover: is #{inspect(recover)}; it must be :lineage (docs/recovery.md)"

      how not in [:fail, :warn] ->
        raise ArgumentError, "on_difference: is #{inspect(how)}; it must be :fail or :warn"

      recover == :lineage ->
        %{"recover" => "lineage", "on_difference" => to_string(how)}

      opts[:replayable] == true or Keyword.has_key?(opts, :on_difference) ->
        raise ArgumentError, "replayable: and on_difference: are options of a session with recover: :lineage"

      true ->
        %{}
    end
  end

  @doc "Whether what a session holds is made anew when its worker dies."
  @spec recovered?(String.t()) :: boolean()
  def recovered?(session) do
    match?([{_, %{"recover" => _}, _}], :ets.lookup(@options, session))
  rescue
    # The application is stopped, and its tables are gone.
    ArgumentError -> false
  end

  @doc "Ends a session and releases what it holds."
  @spec close(String.t()) :: :ok | {:error, term()}
  def close(session) do
    result = SnakeBridge.Runtime.release_session(session)
    forget(session)
    result
  end

  @doc false
  def forget(session), do: :ets.delete(@options, session)

  @doc false
  # What Python is told of the session, and options of its calls.
  def options(session) do
    case :ets.lookup(@options, session) do
      [{_, options, defaults}] -> {options, defaults}
      [] -> {%{}, []}
    end
  rescue
    error in ArgumentError ->
      if :ets.whereis(@options) == :undefined, do: raise(stopped()), else: reraise(error, __STACKTRACE__)
  end

  defp stopped do
    Error.new(
      :unavailable,
      "the application :snakebridge is not running; start it with Application.ensure_all_started(:snakebridge), or see in the log why it has stopped",
      %{outcome: :not_started}
    )
  end
end
