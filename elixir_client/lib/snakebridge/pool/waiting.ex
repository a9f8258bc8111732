defmodule SnakeBridge.Pool.Waiting do
  @moduledoc """
  The callers that wait for a connection to one worker: whom admission lets in, whose turn it is, whose deadline has passed. A connection is taken for
  the one whose turn it is, by the worker's process, so that nobody who comes later is faster.
  """
  alias SnakeBridge.{Error, Pool}
  alias SnakeBridge.Pool.{Admission, Queue, Slots}

  # Where the worker's counters hold how many they are.
  @counted 2

  @enforce_keys [:admission, :queue]
  defstruct [:admission, :queue]

  @opaque t :: %__MODULE__{admission: Admission.t(), queue: Queue.t()}

  @spec new(Admission.t()) :: t()
  def new(admission), do: %__MODULE__{admission: admission, queue: Queue.new()}

  @spec empty?(t()) :: boolean()
  def empty?(waiting), do: Queue.size(waiting.queue) == 0

  @doc "Lets a caller wait, or refuses it."
  @spec join(t(), GenServer.from(), Slots.claim(), map()) :: t()
  def join(%{admission: admission, queue: queue} = waiting, from, claim, worker) do
    entry = Map.put(claim, :from, from)

    case Admission.admit(admission, queue, entry, label(worker)) do
      :join ->
        joined(waiting, Queue.join(queue, entry), worker)

      :displace ->
        joined(waiting, queue |> displace(admission, worker) |> Queue.join(entry), worker)

      {:refuse, error} ->
        GenServer.reply(from, {:error, error})
        waiting
    end
  end

  defp displace(queue, admission, worker) do
    with {oldest, left} <- Queue.oldest_of_longest(queue) do
      GenServer.reply(oldest.from, {:error, Admission.full(admission, queue, label(worker))})
      left
    else
      :none -> queue
    end
  end

  # Counted first, then looked: whoever frees a connection from here on tells us.
  defp joined(waiting, queue, worker) do
    count(queue, worker)
    grant(%{waiting | queue: queue}, worker)
  end

  @doc "Gives the connections that are free to those whose turn it is."
  @spec grant(t(), map()) :: t()
  def grant(%{queue: queue} = waiting, %{slots: slots} = worker) do
    with true <- Queue.size(queue) > 0 and Slots.free?(slots),
         {entry, left} <- Queue.next(queue, Slots.by_session(slots), slots.share),
         taken when taken != :none <- give(entry, slots) do
      count(left, worker)
      grant(%{waiting | queue: left, admission: paced(waiting.admission, taken, left)}, worker)
    else
      _ -> waiting
    end
  end

  # Who has died meanwhile, gives back by his end what he was given before it, or is given nothing.
  defp give(%{from: {pid, _}} = entry, slots) do
    taken = if Process.alive?(pid), do: Slots.take(slots, %{entry | nested: :here}), else: :gone

    cond do
      taken in [:none, :gone] -> taken
      Process.alive?(pid) -> GenServer.reply(entry.from, taken) && :given
      true -> give_back(taken, slots)
    end
  end

  defp give_back({:ready, connection}, slots), do: Slots.back(slots, connection) && :gone
  defp give_back({:empty, lease}, slots), do: Slots.give_up(slots, lease) && :gone

  defp paced(admission, :given, left) do
    admission = Admission.granted(admission, System.monotonic_time(:microsecond))
    if Queue.size(left) == 0, do: Admission.idle(admission), else: admission
  end

  defp paced(admission, :gone, _), do: admission

  @doc "Answers those whose deadline has passed, and forgets those that have died."
  @spec expire(t(), map()) :: t()
  def expire(waiting, worker) do
    {out, queue} =
      Queue.reject(waiting.queue, fn %{from: {pid, _}, deadline: deadline} ->
        Pool.left(deadline) == 0 or not Process.alive?(pid)
      end)

    for %{from: from} <- out, do: GenServer.reply(from, {:error, late(worker)})
    count(queue, worker)
    %{waiting | queue: queue}
  end

  @doc "How long until the next look: where many wait, looking takes time."
  @spec pause(t(), pos_integer()) :: pos_integer()
  def pause(waiting, least), do: max(least, div(Queue.size(waiting.queue), 50))

  @doc "Tells everybody the same: there is nothing to wait for any more."
  @spec dismiss(t(), map(), term()) :: :ok
  def dismiss(waiting, worker, answer) do
    :atomics.put(worker.counts, @counted, 0)
    waiting.queue |> Queue.to_list() |> Enum.each(&GenServer.reply(&1.from, answer))
  end

  defp late(worker) do
    Error.new(
      :timeout,
      "all #{worker.max_connections} connections to #{label(worker)} were in use until the timeout; raise max_connections",
      %{outcome: :not_started}
    )
  end

  defp label(worker), do: "the worker #{worker.index} of the pool #{inspect(worker.pool)}"

  defp count(queue, worker), do: :atomics.put(worker.counts, @counted, Queue.size(queue))
end
