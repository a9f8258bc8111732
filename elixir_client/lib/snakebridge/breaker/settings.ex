defmodule SnakeBridge.Breaker.Settings do
  @moduledoc "The numbers of the circuit breakers of a pool: the pool option `breaker:`, checked."

  @kinds [:crash, :timeout, :python_error]

  defstruct failures: 5,
            window: 60_000,
            rate: 0.5,
            open: 30_000,
            successes: 3,
            probes: 3,
            count: [:crash, :timeout]

  @type t :: %__MODULE__{
          failures: pos_integer(),
          window: pos_integer(),
          rate: float(),
          open: pos_integer(),
          successes: pos_integer(),
          probes: pos_integer(),
          count: [:crash | :timeout | :python_error]
        }

  @doc "The settings that a pool's `breaker:` describes, or nil for `false`. Raises ArgumentError."
  @spec new(keyword() | boolean() | nil) :: t() | nil
  def new(false), do: nil
  def new(given) when given in [nil, true], do: %__MODULE__{}

  def new(given) do
    unless Keyword.keyword?(given),
      do:
        raise(
          ArgumentError,
          "breaker: is #{inspect(given, limit: 5)}; it must be a keyword list, true or false"
        )

    Enum.reduce(given, %__MODULE__{}, &check/2)
  end

  defp check({name, value}, settings) when name in [:failures, :window, :open, :successes, :probes] do
    unless is_integer(value) and value > 0 do
      unit = if name in [:window, :open], do: " of milliseconds"

      raise ArgumentError,
            "the option #{name} of breaker: is #{inspect(value, limit: 5)}; it must be a positive number#{unit}; breaker: false turns breakers off"
    end

    Map.put(settings, name, value)
  end

  defp check({:rate, rate}, settings) do
    unless is_number(rate) and rate >= 0 and rate < 1 do
      raise ArgumentError,
            "the option rate of breaker: is #{inspect(rate, limit: 5)}; it must be the share of calls of which more must fail, from 0 (failures: alone decides) to less than 1"
    end

    %{settings | rate: rate / 1}
  end

  defp check({:count, kinds}, settings) do
    unless is_list(kinds) and kinds -- @kinds == [],
      do:
        raise(
          ArgumentError,
          "the option count of breaker: is #{inspect(kinds, limit: 5)}; it must be a list of some of #{Enum.map_join(@kinds, ", ", &inspect/1)}"
        )

    %{settings | count: kinds}
  end

  defp check({name, _}, _) do
    raise ArgumentError,
          "breaker: has no option #{inspect(name)}; its options are :failures, :window, :rate, :open, :successes, :probes and :count"
  end
end
