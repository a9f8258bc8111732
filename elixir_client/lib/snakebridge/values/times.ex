defmodule SnakeBridge.TimeDelta do
  @moduledoc """
  A Python `timedelta`, in Python's normal form: `seconds` 0 to 86399, `microseconds` 0 to 999999, and `days` that carry the sign.

      iex> SnakeBridge.TimeDelta.from_microseconds(-1)
      %SnakeBridge.TimeDelta{days: -1, seconds: 86399, microseconds: 999999}
  """

  defstruct days: 0, seconds: 0, microseconds: 0

  @type t :: %__MODULE__{days: integer(), seconds: 0..86_399, microseconds: 0..999_999}

  @doc "The whole span in microseconds."
  @spec to_microseconds(t()) :: integer()
  def to_microseconds(%__MODULE__{days: days, seconds: seconds, microseconds: microseconds}),
    do: (days * 86_400 + seconds) * 1_000_000 + microseconds

  @doc "The span of that many microseconds."
  @spec from_microseconds(integer()) :: t()
  def from_microseconds(span) when is_integer(span) do
    seconds = Integer.floor_div(span, 1_000_000)

    %__MODULE__{
      days: Integer.floor_div(seconds, 86_400),
      seconds: Integer.mod(seconds, 86_400),
      microseconds: Integer.mod(span, 1_000_000)
    }
  end
end

defmodule SnakeBridge.Fold do
  @moduledoc """
  A Python time or naive datetime with `fold=1`: the second of two equal readings of the clock, when it was set back. `moment` is a Time, a
  NaiveDateTime or a `SnakeBridge.ZonedTime`.
  """

  @enforce_keys [:moment]
  defstruct [:moment]

  @type t :: %__MODULE__{moment: Time.t() | NaiveDateTime.t() | SnakeBridge.ZonedTime.t()}
end

defmodule SnakeBridge.TimeZone do
  @moduledoc """
  A Python `timezone`: an offset from UTC of whole `seconds` (which carry the sign) and `microseconds`, and the name that it was given, or
  nil.
  """

  defstruct seconds: 0, microseconds: 0, name: nil

  @type t :: %__MODULE__{seconds: integer(), microseconds: 0..999_999, name: String.t() | nil}
end

defmodule SnakeBridge.ZoneInfo do
  @moduledoc ~S(A Python `ZoneInfo`: the key of an IANA time zone, such as "Europe/Berlin".)

  @enforce_keys [:key]
  defstruct [:key]

  @type t :: %__MODULE__{key: String.t()}

  defimpl String.Chars do
    def to_string(%{key: key}), do: key
  end
end

defmodule SnakeBridge.ZonedTime do
  @moduledoc "A Python `time` with a time zone, which Elixir's `Time` has not."

  @enforce_keys [:time, :zone]
  defstruct [:time, :zone]

  @type t :: %__MODULE__{time: Time.t(), zone: SnakeBridge.TimeZone.t() | SnakeBridge.ZoneInfo.t()}
end

defmodule SnakeBridge.ZonedDateTime do
  @moduledoc """
  A Python aware `datetime` that Elixir's `DateTime` cannot say: its offset has microseconds, or its fixed offset a name of its own. `naive`
  is the local time, `fold` 1 the second of two equal readings of the clock.
  """

  @enforce_keys [:naive, :zone]
  defstruct [:naive, :zone, fold: 0]

  @type t :: %__MODULE__{
          naive: NaiveDateTime.t(),
          zone: SnakeBridge.TimeZone.t() | SnakeBridge.ZoneInfo.t(),
          fold: 0 | 1
        }
end

defmodule SnakeBridge.DateTime64 do
  @moduledoc """
  A numpy `datetime64` scalar: `value` units since 1970, nil for NaT (not a time). `unit` is numpy's, such as "ns", "D" or "25s".
  """

  @enforce_keys [:value, :unit]
  defstruct [:value, :unit]

  @type t :: %__MODULE__{value: integer() | nil, unit: String.t()}
end

defmodule SnakeBridge.TimeDelta64 do
  @moduledoc "A numpy `timedelta64` scalar: `value` units, nil for NaT. `unit` is numpy's, such as \"ns\", \"D\" or \"25s\"."

  @enforce_keys [:value, :unit]
  defstruct [:value, :unit]

  @type t :: %__MODULE__{value: integer() | nil, unit: String.t()}
end
