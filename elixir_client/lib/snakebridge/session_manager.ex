defmodule SnakeBridge.SessionManager do
  @moduledoc """
  Watches the processes that use Python. When one ends, its calls in flight are cancelled and its automatic session is released.

  A process is watched once, at its first call, not at every call.
  """
  use GenServer

  alias SnakeBridge.{Pool, SessionContext, Shared}
  alias SnakeBridge.Pool.Slots

  @tracked :snakebridge_tracked
  @auto :snakebridge_auto_session
  # number => process, its session and its client; it outlives this process, which then watches them all again
  @callers :snakebridge_callers
  # Milliseconds for which the end of a session is told again to a worker that it does not reach.
  @patience 600_000

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

  @doc "Whether this is the automatic session of a process that has ended."
  @spec ended?(String.t()) :: boolean()
  def ended?("auto_" <> rest) do
    [pid | _] = String.split(rest, "_")
    not Process.alive?(:erlang.list_to_pid('<' ++ to_charlist(pid) ++ '>'))
  rescue
    # A name of somebody's own.
    ArgumentError -> false
  end

  def ended?(_), do: false

  @doc false
  def table, do: @callers

  @doc "Watches the calling process for the embedded pool or another runtime client; the number under which it holds connections."
  @spec track(module()) :: Slots.holder()
  def track(client \\ Pool) do
    key = if client == Pool, do: @tracked, else: {@tracked, client}
    number = Process.get(key)

    # A process that lives longer than this application is new to the next one.
    if number != nil and :ets.member(@callers, number) do
      number
    else
      # A call, so that a process that dies in its first request is known by then.
      number = GenServer.call(__MODULE__, {:track, self(), auto_session(), client})
      Process.put(key, number)
      number
    end
  end

  @doc "The number of the calling process, if it is watched."
  @spec number() :: Slots.holder() | nil
  def number, do: Process.get(@tracked)

  @doc "The process of a number, while it lives."
  @spec process(term()) :: pid() | nil
  def process(number) do
    case :ets.lookup(@callers, number) do
      [caller] -> elem(caller, 1)
      [] -> nil
    end
  end

  @impl true
  def init(nil), do: {:ok, Map.new(:ets.tab2list(@callers), fn {number, pid, _, _} -> watch(pid, number) end)}

  defp watch(pid, number), do: {Process.monitor(pid), number}

  @impl true
  def handle_call({:track, pid, session, client}, _from, watched) do
    number = Slots.holder()
    :ets.insert(@callers, {number, pid, session, client})
    {monitor, _} = watch(pid, number)
    {:reply, number, Map.put(watched, monitor, number)}
  end

  @impl true
  def handle_info({:DOWN, monitor, :process, pid, _}, watched) when is_map_key(watched, monitor) do
    {number, watched} = Map.pop(watched, monitor)
    [{_, _, session, client}] = :ets.lookup(@callers, number)
    :ets.delete(@callers, number)
    Shared.release_session(session)
    ended(client, pid, number, session)
    {:noreply, watched}
  end

  def handle_info(_, watched), do: {:noreply, watched}

  defp ended(Pool, pid, number, session) do
    Pool.abandon(pid, number)

    # One that never came to a worker may still have options.
    if Pool.placed?(session),
      do: later(fn -> Pool.release_session(session, @patience) end),
      else: SessionContext.forget(session)
  end

  defp ended(client, _, _, session), do: later(fn -> client.ended(session) end)

  defp later(fun), do: Task.Supervisor.start_child(SnakeBridge.Tasks, fun)
end
