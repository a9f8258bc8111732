defmodule SnakeBridge.Pool.SeatClient do
  @moduledoc """
  What others ask of the places of a pool, `SnakeBridge.Pool.Seat` or `SnakeBridge.Pool.Remote`: to wait for a worker, and to replace, end or start
  its process. Whoever waits for a place whose own process has been killed, waits for the next.
  """
  alias SnakeBridge.{Error, Pool}
  alias SnakeBridge.Pool.Seat

  # Milliseconds between looks for a place that is not there.
  @absent 10

  @doc "Waits until a worker is ready here."
  @spec await(atom(), pos_integer(), timeout()) :: {:ok, map()} | {:error, Error.t()}
  def await(pool, index, timeout) do
    asked = System.monotonic_time(:millisecond)

    try do
      GenServer.call(Seat.name(pool, index), :await, timeout)
    catch
      :exit, {:timeout, _} ->
        text = "no Python worker of the pool #{inspect(pool)} was ready in time"
        {:error, Error.new(:timeout, text, %{outcome: :not_started})}

      :exit, _ ->
        left = with ms when is_integer(ms) <- timeout, do: ms - (System.monotonic_time(:millisecond) - asked)
        await_again(pool, index, left)
    end
  end

  # As long as the pool has a supervisor, a seat that was killed comes back, or the pool is just being stopped.
  defp await_again(pool, index, left) do
    if Pool.whereis(pool) != nil and left > @absent do
      Process.sleep(@absent)
      await(pool, index, if(left == :infinity, do: left, else: left - @absent))
    else
      {:error, stopping(pool)}
    end
  end

  @doc """
  Replaces the process here, and waits until the new one has taken its place. Options: `sessions: :wait | :end`, `max_wait: ms | :infinity`,
  `why:` (a text), `spare:` (whether a spare will do).
  """
  @spec replace(atom(), pos_integer(), keyword(), timeout()) :: :ok | {:error, Error.t()}
  def replace(pool, index, options, timeout) do
    with {:ok, _} <- GenServer.call(Seat.name(pool, index), {:replace, options}, timeout), do: :ok
  catch
    :exit, {:timeout, _} ->
      {:error,
       Error.new(
         :timeout,
         "the new process of the worker #{index} was not ready in time; the old one goes on"
       )}

    :exit, _ ->
      {:error, stopping(pool)}
  end

  defp stopping(pool) do
    text = "the pool #{inspect(pool)} is being stopped or restarted; try again"
    Error.new(:unavailable, text, %{outcome: :not_started})
  end

  @doc "Ends the processes here; calls are refused until `open/2`."
  @spec close(atom(), pos_integer()) :: :ok
  def close(pool, index), do: ask(pool, index, :close)

  @doc "Starts a process here again."
  @spec open(atom(), pos_integer()) :: :ok
  def open(pool, index), do: ask(pool, index, :open)

  # A seat that has just been killed begins again as the state of its pool says.
  defp ask(pool, index, what) do
    GenServer.call(Seat.name(pool, index), what, :infinity)
  catch
    :exit, _ -> :ok
  end
end
