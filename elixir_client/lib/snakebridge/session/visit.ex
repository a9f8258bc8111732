defmodule SnakeBridge.Session.Visit do
  @moduledoc """
  A caller's stay in a session. The calling process itself talks to Python, inside the session and with its state; only a session that is not ready is
  asked for. Decides what is run again when the session was lost meanwhile.
  """
  alias SnakeBridge.{Error, Pool, Ref, RuntimeClient, SessionContext, StreamRef}
  alias SnakeBridge.Session.{Life, Server}

  @type work :: (state :: term() -> term())
  @type answer :: {:ok, term()} | :ok | {:error, Error.t() | term()}
  @typedoc "What may be run again: nothing; what has not begun in Python; everything."
  @type again :: :nothing | :unbegun | :all

  # A call that was not the cause of a crash may be hit by another one that was.
  @reruns 2

  @doc "Runs work in a session, and again after its next beginning where `again` allows it."
  @spec run(GenServer.server(), work(), again(), integer() | :infinity, non_neg_integer()) :: answer()
  def run(session, work, again, deadline, reruns \\ @reruns) do
    with {:ok, place} <- place(session, deadline),
         {:error, %Error{} = error} = result <- once(place, work) do
      if reruns > 0 and again?(error, again),
        do: run(session, work, again, deadline, reruns - 1),
        else: result
    end
  end

  @doc "Runs work at a place once; a session whose state is gone begins again."
  @spec once(Server.place(), work()) :: answer()
  def once(place, work) do
    with {:error, %Error{} = error} <- stay(place, work) do
      note(error, place)
      {:error, told(error, place)}
    end
  end

  # The session was lost on the way to it, perhaps in the middle of a function: it is run again only where that is known to do no harm.
  defp told(%Error{category: :unknown_ref} = error, place) do
    if loss(error, place) != nil or error.details["session_id"] == place.session_id do
      text = "the session was lost before this call came to its state; call again, or say idempotent: true. "
      %{error | category: :session_lost, message: text <> error.message}
    else
      error
    end
  end

  defp told(error, _), do: error

  @doc "Lets the session begin again if this error says that what its state names is gone."
  @spec note(Error.t(), Server.place()) :: :ok
  def note(error, place) do
    case loss(error, place) do
      nil -> :ok
      reason -> Server.gone(place, reason)
    end
  end

  @doc "Where a session is; waits until it is ready."
  @spec place(GenServer.server(), integer() | :infinity) :: {:ok, Server.place()} | {:error, Error.t()}
  def place(session, deadline) do
    case whereis(session) do
      nil -> {:error, Error.new(:unavailable, not_running(session), %{outcome: :not_started})}
      server -> known(Server.place(server), server, session, deadline)
    end
  end

  defp known(%{} = place, _, _, _), do: {:ok, place}

  defp known(nil, server, session, deadline) do
    if Life.of?(server),
      do:
        raise(
          ArgumentError,
          "init, warm_up or a cast of the session #{inspect(session)} calls that session, which waits for it; use the state that it has in hand"
        )

    checked(server, session)
    left = Pool.left(deadline)
    GenServer.call(server, {:await, left}, left)
  catch
    :exit, {:timeout, _} ->
      {:error,
       Error.new(
         :timeout,
         "the session #{inspect(session)} was not ready in time: its init still runs, or rests before it is tried again; give a longer timeout:",
         %{outcome: :not_started}
       )}

    :exit, _ ->
      {:error, Error.new(:unavailable, not_running(session), %{outcome: :not_started})}
  end

  @doc "The process of a session on this node, or nil."
  @spec whereis(GenServer.server()) :: pid() | nil
  def whereis(session) do
    case GenServer.whereis(session) do
      {_, node} -> raise ArgumentError, elsewhere(session, node)
      pid when is_pid(pid) and node(pid) != node() -> raise ArgumentError, elsewhere(session, node(pid))
      found -> found
    end
  end

  @doc "The session, unless another kind of process has its name: that would end over what it is asked, and a pool takes its sessions along."
  @spec checked(GenServer.server()) :: GenServer.server()
  def checked(session) do
    with pid when is_pid(pid) <- whereis(session), do: checked(pid, session)
    session
  end

  defp checked(pid, session) do
    # A process that has ended is none of any kind.
    if not Server.session?(pid) and Process.alive?(pid),
      do:
        raise(
          ArgumentError,
          "#{inspect(session)} is no SnakeBridge.Session; a pool of sessions is called with SnakeBridge.SessionPool, a batcher with SnakeBridge.Batcher"
        )
  end

  defp elsewhere(session, node),
    do:
      "#{inspect(session)} is on #{inspect(node)}: a session is used on its own node; run the call there, with :erpc.call/2"

  @doc false
  def not_running(session) do
    "no session runs as #{inspect(session)}: it was not started, was given up after too many failures, or was stopped; " <>
      "start it with {SnakeBridge.Session, init: ..., name: ...} in a supervision tree"
  end

  @doc "Runs work at a place. A `SnakeBridge.Error` that is raised is an error answer; what is no answer yet becomes `{:ok, result}`."
  @spec stay(Server.place(), work()) :: answer()
  def stay(place, work) do
    case SessionContext.inside(place.session_id, fn -> work.(place.state) end) do
      {:ok, _} = ok -> ok
      {:error, _} = error -> error
      :ok -> :ok
      result -> {:ok, result}
    end
  rescue
    error in Error -> {:error, error}
  end

  # --- what was lost, what is run again ---

  @doc "Whether a place is gone, as this error says or the pool knows."
  @spec lost?(Error.t(), %{pool: atom(), session_id: String.t(), state: term()}) :: boolean()
  def lost?(error, place), do: loss(error, place) != nil or Server.lost?(place)

  # Why the state is gone, if this error says so. (The pool itself tells the server when a worker dies; it may not be its pool.)
  defp loss(%Error{category: :session_lost} = error, place), do: if(about?(error, place), do: error.message)

  defp loss(%Error{category: :worker_crash} = error, _),
    do: if(RuntimeClient.current() != Pool, do: error.message)

  # Python drops the oldest refs of a session that makes more than it may hold.
  defp loss(%Error{category: :unknown_ref, details: %{"ref_id" => id}} = error, place),
    do: if(Enum.any?(refs(place.state), &(&1.id == id)), do: error.message)

  defp loss(_, _), do: nil

  defp about?(error, place), do: error.context[:session_id] in [nil, place.session_id]

  @doc "The refs in a state."
  @spec refs(term()) :: [Ref.t() | StreamRef.t()]
  def refs(%kind{} = ref) when kind in [Ref, StreamRef], do: [ref]

  def refs(map) when is_map(map) and not is_struct(map),
    do: Enum.flat_map(map, fn {_, value} -> refs(value) end)

  def refs([head | tail]), do: refs(head) ++ refs(tail)
  def refs(tuple) when is_tuple(tuple), do: tuple |> Tuple.to_list() |> refs()
  def refs(_), do: []

  @doc "Whether work that ended with this error may be run again."
  @spec again?(Error.t(), again()) :: boolean()
  def again?(_, :nothing), do: false
  def again?(%Error{category: :worker_crash, outcome: :not_started}, _), do: true
  def again?(%Error{category: :worker_crash}, again), do: again == :all
  def again?(%Error{category: category}, _) when category in [:session_lost, :unknown_ref], do: true
  def again?(_, _), do: false
end
