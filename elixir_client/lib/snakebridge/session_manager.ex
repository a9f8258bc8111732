defmodule SnakeBridge.SessionManager do
  @moduledoc """
  Watches the processes that use Python. When one ends, its calls in flight are cancelled and its automatic session is released.

  A process is watched once, at its first call, not at every call.
  """
  use GenServer

  alias SnakeBridge.{Pool, Shared}
  alias SnakeBridge.Pool.Slots

  @tracked :snakebridge_tracked
  @auto :snakebridge_auto_session
  # number => process and its session; it outlives this process, which then watches them all again
  @callers :snakebridge_callers

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "The automatic session of the calling process; made at the first call."
  @spec auto_session() :: String.t()
  def auto_session do
    case Process.get(@auto) do
      nil ->
        pid =
          self()
          |> :erlang.pid_to_list()
          |> to_string()
          |> String.trim_leading("<")
          |> String.trim_trailing(">")

        id = "auto_#{pid}_#{System.os_time(:millisecond)}"
        Process.put(@auto, id)
        id

      id ->
        id
    end
  end

  @doc false
  def table, do: @callers

  @doc "Watches the calling process; the number under which it holds connections."
  @spec track() :: Slots.holder()
  def track do
    number = Process.get(@tracked)

    # A process that lives longer than this application is new to the next one.
    if number != nil and :ets.member(@callers, number) do
      number
    else
      # A call, so that a process that dies in its first request is known by then.
      number = GenServer.call(__MODULE__, {:track, self(), auto_session()})
      Process.put(@tracked, number)
      number
    end
  end

  @impl true
  def init(nil), do: {:ok, Map.new(:ets.tab2list(@callers), fn {number, pid, _} -> watch(pid, number) end)}

  defp watch(pid, number), do: {Process.monitor(pid), number}

  @impl true
  def handle_call({:track, pid, session}, _from, watched) do
    number = Slots.holder()
    :ets.insert(@callers, {number, pid, session})
    {monitor, _} = watch(pid, number)
    {:reply, number, Map.put(watched, monitor, number)}
  end

  @impl true
  def handle_info({:DOWN, monitor, :process, pid, _}, watched) when is_map_key(watched, monitor) do
    {number, watched} = Map.pop(watched, monitor)
    [{_, _, session}] = :ets.lookup(@callers, number)
    Pool.abandon(pid, number)
    :ets.delete(@callers, number)
    Shared.release_session(session)

    if Pool.placed?(session),
      do: Task.Supervisor.start_child(SnakeBridge.Tasks, fn -> Pool.release_session(session) end)

    {:noreply, watched}
  end

  def handle_info(_, watched), do: {:noreply, watched}
end
