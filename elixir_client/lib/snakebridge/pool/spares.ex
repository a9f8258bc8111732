defmodule SnakeBridge.Pool.Spares do
  @moduledoc """
  Python processes that are ready, and take no calls yet: one takes the place of a worker that has died, or that is recycled, in a few milliseconds. For
  each that is taken the next is started.
  """
  use GenServer

  require Logger

  alias SnakeBridge.Pool.{Lifecycle, Worker}

  @backoff_first 500
  @backoff_last 30_000
  # The calls that waited for the one that was taken come first; a start takes half a second of a core.
  @settle 250

  def start_link({pool, options}), do: GenServer.start_link(__MODULE__, {pool, options}, name: name(pool))

  @doc false
  def name(pool), do: Module.concat(__MODULE__, pool)

  @doc "A spare, if one is ready; it still belongs to this process until `Worker.seat/3`."
  @spec take(atom()) :: pid() | nil
  def take(pool) do
    # Who gave up waiting might be given one all the same, which would then be nobody's.
    GenServer.call(name(pool), :take, :infinity)
  catch
    :exit, _ -> nil
  end

  @doc "Ends the spares that there are and starts new ones, with Python code as it is now."
  @spec renew(atom()) :: :ok
  def renew(pool), do: ask(pool, :renew)

  @doc "Ends the spares; none are started until `renew/1`."
  @spec close(atom()) :: :ok
  def close(pool), do: ask(pool, :close)

  # Ending processes takes a while. Where this one has been killed they have ended with it, and the next one looks at the state of the pool.
  defp ask(pool, what) do
    GenServer.call(name(pool), what, :infinity)
  catch
    :exit, _ -> :ok
  end

  @doc "How many spares are ready."
  @spec ready(atom()) :: non_neg_integer()
  def ready(pool) do
    GenServer.call(name(pool), :ready)
  catch
    :exit, _ -> 0
  end

  @impl true
  def init({pool, options}) do
    open? = not Lifecycle.closed?(pool)
    state = %{pool: pool, options: options, ready: [], starting: [], backoff: @backoff_first, open: open?}
    {:ok, state, {:continue, :fill}}
  end

  @impl true
  def handle_continue(:fill, state), do: {:noreply, fill(state)}

  defp fill(%{open: false} = state), do: state

  defp fill(state) do
    case state.options[:spares] - length(state.ready) - length(state.starting) do
      missing when missing > 0 -> fill_one(state)
      _ -> state
    end
  end

  defp fill_one(state) do
    case Worker.start(state.pool, state.options, self()) do
      {:ok, pid} ->
        Process.monitor(pid)
        fill(%{state | starting: [pid | state.starting]})

      {:error, reason} ->
        later(state, inspect(reason, limit: 10))
    end
  end

  defp later(state, text) do
    Logger.error("SnakeBridge: a spare of the pool #{inspect(state.pool)} cannot start: #{text}")
    Process.send_after(self(), :fill, state.backoff)
    %{state | backoff: min(2 * state.backoff, @backoff_last)}
  end

  @impl true
  def handle_call(:take, _from, %{ready: []} = state), do: {:reply, nil, state}

  def handle_call(:take, _from, %{ready: [pid | ready]} = state) do
    Process.send_after(self(), :fill, @settle)
    {:reply, pid, %{state | ready: ready}}
  end

  def handle_call(:ready, _from, state), do: {:reply, length(state.ready), state}
  def handle_call(:renew, _from, state), do: {:reply, :ok, %{ended(state) | open: true}, {:continue, :fill}}
  def handle_call(:close, _from, state), do: {:reply, :ok, %{ended(state) | open: false}}

  defp ended(state) do
    for pid <- state.ready ++ state.starting,
        do: DynamicSupervisor.terminate_child(Worker.supervisor(state.pool), pid)

    %{state | ready: [], starting: []}
  end

  @impl true
  def handle_info({:worker, pid, :ready}, state) do
    if pid in state.starting,
      do:
        {:noreply,
         %{
           state
           | starting: List.delete(state.starting, pid),
             ready: state.ready ++ [pid],
             backoff: @backoff_first
         }},
      else: {:noreply, state}
  end

  def handle_info({:worker, pid, {:failed, text}}, state), do: {:noreply, gone(state, pid, text)}
  def handle_info({:worker, pid, {:died, death}}, state), do: {:noreply, gone(state, pid, death.text)}

  def handle_info({:DOWN, _, :process, pid, reason}, state),
    do: {:noreply, gone(state, pid, inspect(reason, limit: 5))}

  def handle_info(:fill, state), do: {:noreply, fill(state)}
  def handle_info(_, state), do: {:noreply, state}

  defp gone(state, pid, text) do
    if pid in state.ready or pid in state.starting do
      later(%{state | ready: List.delete(state.ready, pid), starting: List.delete(state.starting, pid)}, text)
    else
      state
    end
  end
end
