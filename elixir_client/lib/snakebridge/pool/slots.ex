defmodule SnakeBridge.Pool.Slots do
  @moduledoc """
  The connections to one worker process, and who holds each. A slot changes hands in one atomic step that also names the new holder, so a
  caller may be killed at any moment: what it held is known, and is closed and free again once its end is noticed.

  No session takes more than three quarters of them for itself: whoever comes next finds one. A holder is the number that `SnakeBridge.SessionManager.track/0` gave a process: a number, because pids do not fit into an atomic.
  """
  alias SnakeBridge.Lane.Connection

  # What a slot holds instead of the number of its holder; 2 is held for a moment by whoever closes a connection that nobody uses.
  @empty 0
  @ready 1
  @closing 2
  @first_holder 3

  @workers :snakebridge_slots

  # Whether the worker lives, and whom it takes: everybody; of a pool that drains, calls on behalf of such as run anywhere; of a process that has been
  # replaced, only those on behalf of its own.
  @dead 0
  @open 1
  @draining 2
  @shut 3

  @enforce_keys [:size, :share, :holders, :requests, :sessions, :alive, :connections]
  defstruct [:size, :share, :holders, :requests, :sessions, :alive, :connections]

  @type t :: %__MODULE__{
          size: pos_integer(),
          share: pos_integer(),
          holders: :atomics.atomics_ref(),
          requests: :atomics.atomics_ref(),
          sessions: :atomics.atomics_ref(),
          alive: :atomics.atomics_ref(),
          connections: :ets.table()
        }
  @type slot :: pos_integer()
  @type holder :: pos_integer()
  @typedoc "One taking of a slot: by whom, and for which request. It is given back once."
  @type lease :: {slot(), holder(), request :: non_neg_integer()}
  @typedoc """
  Who asks for a connection, and what for: the request is what to cancel when the holder dies; `nested`: on behalf of a
  call that runs on this worker (`:here`) or on another; `ends`: it ends a session, and is let in in any case.
  """
  @type claim :: %{
          required(:holder) => holder(),
          required(:request) => pos_integer(),
          required(:session) => pos_integer(),
          required(:nested) => :here | :elsewhere | nil,
          required(:ends) => boolean(),
          optional(atom()) => term()
        }

  @doc "The slots of a worker that has just become ready; the calling process keeps their table alive."
  @spec new(pos_integer()) :: t()
  def new(size) do
    alive = :atomics.new(1, [])
    :atomics.put(alive, 1, @open)

    %__MODULE__{
      size: size,
      share: max(1, ceil(size * 3 / 4)),
      holders: :atomics.new(size, []),
      requests: :atomics.new(size, []),
      sessions: :atomics.new(size, []),
      alive: alive,
      connections: :ets.new(:snakebridge_connections, [:public, :set, read_concurrency: true])
    }
  end

  @doc "A number for a new holder."
  @spec holder() :: holder()
  def holder, do: @first_holder + :erlang.unique_integer([:positive])

  # --- which workers have slots ---

  @doc false
  def table, do: @workers

  @doc "Makes the slots of a worker known to those who look after the dead."
  @spec publish(map()) :: true
  def publish(worker), do: :ets.insert(@workers, {{worker.pool, worker.index, worker.generation}, worker})

  @doc "Every worker process that may still have connections, dead ones too."
  @spec workers() :: [map()]
  def workers, do: for({_, worker} <- :ets.tab2list(@workers), do: worker)

  @doc "A process of a worker that lives, as far as is known, also if it was replaced."
  @spec living(atom(), pos_integer(), non_neg_integer()) :: map() | nil
  def living(pool, index, generation) do
    case :ets.lookup(@workers, {pool, index, generation}) do
      [{_, worker}] -> if alive?(worker.slots), do: worker
      [] -> nil
    end
  end

  @doc "Forgets a dead worker of whose connections none is left."
  @spec forget(map()) :: true
  def forget(worker) do
    :ets.delete(@workers, {worker.pool, worker.index, worker.generation})
    :ets.delete(worker.slots.connections)
  rescue
    # The process that kept the table has ended before it.
    ArgumentError -> true
  end

  @doc "Forgets every generation of a worker: those of an earlier life of its pool."
  @spec forget(atom(), pos_integer()) :: true
  def forget(pool, index), do: :ets.match_delete(@workers, {{pool, index, :_}, :_})

  # --- taking and giving back ---

  @doc "Takes a connection that is ready, or else an empty slot, to be filled with `put/3`. `:shut`: the worker takes no new calls."
  @spec take(t(), claim()) :: {:ready, Connection.t()} | {:empty, lease()} | :none | :shut
  def take(slots, claim) do
    case take(slots, claim.holder, 1, nil) do
      {kind, slot} ->
        :atomics.put(slots.requests, slot, claim.request)
        :atomics.put(slots.sessions, slot, claim.session)
        lease = {slot, claim.holder, claim.request}

        # Taken first, then looked: whoever shuts the worker from here on sees that the slot is held.
        cond do
          not admits?(slots, claim) ->
            return(slots, kind, lease, :shut)

          # Low slots are taken first, so that a high one means a crowd.
          claim.nested != :here and slot > slots.share and flooded?(slots, claim.session) ->
            return(slots, kind, lease, :none)

          true ->
            taken(slots, kind, lease)
        end

      :none ->
        :none
    end
  end

  @doc "Whether the worker takes such a call, as far as it lives."
  @spec admits?(t(), claim()) :: boolean()
  def admits?(_, %{nested: :here}), do: true

  def admits?(slots, claim) do
    case :atomics.get(slots.alive, 1) do
      @shut -> false
      @draining -> claim.nested != nil or claim.ends
      _ -> true
    end
  end

  defp taken(_, :empty, lease), do: {:empty, lease}

  defp taken(slots, :ready, {slot, _, _} = lease),
    do: {:ready, %{:ets.lookup_element(slots.connections, slot, 3) | lease: lease}}

  defp return(slots, :ready, lease, answer) do
    back(slots, %{lease: lease})
    answer
  end

  defp return(slots, :empty, lease, answer) do
    give_up(slots, lease)
    answer
  end

  defp flooded?(slots, session), do: Map.get(by_session(slots), session, 0) > slots.share

  @doc "How many connections each session holds."
  @spec by_session(t()) :: %{pos_integer() => pos_integer()}
  def by_session(slots) do
    for slot <- 1..slots.size, :atomics.get(slots.holders, slot) >= @first_holder, reduce: %{} do
      counts -> Map.update(counts, :atomics.get(slots.sessions, slot), 1, &(&1 + 1))
    end
  end

  # Low slots first: the connections that are used stay few.
  defp take(%{size: size}, _, slot, nil) when slot > size, do: :none

  defp take(%{size: size} = slots, holder, slot, empty) when slot > size do
    case :atomics.compare_exchange(slots.holders, empty, @empty, holder) do
      :ok -> {:empty, empty}
      # Somebody else was faster.
      _ -> take(slots, holder, 1, nil)
    end
  end

  defp take(slots, holder, slot, empty) do
    case :atomics.get(slots.holders, slot) do
      @ready ->
        case :atomics.compare_exchange(slots.holders, slot, @ready, holder) do
          :ok -> {:ready, slot}
          _ -> take(slots, holder, slot + 1, empty)
        end

      @empty ->
        take(slots, holder, slot + 1, empty || slot)

      _ ->
        take(slots, holder, slot + 1, empty)
    end
  end

  @doc "Puts a new connection into a slot that its holder has taken empty. From here on its socket may belong to a process that lives longer."
  @spec put(t(), lease(), Connection.t()) :: Connection.t()
  def put(slots, {slot, _, _} = lease, connection) do
    :ets.insert(slots.connections, {slot, connection.id, connection})
    %{connection | lease: lease}
  end

  @doc "Gives a connection back, ready for the next. Nothing happens if that was done before, or its holder has been found dead."
  @spec back(t(), Connection.t()) :: :ok
  def back(slots, %{lease: {slot, _, _} = lease}) do
    finish(slots, lease, @ready)

    # Nobody comes for a connection to a dead worker. If it dies after this look, `retire/1` sees the connection.
    unless alive?(slots), do: close_ready(slots, slot)
    :ok
  end

  @doc "Closes a connection and empties its slot."
  @spec close(t(), Connection.t()) :: :ok
  def close(slots, connection) do
    Connection.close(connection)
    {slot, _, _} = lease = connection.lease
    # The table first: an empty slot may be filled at once.
    delete(slots, slot, connection.id)
    finish(slots, lease, @empty)
  end

  @doc "Empties a slot into which no connection came."
  @spec give_up(t(), lease()) :: :ok
  def give_up(slots, lease), do: finish(slots, lease, @empty)

  # The same holder may have the slot again, for another request.
  defp finish(slots, {slot, holder, request}, to) do
    if :atomics.compare_exchange(slots.requests, slot, request, 0) == :ok,
      do: :atomics.compare_exchange(slots.holders, slot, holder, to)

    :ok
  end

  # Only the connection meant, not what another holder may have put there.
  defp delete(slots, slot, id) do
    :ets.match_delete(slots.connections, {slot, id, :_})
  rescue
    # The pool was stopped, and the table has gone with it.
    ArgumentError -> true
  end

  defp close_ready(slots, slot) do
    if :atomics.compare_exchange(slots.holders, slot, @ready, @closing) == :ok do
      for {_, id, connection} <- lookup(slots, slot) do
        Connection.close(connection)
        delete(slots, slot, id)
      end

      :atomics.put(slots.holders, slot, @empty)
    end

    :ok
  end

  defp lookup(slots, slot) do
    :ets.lookup(slots.connections, slot)
  rescue
    ArgumentError -> []
  end

  # --- looking after them ---

  @doc "What a holder has: connections, and leases of slots in which there is none yet."
  @spec held(t(), holder()) :: [Connection.t() | lease()]
  def held(slots, holder) do
    for slot <- 1..slots.size, :atomics.get(slots.holders, slot) == holder do
      lease = {slot, holder, :atomics.get(slots.requests, slot)}

      case lookup(slots, slot) do
        [{_, _, connection}] -> %{connection | lease: lease}
        [] -> lease
      end
    end
  end

  @doc "Whether somebody could take a connection now."
  @spec free?(t()) :: boolean()
  def free?(slots), do: Enum.any?(1..slots.size, &(:atomics.get(slots.holders, &1) <= @ready))

  @doc "How many slots are `:empty`, `:ready` and `:held`."
  @spec census(t()) :: %{empty: non_neg_integer(), ready: non_neg_integer(), held: non_neg_integer()}
  def census(slots) do
    Enum.reduce(1..slots.size, %{empty: 0, ready: 0, held: 0}, fn slot, counts ->
      kind =
        case :atomics.get(slots.holders, slot) do
          @empty -> :empty
          @ready -> :ready
          _ -> :held
        end

      Map.update!(counts, kind, &(&1 + 1))
    end)
  end

  @doc "Closes connections that are ready, all but `kept`."
  @spec shrink(t(), non_neg_integer()) :: :ok
  def shrink(slots, kept) do
    ready = for slot <- 1..slots.size, :atomics.get(slots.holders, slot) == @ready, do: slot
    ready |> Enum.drop(kept) |> Enum.each(&close_ready(slots, &1))
  end

  # --- the end ---

  @doc "Whether the worker process lives, as far as is known."
  @spec alive?(t()) :: boolean()
  def alive?(slots), do: :atomics.get(slots.alive, 1) != @dead

  @doc "From now on only calls on behalf of such as run on this worker take a connection."
  @spec shut(t()) :: :ok
  def shut(slots), do: close_door(slots, @shut)

  @doc "From now on only calls on behalf of such as run on any worker take a connection."
  @spec drain(t()) :: :ok
  def drain(slots), do: close_door(slots, @draining)

  # Not where it is dead.
  defp close_door(slots, how) do
    :atomics.compare_exchange(slots.alive, 1, @open, how)
    :ok
  end

  @doc "The connections that are held: what runs there, as far as it has come to Python."
  @spec busy(t()) :: [Connection.t()]
  def busy(slots) do
    for slot <- 1..slots.size,
        holder = :atomics.get(slots.holders, slot),
        holder >= @first_holder,
        {_, _, connection} <- lookup(slots, slot),
        do: %{connection | lease: {slot, holder, :atomics.get(slots.requests, slot)}}
  end

  @doc """
  The worker process has died. Connections that nobody holds are closed; the others by their holders, who may still read answers that came
  before the end.
  """
  @spec retire(t()) :: :ok
  def retire(slots) do
    :atomics.put(slots.alive, 1, @dead)
    shrink(slots, 0)
  end
end
