defmodule SnakeBridge.Breaker.Circuit do
  @moduledoc """
  One circuit breaker as a value: what it lets through, and what becomes of it when calls fail or succeed. It has no clock and no process:
  every function is told the time (milliseconds of any clock that does not go back).

  Closed: everything passes; enough failures within the window open it, if more than a share of the calls since the first of them have failed.
  So whoever kills workers from outside opens no circuit of a function whose calls succeed. Open: nothing passes for a while. Half open: a few calls pass as
  probes, each with a token; so many successes of probes close it, one failure opens it again.
  """
  alias SnakeBridge.Breaker.Settings

  @enforce_keys [:settings]
  # failures: when, and how many calls had succeeded by then, newest first, no more than can matter; counted: the latest incidents that have been; until: when an open circuit lets the first probe through; probes: tokens of those that run
  defstruct [:settings, :until, state: :closed, failures: [], counted: [], probes: MapSet.new(), successes: 0]

  @type state :: :closed | :open | :half_open
  @type t :: %__MODULE__{
          settings: Settings.t(),
          state: state(),
          failures: [{integer(), successes :: non_neg_integer()}],
          counted: [term()],
          until: integer() | nil,
          probes: MapSet.t(term()),
          successes: non_neg_integer()
        }

  # How many incidents are remembered: those of which calls may still be failing.
  @counted 16
  # When to ask again while probes run: nobody knows when they end.
  @probing_pause 1_000

  @spec new(Settings.t()) :: t()
  def new(settings), do: %__MODULE__{settings: settings}

  @doc "Whether a call may pass now; `token` names it if it is a probe. A refusal says in how many milliseconds to ask again."
  @spec permit(t(), token :: term(), integer()) :: {:pass | :probe | {:refuse, non_neg_integer()}, t()}
  def permit(%{state: :closed} = circuit, _, _), do: {:pass, circuit}

  def permit(%{state: :open, until: until} = circuit, _, now) when now < until,
    do: {{:refuse, until - now}, circuit}

  def permit(%{state: :open} = circuit, token, now),
    do: permit(%{circuit | state: :half_open, until: nil, successes: 0, probes: MapSet.new()}, token, now)

  def permit(%{state: :half_open, settings: settings} = circuit, token, _) do
    if MapSet.size(circuit.probes) < settings.probes,
      do: {:probe, %{circuit | probes: MapSet.put(circuit.probes, token)}},
      else: {{:refuse, min(settings.open, @probing_pause)}, circuit}
  end

  @doc """
  A call has failed, whether it was a probe or not. `incident` names what it failed of: one worker takes many calls with it when it dies, and dies
  once. `successes` is how many calls have succeeded so far, by a counter that never goes back.
  """
  @spec failed(t(), integer(), incident :: term(), non_neg_integer()) :: t()
  def failed(circuit, now, incident \\ nil, successes \\ 0)
  def failed(circuit, now, nil, successes), do: count(circuit, now, successes)

  def failed(circuit, now, incident, successes) do
    if incident in circuit.counted,
      do: circuit,
      else: count(%{circuit | counted: Enum.take([incident | circuit.counted], @counted)}, now, successes)
  end

  defp count(%{state: :closed, settings: settings} = circuit, now, successes) do
    failures = Enum.take([{now, successes} | recent(circuit, now)], settings.failures)
    circuit = %{circuit | failures: failures}

    if length(failures) == settings.failures and mostly?(failures, settings),
      do: open(circuit, now),
      else: circuit
  end

  # One that had begun before.
  defp count(%{state: :open} = circuit, _, _), do: circuit
  defp count(%{state: :half_open} = circuit, now, _), do: open(circuit, now)

  # Whether more than the allowed share of the calls after the first of these failures have failed.
  defp mostly?([_], _), do: true

  defp mostly?([{_, until} | _] = failures, %{rate: rate}) do
    {_, since} = List.last(failures)
    failed = length(failures) - 1
    failed / (failed + until - since) > rate
  end

  defp open(circuit, now),
    do: %{
      circuit
      | state: :open,
        until: now + circuit.settings.open,
        failures: [],
        probes: MapSet.new(),
        successes: 0
    }

  @doc "A probe has succeeded. Tokens of an earlier time count for nothing."
  @spec succeeded(t(), token :: term()) :: t()
  def succeeded(circuit, token) do
    cond do
      not MapSet.member?(circuit.probes, token) -> circuit
      circuit.successes + 1 >= circuit.settings.successes -> new(circuit.settings)
      true -> %{released(circuit, token) | successes: circuit.successes + 1}
    end
  end

  @doc "A probe ended without a verdict: its place is free again."
  @spec released(t(), token :: term()) :: t()
  def released(circuit, token), do: %{circuit | probes: MapSet.delete(circuit.probes, token)}

  @doc "Failures that count now."
  @spec recent(t(), integer()) :: [{integer(), non_neg_integer()}]
  def recent(%{failures: failures, settings: %{window: window}}, now),
    do: Enum.take_while(failures, fn {at, _} -> at > now - window end)

  @doc "Whether it is as if nothing had ever failed."
  @spec idle?(t(), integer()) :: boolean()
  def idle?(circuit, now), do: circuit.state == :closed and recent(circuit, now) == []
end
