defmodule SnakeBridge.Pool.WorkerClient do
  @moduledoc """
  What callers ask of the process that looks after a worker, `SnakeBridge.Pool.Worker` or `SnakeBridge.Pool.Remote`: a turn when all connections are
  in use, the end of a request, and why a connection broke. A call that goes well asks nothing.
  """
  alias SnakeBridge.{Breaker, Error}
  alias SnakeBridge.Lane.Connection
  alias SnakeBridge.Pool.{Death, Slots}

  # Where the worker's counters hold how many wait.
  @waiting 2

  @doc "Whether anybody waits for a connection, as far as the counters know."
  @spec crowded?(map()) :: boolean()
  def crowded?(worker), do: :atomics.get(worker.counts, @waiting) > 0

  @doc "Waits for a connection, which is taken for the caller. `:shut`: the worker takes no such calls any more."
  @spec wait_turn(map(), Slots.claim(), integer() | :infinity) ::
          {:ready, Connection.t()} | {:empty, Slots.lease()} | :shut | {:error, Error.t()}
  def wait_turn(worker, claim, deadline) do
    # Answered at the deadline at the latest: whoever gave up by himself might be given a connection all the same.
    GenServer.call(worker.pid, {:wait, Map.put(claim, :deadline, deadline)}, :infinity)
  catch
    :exit, _ -> ended(worker, claim)
  end

  @doc "What becomes of a caller that comes when the worker has ended: one that was replaced has not died."
  @spec ended(map(), Slots.claim()) :: :shut | {:error, Error.t()}
  def ended(worker, claim) do
    if Slots.admits?(worker.slots, claim),
      do: {:error, crash(worker, :not_started, "its pool was stopped")},
      else: :shut
  end

  @doc "Says that a connection is free now, if anybody waits for one."
  @spec freed(map()) :: :ok
  def freed(worker) do
    if crowded?(worker), do: GenServer.cast(worker.pid, :freed)
    :ok
  end

  @doc "Asks a worker that was replaced for a session. False while something of it runs there, or nobody knows."
  @spec give(map(), String.t(), timeout()) :: boolean()
  def give(worker, session, timeout) do
    GenServer.call(worker.pid, {:give, session}, timeout) == true
  catch
    # It has ended, or its interpreter lock is taken.
    :exit, {:timeout, _} -> false
    :exit, _ -> true
  end

  @doc """
  Interrupts a request; if it is still running after the pool's grace period, the worker is killed, and the call's circuit breaker is told.
  """
  @spec cancel(map(), pos_integer(), non_neg_integer(), String.t(), Breaker.key() | nil) :: :ok
  def cancel(worker, connection_id, request_id, reason, circuit \\ nil) do
    GenServer.cast(worker.pid, {:cancel, {connection_id, request_id, circuit}, reason})
  end

  @doc """
  The error for a call whose connection broke: why the process died, as far as that is known. `circuit` is the breaker of a call that may have been
  the cause.
  """
  @spec crash(map(), :unknown | :not_started, String.t(), Breaker.key() | nil) :: Error.t()
  def crash(worker, outcome, seen, circuit \\ nil) do
    unseen = Death.unseen(seen)

    death =
      try do
        GenServer.call(worker.pid, why(worker, circuit), 3_000) || unseen
      catch
        :exit, {:timeout, _} -> unseen
        :exit, _ -> Death.unseen(seen, :pool_stopped)
      end

    error =
      cond do
        worker.remote -> Death.error(death, outcome, lost(worker.address))
        # It may live, and cannot be reached any more.
        death == unseen -> Death.error(death, outcome, "the Python worker was lost")
        true -> Death.error(death, outcome)
      end

    # Which process it was: all calls that failed with it failed of one death.
    put_in(error.details[:worker], {worker.index, worker.generation})
  end

  # Whether a worker on another machine has died of a call may turn out when the call has long been over.
  defp why(%{remote: true} = worker, circuit), do: {:why, worker.generation, circuit}
  defp why(_, _), do: :why

  @doc "What has become of a worker on another machine, as far as can be seen from here."
  @spec lost(String.t()) :: String.t()
  def lost(address), do: "the Python worker at #{address} was lost"
end
