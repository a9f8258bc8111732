defmodule SnakeBridge.Pool.Connections do
  @moduledoc """
  The connections to a Python process, as callers take them and give them back: no process of ours stands in between, unless all are in
  use. `SnakeBridge.Pool.Slots` knows who holds which.
  """
  alias SnakeBridge.{Error, Lane.Connection, Output}
  alias SnakeBridge.Pool.{Placement, Slots, WorkerClient}

  @doc "Takes a connection, a new one if need be; waits its turn when all are in use, or others wait already."
  @spec checkout(map(), Slots.claim(), integer() | :infinity) :: {:ok, Connection.t()} | {:error, Error.t()}
  def checkout(worker, claim, deadline) do
    # A call on behalf of one that runs need not queue behind those that wait for that one.
    taken =
      if WorkerClient.crowded?(worker) and claim.nested == nil,
        do: :none,
        else: Slots.take(worker.slots, claim)

    :atomics.add(worker.counts, 1, 1)

    case with(:none <- taken, do: WorkerClient.wait_turn(worker, claim, deadline)) do
      {:ready, connection} -> {:ok, connection}
      {:empty, lease} -> open(worker, lease)
      :shut -> {:error, Placement.moved(worker)}
      {:error, error} -> {:error, error}
    end
  rescue
    # The pool was stopped, and the table of its connections has gone with it.
    ArgumentError -> with :shut <- WorkerClient.ended(worker, claim), do: {:error, Placement.moved(worker)}
  end

  defp open(worker, lease) do
    with {:ok, connection} <-
           Connection.open(
             worker.address,
             worker.token,
             :call,
             Output.features(worker.output),
             worker.connect
           ) do
      connection = Slots.put(worker.slots, lease, connection)

      with {:error, reason} <- Connection.give(connection, worker.pid) do
        discard(worker, connection)
        {:error, WorkerClient.crash(worker, :not_started, inspect(reason))}
      else
        :ok -> {:ok, connection}
      end
    else
      {:error, error} ->
        Slots.give_up(worker.slots, lease)
        WorkerClient.freed(worker)
        {:error, unopened(worker, error)}
    end
  end

  # Python lives, and says that it has no room.
  defp unopened(_, %Error{category: :overloaded} = error), do: error
  defp unopened(worker, error), do: WorkerClient.crash(worker, :not_started, error.message)

  @doc "Gives a connection back."
  @spec checkin(map(), Connection.t()) :: :ok
  def checkin(worker, connection) do
    Slots.back(worker.slots, connection)
    WorkerClient.freed(worker)
  end

  @doc "Closes a connection that cannot be used any more."
  @spec discard(map(), Connection.t()) :: :ok
  def discard(worker, connection) do
    Slots.close(worker.slots, connection)
    WorkerClient.freed(worker)
  end

  @doc "Cancels what a dead process had in flight on any worker, closes its connections and frees their slots."
  @spec abandon(Slots.holder()) :: :ok
  def abandon(holder) do
    for worker <- Slots.workers(), held <- Slots.held(worker.slots, holder) do
      case held do
        %Connection{lease: {_, _, request}} = connection ->
          WorkerClient.cancel(worker, connection.id, request, "caller_down")
          discard(worker, connection)

        lease ->
          Slots.give_up(worker.slots, lease)
          WorkerClient.freed(worker)
      end
    end

    :ok
  end
end
