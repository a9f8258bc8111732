defmodule SnakeBridge.SessionPool.Desk do
  @moduledoc """
  Who has which session of a pool, and who waits for one. It hands out sessions that are ready, takes them back when their borrower is done or dead, and
  never calls Python.
  """
  use GenServer

  alias SnakeBridge.{Error, Pool}
  alias SnakeBridge.Session.Server

  @typedoc "One lending of a session: its number, and what to give back."
  @type lease :: {pos_integer(), reference()}

  def start_link(options), do: GenServer.start_link(__MODULE__, options, name: options[:desk])

  @doc "Borrows a session; waits for one until the deadline, or until the patience of the pool is at an end."
  @spec checkout(atom(), atom(), integer() | :infinity) :: {:ok, lease()} | {:error, Error.t()}
  def checkout(desk, pool, deadline) do
    # The desk answers in any case: a session that is given to somebody who is gone would be lost for a while.
    GenServer.call(desk, {:checkout, Pool.left(deadline)}, :infinity)
  catch
    :exit, _ ->
      {:error,
       Error.new(
         :unavailable,
         "no pool of sessions runs as #{inspect(pool)}: start it with {SnakeBridge.SessionPool, ...} in a supervision tree",
         %{outcome: :not_started}
       )}
  end

  @doc "Gives a session back."
  @spec checkin(atom(), lease()) :: :ok
  def checkin(desk, {_, lease}), do: GenServer.cast(desk, {:checkin, lease})

  @impl true
  def init(options) do
    slots =
      for index <- 1..options[:size], into: %{} do
        {index, %{ready: nil, busy: 0, turn: index - options[:size], error: nil}}
      end

    state = %{
      options: options,
      slots: slots,
      # lease => session
      leases: %{},
      # monitor => session, of the processes of the sessions that are ready
      sessions: %{},
      queue: :queue.new(),
      turn: 0
    }

    # After a restart of this process the sessions are there already.
    {:ok, Enum.reduce(1..options[:size], state, &found/2)}
  end

  defp found(index, state) do
    with pid when is_pid(pid) <- GenServer.whereis(state.options[:session].(index)),
         %{} <- Server.place(pid) do
      ready(state, index, pid)
    else
      _ -> state
    end
  end

  @impl true
  def handle_call({:checkout, left}, {pid, _} = from, state) do
    monitor = Process.monitor(pid)

    cond do
      index = choose(state) ->
        {:reply, {:ok, {index, monitor}}, lend(state, index, monitor)}

      :queue.len(state.queue) >= state.options[:max_queue] ->
        Process.demonitor(monitor, [:flush])
        {:reply, {:error, full(state)}, state}

      true ->
        patience = min(left, state.options[:queue_timeout])
        timer = if patience != :infinity, do: Process.send_after(self(), {:late, monitor}, patience)
        {:noreply, %{state | queue: :queue.in({monitor, from, timer}, state.queue)}}
    end
  end

  def handle_call(:info, _from, state) do
    sessions =
      for {index, slot} <- state.slots, do: %{index: index, ready: slot.ready != nil, busy: slot.busy}

    {:reply, %{sessions: Enum.sort_by(sessions, & &1.index), waiting: :queue.len(state.queue)}, state}
  end

  @impl true
  def handle_cast({:checkin, lease}, state) do
    Process.demonitor(lease, [:flush])
    {:noreply, state |> returned(lease) |> serve()}
  end

  def handle_cast({:session, :ready, index, pid, _}, state),
    do: {:noreply, state |> ready(index, pid) |> serve()}

  def handle_cast({:session, :lost, index, _, error}, state),
    do: {:noreply, state |> lost(index, error) |> hopeless()}

  @impl true
  def handle_info({:late, monitor}, state) do
    case leave(state, monitor) do
      {nil, state} ->
        {:noreply, state}

      {{_, from, _}, state} ->
        Process.demonitor(monitor, [:flush])
        GenServer.reply(from, {:error, late(state)})
        {:noreply, state}
    end
  end

  def handle_info({:DOWN, monitor, :process, _, _}, state) do
    case Map.pop(state.sessions, monitor) do
      {nil, _} ->
        # A borrower, or one who waited.
        {_, state} = leave(state, monitor)
        {:noreply, state |> returned(monitor) |> serve()}

      {index, sessions} ->
        {:noreply, put_in(%{state | sessions: sessions}.slots[index].ready, nil)}
    end
  end

  def handle_info(_, state), do: {:noreply, state}

  # --- lending ---

  # The next of the sessions that are ready and have room: by load and then in turn, or in turn alone.
  defp choose(%{options: options} = state) do
    free =
      for {index, %{ready: ready, busy: busy} = slot} <- state.slots,
          ready,
          busy < options[:max_calls],
          do: {index, slot}

    case {free, options[:strategy]} do
      {[], _} -> nil
      {_, :least_busy} -> free |> Enum.min_by(fn {_, slot} -> {slot.busy, slot.turn} end) |> elem(0)
      {_, :round_robin} -> free |> Enum.min_by(fn {_, slot} -> slot.turn end) |> elem(0)
    end
  end

  defp lend(state, index, monitor) do
    turn = state.turn + 1
    slots = Map.update!(state.slots, index, &%{&1 | busy: &1.busy + 1, turn: turn})
    %{state | slots: slots, turn: turn, leases: Map.put(state.leases, monitor, index)}
  end

  defp returned(state, lease) do
    case Map.pop(state.leases, lease) do
      {nil, _} ->
        state

      {index, leases} ->
        %{state | leases: leases, slots: Map.update!(state.slots, index, &%{&1 | busy: &1.busy - 1})}
    end
  end

  defp serve(state) do
    with false <- :queue.is_empty(state.queue), index when index != nil <- choose(state) do
      {{:value, {monitor, from, timer}}, queue} = :queue.out(state.queue)
      cancel(timer)
      GenServer.reply(from, {:ok, {index, monitor}})
      serve(lend(%{state | queue: queue}, index, monitor))
    else
      _ -> state
    end
  end

  defp leave(state, monitor) do
    case Enum.split_with(:queue.to_list(state.queue), fn {waiting, _, _} -> waiting == monitor end) do
      {[{_, _, timer} = entry], others} ->
        cancel(timer)
        {entry, %{state | queue: :queue.from_list(others)}}

      {[], _} ->
        {nil, state}
    end
  end

  defp cancel(nil), do: :ok
  defp cancel(timer), do: Process.cancel_timer(timer)

  # --- sessions come and go ---

  defp ready(state, index, pid) do
    monitor = Process.monitor(pid)
    state = forget(state, index)
    slots = Map.update!(state.slots, index, &%{&1 | ready: monitor, error: nil})
    %{state | slots: slots, sessions: Map.put(state.sessions, monitor, index)}
  end

  defp lost(state, index, error) do
    state = forget(state, index)
    put_in(state.slots[index].error, error)
  end

  defp forget(state, index) do
    case state.slots[index].ready do
      nil ->
        state

      monitor ->
        Process.demonitor(monitor, [:flush])
        state = put_in(state.slots[index].ready, nil)
        %{state | sessions: Map.delete(state.sessions, monitor)}
    end
  end

  # Where every session failed, whoever waits is told why; later callers wait for the next attempts.
  defp hopeless(state) do
    errors =
      for {_, %{error: %Error{category: category} = error}} <- state.slots,
          category != :session_lost,
          do: error

    if length(errors) == map_size(state.slots) do
      for {monitor, from, timer} <- :queue.to_list(state.queue) do
        cancel(timer)
        Process.demonitor(monitor, [:flush])
        GenServer.reply(from, {:error, hd(errors)})
      end

      %{state | queue: :queue.new()}
    else
      state
    end
  end

  # --- what callers are told ---

  defp full(state) do
    Error.new(
      :unavailable,
      "#{:queue.len(state.queue)} callers wait for #{standing(state)} already (max_queue:); raise size: or max_queue:, or call less often",
      %{outcome: :not_started}
    )
  end

  defp late(state) do
    Error.new(
      :timeout,
      "none of #{standing(state)} was free in time; raise size:, queue_timeout: or the call's timeout, or call less often",
      %{outcome: :not_started}
    )
  end

  defp standing(state) do
    ready = Enum.count(state.slots, fn {_, slot} -> slot.ready end)
    "the #{map_size(state.slots)} sessions of #{state.options[:label]}, of which #{ready} are ready,"
  end
end
