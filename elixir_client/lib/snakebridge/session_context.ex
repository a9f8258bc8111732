defmodule SnakeBridge.SessionContext do
  @moduledoc """
  Which session the calls of a process run in: the one it was put into, else its automatic one, which lives as long as the process.

  Sessions can be shared: any process may enter a session by its id.
  """
  alias SnakeBridge.{Error, Retry, SessionManager}

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

  @doc """
  A new session id. `pinned: true` keeps its calls on one Python thread, `concurrent: true` lets them run side by side; `pool:`, `timeout:` and `retry:`
  (`SnakeBridge.Retry`) are those of its calls that name none themselves.
  """
  @spec create(keyword()) :: {:ok, String.t()}
  def create(opts \\ []) do
    id =
      Keyword.get(opts, :session_id) ||
        "session_#{:erlang.unique_integer([:positive])}_#{System.os_time(:millisecond)}"

    # A policy that is none is found here, not by some call.
    Retry.new(opts[:retry])

    chosen =
      for {key, true} <- Keyword.take(opts, [:pinned, :concurrent]), into: %{}, do: {to_string(key), true}

    defaults =
      for {key, value} <- Keyword.take(opts, [:pool, :timeout, :retry]), value != nil, do: {key, value}

    if chosen != %{} or defaults != [], do: :ets.insert(@options, {id, chosen, defaults})
    {:ok, id}
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
