defmodule SnakeBridge.SessionManager do
  @moduledoc """
  Watches the processes that use Python. When one ends, its calls in flight are cancelled and its automatic session is released.

  A process is watched once, at its first call, not at every call.
  """
  use GenServer

  alias SnakeBridge.Pool

  @tracked :snakebridge_tracked
  @auto :snakebridge_auto_session

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

  @doc "Watches the calling process."
  @spec track() :: :ok
  def track do
    if Process.get(@tracked) == nil do
      Process.put(@tracked, true)
      # A call, so that a process that dies in its first request is known by then.
      GenServer.call(__MODULE__, {:track, self(), auto_session()})
    end

    :ok
  end

  @impl true
  def init(nil), do: {:ok, %{}}

  @impl true
  def handle_call({:track, pid, session}, _from, sessions) do
    Process.monitor(pid)
    {:reply, :ok, Map.put(sessions, pid, session)}
  end

  @impl true
  def handle_info({:DOWN, _, :process, pid, _}, sessions) do
    {session, sessions} = Map.pop(sessions, pid)
    Pool.abandon(pid)

    if Pool.placed?(session),
      do: Task.Supervisor.start_child(SnakeBridge.Tasks, fn -> Pool.release_session(session) end)

    {:noreply, sessions}
  end

  def handle_info(_, sessions), do: {:noreply, sessions}
end
