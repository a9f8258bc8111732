defmodule SnakeBridge.Session.Life do
  @moduledoc """
  One life of a session: the process whose automatic Python session it is. It makes the state, warms it up, runs the casts one after another, and
  otherwise waits. When it ends, however that happens, `SnakeBridge.SessionManager` releases what it held in Python, as for any process; and
  Elixir functions that it passed to Python stay callable as long as the session lives.
  """
  require Logger

  alias SnakeBridge.{Error, Pool, RuntimeClient, SessionContext, SessionManager}
  alias SnakeBridge.Session.{Server, Visit}

  @stopped "the application :snakebridge is not running; start it with Application.ensure_all_started(:snakebridge)"

  @doc "Starts a life, linked to the calling server, which hears `{:begun | :ready | :failed | :ran, pid, ...}` from it."
  @spec start(keyword()) :: pid()
  def start(options) do
    server = self()
    client = RuntimeClient.current()
    :proc_lib.spawn_link(fn -> RuntimeClient.with_client(client, fn -> begin(server, options) end) end)
  end

  @doc "Has a function run with the state; `{:ran, pid, :done | {:unbegun, why}}` tells what came of it."
  @spec run(pid(), (term() -> term())) :: :ok
  def run(life, function) do
    send(life, {:run, function})
    :ok
  end

  @doc "Whether the calling process is a life of that server's."
  @spec of?(pid()) :: boolean()
  def of?(server), do: Process.get(__MODULE__) == server

  defp begin(server, options) do
    Process.put(__MODULE__, server)

    if Process.whereis(SessionManager),
      do: begin_here(server, options),
      else: send(server, {:failed, self(), failure(@stopped)})
  end

  defp begin_here(server, options) do
    embedded? = RuntimeClient.current() == Pool
    if embedded?, do: SessionManager.track()
    chosen = Keyword.take(options, SessionContext.known() ++ [:pool, :timeout, :retry])
    {:ok, id} = SessionContext.create([session_id: SessionManager.auto_session()] ++ chosen)
    if embedded?, do: placed(options, id)
    send(server, {:begun, self(), id})

    case prepare(options) do
      {:ok, state} ->
        warn_of_others(state, id, options[:label])
        send(server, {:ready, self(), state})
        serve(server, %{pool: options[:pool], session_id: id, state: state}, options[:label])

      {:error, error} ->
        send(server, {:failed, self(), error})
    end
  end

  defp placed(options, id) do
    if options[:worker],
      do: Pool.Placement.place_on(options[:pool], id, options[:worker]),
      else: Pool.Placement.spread(options[:pool], id)
  end

  defp prepare(options) do
    with {:ok, state} <- guarded("init", options[:init]),
         {:ok, _} <- warm_up(options[:warm_up], state),
         do: {:ok, state}
  end

  defp warm_up(nil, _), do: {:ok, nil}

  # What the function returns matters only when it is an error: warming up is done for its effect.
  defp warm_up(function, state) do
    guarded("warm_up", fn ->
      case function.(state) do
        {:error, _} = error -> error
        _ -> {:ok, nil}
      end
    end)
  end

  defp guarded(name, function) do
    case function.() do
      {:ok, value} -> {:ok, value}
      {:error, %Error{} = error} -> {:error, error}
      {:error, reason} -> {:error, failure("#{name} returned #{inspect({:error, reason}, limit: 10)}")}
      other -> {:error, failure("#{name} must return {:ok, state}, not #{inspect(other, limit: 10)}")}
    end
  rescue
    error in Error -> {:error, error}
    error -> {:error, failure("#{name} raised #{Exception.format(:error, error, __STACKTRACE__)}")}
  catch
    kind, reason -> {:error, failure("#{name}: #{Exception.format(kind, reason, __STACKTRACE__)}")}
  end

  # What a task of `init` has made belongs to the task, and ends with it: before the first call, or soon after.
  defp warn_of_others(state, id, label) do
    for %{session_id: "auto_" <> _ = other} = ref <- Visit.refs(state),
        other != id,
        not Server.life?(other) do
      Logger.warning(
        "SnakeBridge: the state of the session #{label} has #{inspect(ref)}, which another process has made, and which is gone when that ends: " <>
          "make it in init itself, or let the task do it in the session of init, with SnakeBridge.in_session/2"
      )
    end
  end

  defp failure(text), do: Error.new(:unavailable, text, %{outcome: :not_started})

  defp serve(server, place, label) do
    receive do
      {:run, function} ->
        send(server, {:ran, self(), outcome(label, place, function)})

      # Answers to requests that were given up, or whatever strayed here.
      _ ->
        :ok
    end

    serve(server, place, label)
  end

  # A cast that found its session gone has not begun, and is not a failure: the next life runs it.
  defp outcome(label, place, function) do
    with {:error, error} <- function.(place.state), do: failed(label, place, error)
  rescue
    error in Error -> failed(label, place, error)
    error -> log(label, Exception.format(:error, error, __STACKTRACE__))
  catch
    kind, reason -> log(label, Exception.format(kind, reason, __STACKTRACE__))
  else
    {:unbegun, _} = unbegun -> unbegun
    _ -> :done
  end

  # What is gone may be something else that the cast uses: another session's ref, another pool's worker. That is a failure.
  defp failed(label, place, %Error{} = error) do
    if Visit.again?(error, :unbegun) and Visit.lost?(error, place),
      do: {:unbegun, Exception.message(error)},
      else: log(label, Exception.message(error))
  end

  defp failed(label, _, reason), do: log(label, inspect(reason))

  defp log(label, text) do
    Logger.error("SnakeBridge: a cast to the session #{label} failed: #{text}")
    :done
  end
end
