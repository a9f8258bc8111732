defmodule SnakeBridge.Codec.Typed.Times do
  @moduledoc """
  The named types of Python's and numpy's times that no leaf can say: what `SnakeBridge.Codec.Typed` asks of a family.
  """

  alias SnakeBridge.Codec.Moments

  alias SnakeBridge.{
    DateTime64,
    Fold,
    TimeDelta,
    TimeDelta64,
    TimeZone,
    ZonedDateTime,
    ZonedTime,
    ZoneInfo
  }

  defguardp is_span(days, seconds, us)
            when is_integer(days) and days in -999_999_999..999_999_999 and is_integer(seconds) and
                   seconds in 0..86_399 and is_integer(us) and us in 0..999_999

  defguardp is_offset(seconds, us)
            when is_integer(seconds) and seconds in -86_400..86_399 and is_integer(us) and us in 0..999_999 and
                   (seconds > -86_400 or us > 0)

  defguardp is_count(count) when count == nil or (is_integer(count) and abs(count) <= 0x7FFFFFFFFFFFFFFF)

  @spec dump(struct()) :: {:ok, term()} | :foreign | {:error, String.t()}
  def dump(%TimeDelta{days: days, seconds: seconds, microseconds: us}) when is_span(days, seconds, us),
    do: {:ok, [days, seconds, us]}

  def dump(%TimeDelta{}),
    do:
      {:error,
       "its seconds must be 0..86399, its microseconds 0..999999, its days at most 999999999; SnakeBridge.TimeDelta.from_microseconds/1 makes it so"}

  def dump(%Fold{moment: moment}) do
    if foldable?(moment),
      do: {:ok, moment},
      else:
        {:error, "its moment must be a Time, a NaiveDateTime or a SnakeBridge.ZonedTime that Python has, too"}
  end

  def dump(%TimeZone{seconds: seconds, microseconds: us, name: name})
      when is_offset(seconds, us) and (is_binary(name) or name == nil),
      do: {:ok, [seconds, us, name]}

  def dump(%TimeZone{}),
    do:
      {:error,
       "its offset must be less than a day in seconds and microseconds 0..999999, its name text or nil"}

  def dump(%ZoneInfo{key: key}) when is_binary(key), do: {:ok, key}
  def dump(%ZoneInfo{}), do: {:error, "its key must be text"}

  def dump(%ZonedTime{time: %Time{} = time, zone: %zone{} = of}) when zone in [TimeZone, ZoneInfo],
    do: with(:ok <- python(time), do: {:ok, [time, of]})

  def dump(%ZonedTime{}),
    do: {:error, "it must hold a Time and a SnakeBridge.TimeZone or SnakeBridge.ZoneInfo"}

  def dump(%ZonedDateTime{naive: %NaiveDateTime{} = naive, zone: %zone{} = of, fold: fold})
      when zone in [TimeZone, ZoneInfo] and fold in [0, 1],
      do: with(:ok <- python(naive), do: {:ok, [naive, of, fold]})

  def dump(%ZonedDateTime{}),
    do:
      {:error,
       "it must hold a NaiveDateTime, a SnakeBridge.TimeZone or SnakeBridge.ZoneInfo, and a fold of 0 or 1"}

  def dump(%DateTime64{value: value, unit: unit}), do: dump_count(value, unit)
  def dump(%TimeDelta64{value: value, unit: unit}), do: dump_count(value, unit)

  defp dump_count(value, unit) when is_count(value) and is_binary(unit) and unit != "",
    do: {:ok, [value, unit]}

  defp dump_count(_, _),
    do: {:error, ~S(its value must be an integer of 64 bits or nil, its unit text such as "ns")}

  @spec load(String.t(), term(), SnakeBridge.Codec.Options.t()) :: {:ok, term()} | :error
  def load("timedelta", [days, seconds, us], _) when is_span(days, seconds, us),
    do: {:ok, %TimeDelta{days: days, seconds: seconds, microseconds: us}}

  def load("fold", moment, _), do: if(foldable?(moment), do: {:ok, %Fold{moment: moment}}, else: :error)

  def load("timezone", [seconds, us, name], _) when is_offset(seconds, us) do
    if name == nil or text?(name),
      do: {:ok, %TimeZone{seconds: seconds, microseconds: us, name: name}},
      else: :error
  end

  def load("zoneinfo", key, _), do: if(text?(key), do: {:ok, %ZoneInfo{key: key}}, else: :error)

  def load("time", [%Time{} = time, %zone{} = of], _) when zone in [TimeZone, ZoneInfo],
    do: {:ok, %ZonedTime{time: time, zone: of}}

  # The fold may stand on the inside, too.
  def load("time", [%Fold{moment: %Time{} = time}, %zone{} = of], _) when zone in [TimeZone, ZoneInfo],
    do: {:ok, %Fold{moment: %ZonedTime{time: time, zone: of}}}

  def load("datetime", [%NaiveDateTime{} = naive, %zone{} = of, fold], _)
      when zone in [TimeZone, ZoneInfo] and fold in [0, 1],
      do: {:ok, %ZonedDateTime{naive: naive, zone: of, fold: fold}}

  def load("datetime64", [value, unit], _) when is_count(value),
    do: if(text?(unit), do: {:ok, %DateTime64{value: value, unit: unit}}, else: :error)

  def load("timedelta64", [value, unit], _) when is_count(value),
    do: if(text?(unit), do: {:ok, %TimeDelta64{value: value, unit: unit}}, else: :error)

  def load(_tag, _payload, _opts), do: :error

  defp text?(text), do: is_binary(text) and String.valid?(text)

  defp foldable?(%ZonedTime{}), do: true
  defp foldable?(%module{} = moment) when module in [Time, NaiveDateTime], do: Moments.check(moment) == :ok
  defp foldable?(_), do: false

  defp python(moment) do
    case Moments.check(moment) do
      :ok -> :ok
      {:foreign, _} -> :foreign
      {:error, rule} -> {:error, rule}
    end
  end
end
