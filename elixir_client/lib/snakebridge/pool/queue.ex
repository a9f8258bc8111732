defmodule SnakeBridge.Pool.Queue do
  @moduledoc """
  Who waits for a connection to a worker, first come, first served. How many they are stands in the worker's counters, so that whoever gives
  a connection back sends no message when nobody waits.
  """
  alias SnakeBridge.Pool.Slots

  # Where the worker's counters hold it.
  @waiting 2

  @opaque t :: :queue.queue(GenServer.from())

  @spec new() :: t()
  def new, do: :queue.new()

  @spec empty?(t()) :: boolean()
  def empty?(queue), do: :queue.is_empty(queue)

  @doc "Whether anybody waits, as far as the counters know."
  @spec waiting?(map()) :: boolean()
  def waiting?(worker), do: :atomics.get(worker.counts, @waiting) > 0

  @doc "Puts a caller at the end, and wakes the first if a connection is free."
  @spec join(t(), GenServer.from(), map()) :: t()
  def join(queue, from, worker) do
    queue = :queue.in(from, queue)
    # Counted first, then looked: whoever frees a connection from here on tells us.
    count(queue, worker)
    wake(queue, worker)
  end

  @doc "Tells the first that still lives to look again, if a connection is free."
  @spec wake(t(), map()) :: t()
  def wake(queue, worker) do
    queue = :queue.filter(fn {pid, _} -> Process.alive?(pid) end, queue)

    queue =
      case Slots.free?(worker.slots) && :queue.out(queue) do
        {{:value, from}, rest} ->
          GenServer.reply(from, :look_again)
          rest

        _ ->
          queue
      end

    count(queue, worker)
    queue
  end

  @doc "Tells everybody the same: there is nothing to wait for any more."
  @spec dismiss(t(), term()) :: :ok
  def dismiss(queue, answer), do: queue |> :queue.to_list() |> Enum.each(&GenServer.reply(&1, answer))

  defp count(queue, worker), do: :atomics.put(worker.counts, @waiting, :queue.len(queue))
end
