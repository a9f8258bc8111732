defmodule SnakeBridge.Codec.Heap do
  @moduledoc """
  Room on the heap of the calling process for a large list that is about to be built.

  A list that grows element by element makes the heap grow step by step, and each step copies what there is: for 100 000 numbers that is
  most of the time that decoding them takes. Here the heap grows once. A tuple that is thrown away at once makes the next collection lay
  out a heap of its size, and the process' `min_heap_size` keeps that from shrinking until the message is decoded.
  """

  # Words. The smallest is what a heap reaches in a few cheap steps anyway; the largest bounds what one message can ask for (64 MiB).
  @smallest 2_000
  @largest 0x800000

  @doc "Runs `decode`; what it reserved is given up afterwards, at the next collection."
  @spec scope((() -> result)) :: result when result: term()
  def scope(decode) do
    {:min_heap_size, before} = Process.info(self(), :min_heap_size)

    try do
      decode.()
    after
      Process.flag(:min_heap_size, before)
    end
  end

  @doc "Makes sure of a heap of so many words, unless that is too little to matter. To be called inside of `scope/1`."
  @spec reserve(non_neg_integer()) :: :ok
  def reserve(words) when words < @smallest, do: :ok
  def reserve(words) when words > @largest, do: reserve(@largest)

  def reserve(words) do
    # A heap that is this large already is left alone, so arrays inside arrays that all claim much cost one reservation, not one each.
    case Process.info(self(), :heap_size) do
      {:heap_size, size} when size < words ->
        Process.flag(:min_heap_size, words)
        Tuple.duplicate(nil, words)
        :ok

      _ ->
        :ok
    end
  end
end
