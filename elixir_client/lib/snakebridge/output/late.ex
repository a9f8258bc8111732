defmodule SnakeBridge.Output.Late do
  @moduledoc """
  Says what Python threads say when the call that started them has ended. One process per worker, because a group leader may take its time: the
  control connection of the worker never waits for it. What comes faster than it can be said is dropped and counted; a group leader that does not
  answer at all is left alone for a while, so that other callers are heard.
  """
  use GenServer

  require Logger

  alias SnakeBridge.{Output, SessionManager}

  # Notifications, of about 32 KiB each at most.
  @longest_queue 256
  # How long a group leader may take for a notification, and how long it is left alone after that (ms).
  @patience 1_000
  @left_alone 30_000

  def start_link(worker), do: GenServer.start_link(__MODULE__, worker)

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

  # deaf: group leader => when it may be tried again
  @impl true
  def init(worker), do: {:ok, %{worker: worker, deaf: %{}}}

  @impl true
  def handle_cast({:say, [number, call, session, entries] = said}, %{worker: worker} = state) do
    with pid when is_pid(pid) <- SessionManager.process(number),
         {:group_leader, leader} <- Process.info(pid, :group_leader) do
      speaker = %{pid: pid, leader: leader, mode: worker.output, call: call, session: session}
      {:noreply, say_in_time(said, speaker, state)}
    else
      # Its caller has ended: it is the worker's own output, as that of any other code.
      _ ->
        speaker = %{pid: self(), leader: Process.group_leader(), mode: :logger, call: call, session: session}
        Enum.each(entries, &say_for_worker(&1, speaker, worker))
        {:noreply, state}
    end
  end

  @impl true
  def handle_info(_, state), do: {:noreply, state}

  defp say_in_time([_, _, _, entries] = said, %{leader: leader} = speaker, state) do
    now = System.monotonic_time(:millisecond)
    deaf = Map.filter(state.deaf, fn {_, until} -> until > now end)

    if is_map_key(deaf, leader) do
      %{state | deaf: deaf}
    else
      task = Task.async(Output, :say, [entries, speaker])

      if Task.yield(task, @patience) || Task.shutdown(task, :brutal_kill) do
        %{state | deaf: deaf}
      else
        Logger.warning(
          "what a Python thread says for #{inspect(speaker.pid)} is dropped (#{size(said)} characters and what comes in the next " <>
            "#{div(@left_alone, 1000)} s): its group leader #{inspect(leader)} does not answer"
        )

        %{state | deaf: Map.put(deaf, leader, now + @left_alone)}
      end
    end
  end

  defp say_for_worker([kind, text], _, worker) when kind in ["out", "err"] do
    for line <- String.split(to_string(text), "\n", trim: true),
        do: Logger.info("python[#{worker.pool}:#{worker.index}] #{line}")
  end

  defp say_for_worker(entry, speaker, _), do: Output.say([entry], speaker)
end
