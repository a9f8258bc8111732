defmodule SnakeBridge.Pool.Admission do
  @moduledoc """
  Who may wait for a connection to a worker: how many, what happens to one more, and who is told at once that its deadline would come first. Waiting
  times are estimated from the pace at which connections came free of late.
  """
  alias SnakeBridge.{Error, Pool}
  alias SnakeBridge.Pool.Queue

  @overflows [:reject, :drop_oldest, :wait]
  # Of the newest interval; what was before fades.
  @weight 0.1
  # So many intervals must be known before anybody is refused for them.
  @known 8
  @longest_pause 60_000

  defstruct max_queue: 10_000, overflow: :reject, interval: nil, known: 0, last: nil

  @type t :: %__MODULE__{
          max_queue: pos_integer(),
          overflow: :reject | :drop_oldest | :wait,
          interval: float() | nil,
          known: non_neg_integer(),
          last: integer() | nil
        }

  @doc "The admission to a worker, of the options of its pool. Raises ArgumentError."
  @spec new(keyword()) :: t()
  def new(options) do
    given = struct!(__MODULE__, Keyword.take(options, [:max_queue, :overflow]))

    unless is_integer(given.max_queue) and given.max_queue > 0,
      do: raise(ArgumentError, "max_queue: is #{inspect(given.max_queue)}; it must be a positive integer")

    unless given.overflow in @overflows,
      do:
        raise(
          ArgumentError,
          "overflow: is #{inspect(given.overflow)}; it must be one of #{inspect(@overflows)}"
        )

    given
  end

  @doc "What becomes of a newcomer: it joins, joins in the place of another, or is refused."
  @spec admit(t(), Queue.t(), Queue.entry(), String.t()) :: :join | :displace | {:refuse, Error.t()}
  def admit(_, _, %{ends: true}, _), do: :join

  def admit(admission, queue, entry, worker) do
    wait = estimate(admission, Queue.position(queue, entry.session))

    cond do
      wait != nil and entry.deadline != :infinity and wait > Pool.left(entry.deadline) ->
        text =
          "the call would wait about #{wait} ms for a connection to #{worker}, longer than its deadline; " <>
            "call less at a time, raise size: or max_connections:, or give a longer timeout"

        {:refuse, overloaded(text, wait)}

      Queue.working(queue) < admission.max_queue or admission.overflow == :wait ->
        :join

      admission.overflow == :drop_oldest ->
        :displace

      true ->
        {:refuse, full(admission, queue, worker)}
    end
  end

  @doc "The error of a call for which there is no place."
  @spec full(t(), Queue.t(), String.t()) :: Error.t()
  def full(admission, queue, worker) do
    text =
      "#{Queue.working(queue)} calls wait for a connection to #{worker}, as many as may (max_queue: #{admission.max_queue}, " <>
        "overflow: #{inspect(admission.overflow)}); call again later, or raise size:, max_connections: or max_queue:"

    overloaded(text, estimate(admission, Queue.working(queue)))
  end

  defp overloaded(text, pause),
    do:
      Error.new(:overloaded, text, %{
        outcome: :not_started,
        retry_after_ms: (pause || 100) |> max(1) |> min(@longest_pause)
      })

  @doc "A connection has been given to one who waited."
  @spec granted(t(), integer()) :: t()
  def granted(%{last: nil} = admission, now), do: %{admission | last: now}

  def granted(admission, now) do
    interval = now - admission.last

    mean =
      if admission.interval,
        do: admission.interval + @weight * (interval - admission.interval),
        else: interval

    %{admission | interval: mean, known: admission.known + 1, last: now}
  end

  @doc "Nobody waits any more: the next interval tells nothing of the pace."
  @spec idle(t()) :: t()
  def idle(admission), do: %{admission | last: nil}

  # Milliseconds until so many connections have come free.
  defp estimate(%{known: known}, _) when known < @known, do: nil
  defp estimate(admission, turns), do: round(admission.interval * turns / 1000)
end
