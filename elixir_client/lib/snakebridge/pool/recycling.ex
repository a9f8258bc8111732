defmodule SnakeBridge.Pool.Recycling do
  @moduledoc """
  When a worker is replaced although it works: by age, by the number of its calls, by its memory. Each process gets limits of its own, a fifth lower at
  most, so that workers that began together do not end together.
  """
  alias SnakeBridge.Pool.{Lifecycle, Resident}

  @options [:after, :calls, :rss, :sessions, :max_wait]

  @type limits :: %{optional(:after | :calls | :rss) => pos_integer()}

  @doc "Checks the option `recycle:`. Raises ArgumentError."
  @spec check!(term()) :: :ok
  def check!(nil), do: :ok

  def check!(given) do
    unless Keyword.keyword?(given) and Keyword.keys(given) -- @options == [] and
             Enum.all?(Keyword.take(given, [:after, :calls, :rss]), fn {_, n} -> is_integer(n) and n > 0 end) do
      raise ArgumentError,
            "recycle: is #{inspect(given)}; it must be [after: ms, calls: n, rss: bytes], any of them, " <>
              "with sessions: :wait | :end and max_wait: ms"
    end

    :ok
  end

  @doc "The limits of one process."
  @spec limits(keyword() | nil) :: limits()
  def limits(nil), do: %{}

  def limits(options) do
    for {key, value} <- options, key in [:after, :calls, :rss], into: %{} do
      {key, if(key == :rss, do: value, else: max(1, round(value * (0.8 + 0.2 * :rand.uniform()))))}
    end
  end

  @doc "Why the process of a seat is to be replaced, or nil. While an earlier one is still needed, it stays."
  @spec due(map()) :: String.t() | nil
  def due(%{status: :ready, next: nil, limits: limits, left: left, worker: worker} = seat)
      when map_size(limits) > 0 and map_size(left) == 0 do
    if Lifecycle.state(seat.pool) == :running, do: Enum.find_value(limits, &over(&1, worker))
  end

  def due(_), do: nil

  defp over({:after, most}, worker) do
    age = System.monotonic_time(:millisecond) - worker.since
    if age >= most, do: "it is #{div(age, 1000)} s old"
  end

  defp over({:calls, most}, worker) do
    calls = :atomics.get(worker.counts, 1)
    if calls >= most, do: "it has served #{calls} calls"
  end

  defp over({:rss, most}, worker) do
    bytes = Resident.bytes(worker.os_pid)
    if bytes && bytes >= most, do: "it takes #{div(bytes, 1_048_576)} MB of memory"
  end
end
