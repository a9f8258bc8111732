defmodule SnakeBridge.Output.Late do
  @moduledoc """
  Says what Python threads say when the call that started them has ended. One process per worker, because a group leader may take its time: the
  control connection of the worker never waits for it. What comes faster than it can be said is dropped and counted.
  """
  use GenServer

  require Logger

  alias SnakeBridge.{Output, SessionManager}

  # Notifications, of about 32 KiB each at most.
  @longest_queue 256

  def start_link(worker), do: GenServer.start(__MODULE__, {self(), worker})

  @doc "Says the entries of an `output` notification as soon as possible; whether there was room for them."
  @spec say(pid(), list()) :: boolean()
  def say(late, [_number, _call, _session, _entries] = said) do
    case Process.info(late, :message_queue_len) do
      {_, length} when length < @longest_queue -> GenServer.cast(late, {:say, said}) == :ok
      _ -> false
    end
  end

  @doc "How many characters a notification says."
  @spec size(list()) :: non_neg_integer()
  def size([_, _, _, entries]),
    do: entries |> List.flatten() |> Enum.filter(&is_binary/1) |> Enum.map(&String.length/1) |> Enum.sum()

  @impl true
  def init({connection, worker}) do
    # It ends with the connection, which ends normally, or is killed, when its worker has died: silently, and when it has said what came before.
    # A GenServer that was started with the link would log that.
    Process.flag(:trap_exit, true)
    Process.link(connection)
    {:ok, worker}
  end

  @impl true
  def handle_cast({:say, [number, call, session, entries]}, worker) do
    with pid when is_pid(pid) <- SessionManager.process(number),
         {:group_leader, leader} <- Process.info(pid, :group_leader) do
      Output.say(entries, %{pid: pid, leader: leader, mode: worker.output, call: call, session: session})
    else
      # Its caller has ended: it is the worker's own output, as that of any other code.
      _ ->
        speaker = %{pid: self(), leader: Process.group_leader(), mode: :logger, call: call, session: session}
        Enum.each(entries, &say_for_worker(&1, speaker, worker))
    end

    {:noreply, worker}
  end

  @impl true
  def handle_info({:EXIT, _, _}, worker), do: {:stop, :normal, worker}
  def handle_info(_, worker), do: {:noreply, worker}

  defp say_for_worker([kind, text], _, worker) when kind in ["out", "err"] do
    for line <- String.split(to_string(text), "\n", trim: true),
        do: Logger.info("python[#{worker.pool}:#{worker.index}] #{line}")
  end

  defp say_for_worker(entry, speaker, _), do: Output.say([entry], speaker)
end
