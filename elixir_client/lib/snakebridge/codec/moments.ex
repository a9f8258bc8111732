defmodule SnakeBridge.Codec.Moments do
  @moduledoc """
  What dates and times of Elixir and Python have in common, for both encodings: ISO calendar, years 1 to 9999, and time zones that are
  either a fixed offset or an IANA name.
  """

  @day 86_400

  @doc "Says why a date or time is malformed (`:error`) or has no counterpart in Python (`:foreign`), or `:ok`."
  @spec check(Date.t() | Time.t() | NaiveDateTime.t() | DateTime.t()) ::
          :ok | {:error, String.t()} | {:foreign, String.t()}
  def check(%{calendar: calendar}) when calendar != Calendar.ISO,
    do: {:foreign, "Python knows the ISO calendar only; convert it to Calendar.ISO first"}

  def check(%Date{} = date), do: check_date(date)
  def check(%Time{} = time), do: check_time(time)
  def check(%NaiveDateTime{} = naive), do: with(:ok <- check_date(naive), do: check_time(naive))

  def check(%DateTime{} = moment) do
    with :ok <- check_date(moment), :ok <- check_time(moment), do: check_zone(moment)
  end

  defp check_date(%{year: year, month: month, day: day}) do
    cond do
      not (is_integer(year) and is_integer(month) and is_integer(day)) ->
        {:error, "its fields must be integers"}

      year not in 1..9999 ->
        {:foreign, "Python's years are 1 to 9999; send it as text or as a tuple"}

      not Calendar.ISO.valid_date?(year, month, day) ->
        {:error, "there is no such day"}

      true ->
        :ok
    end
  end

  defp check_time(%{hour: hour, minute: minute, second: second, microsecond: {us, precision}})
       when is_integer(hour) and is_integer(minute) and is_integer(second) and is_integer(us) and
              is_integer(precision) do
    cond do
      not Calendar.ISO.valid_time?(hour, minute, second, {us, precision}) ->
        {:error, "there is no such time of day"}

      rem(us, Integer.pow(10, 6 - precision)) != 0 ->
        {:foreign, "its microsecond has more digits than its precision; truncate it first"}

      true ->
        :ok
    end
  end

  defp check_time(_), do: {:error, "its fields must be integers"}

  defp check_zone(%{utc_offset: utc, std_offset: std, time_zone: zone, zone_abbr: abbreviation})
       when is_integer(utc) and is_integer(std) and is_binary(zone) and is_binary(abbreviation) do
    cond do
      abs(utc + std) >= @day or abs(std) >= @day ->
        {:error, "its offset from UTC must be less than a day"}

      zone == "" or byte_size(zone) > 255 ->
        {:error, "the name of its time zone must have 1 to 255 bytes"}

      not (String.valid?(zone) and String.valid?(abbreviation)) ->
        {:error, "the name of its time zone must be text"}

      true ->
        :ok
    end
  end

  defp check_zone(_), do: {:error, "its zone must be names and offsets in seconds"}

  @doc "Whether ISO 8601 text says a date or time exactly to Python, too: no zone but an offset of whole minutes, and Python's digits."
  @spec iso?(Date.t() | Time.t() | NaiveDateTime.t() | DateTime.t()) :: boolean()
  def iso?(%DateTime{} = moment),
    do: zone(moment) == {"", ""} and rem(moment.utc_offset, 60) == 0 and digits?(moment.microsecond)

  def iso?(%Date{}), do: true
  def iso?(%{microsecond: microsecond}), do: digits?(microsecond)

  defp digits?({us, precision}), do: precision == if(us == 0, do: 0, else: 6)

  @doc ~S(Name and abbreviation of a `DateTime`'s zone on the wire; both "" when it is nothing but an offset.)
  @spec zone(DateTime.t()) :: {String.t(), String.t()}
  def zone(%DateTime{std_offset: 0, utc_offset: offset, time_zone: zone, zone_abbr: abbreviation}) do
    if {zone, abbreviation} == fixed(offset), do: {"", ""}, else: {zone, abbreviation}
  end

  def zone(%DateTime{time_zone: zone, zone_abbr: abbreviation}), do: {zone, abbreviation}

  defp fixed(0), do: {"Etc/UTC", "UTC"}

  defp fixed(offset) do
    sign = if offset < 0, do: "-", else: "+"
    seconds = abs(offset)

    clock = [
      div(seconds, 3600),
      seconds |> div(60) |> rem(60) | if(rem(seconds, 60) == 0, do: [], else: [rem(seconds, 60)])
    ]

    name = sign <> Enum.map_join(clock, ":", &String.pad_leading(Integer.to_string(&1), 2, "0"))
    {name, name}
  end

  @doc "A date, or what is wrong with the fields."
  @spec date(integer(), integer(), integer()) :: {:ok, Date.t()} | {:error, String.t()}
  def date(year, month, day) do
    with {:error, _} <- Date.new(year, month, day), do: {:error, "the date #{inspect({year, month, day})}"}
  end

  @doc "A time, or what is wrong with the fields."
  @spec time(integer(), integer(), integer(), {integer(), integer()}) ::
          {:ok, Time.t()} | {:error, String.t()}
  def time(hour, minute, second, {us, precision}) do
    with {:ok, time} <- Time.new(hour, minute, second, {us, precision}),
         :ok <- check(time) do
      {:ok, time}
    else
      _ -> {:error, "the time #{inspect({hour, minute, second, us, precision})}"}
    end
  end

  @doc "A naive datetime of its halves."
  @spec naive(Date.t(), Time.t()) :: NaiveDateTime.t()
  def naive(%Date{} = date, %Time{} = time) do
    {:ok, naive} = NaiveDateTime.new(date, time)
    naive
  end

  @doc """
  The `DateTime` of a local time. `offset` is the whole offset from UTC in seconds, `dst` the part of it that is daylight saving time, `zone`
  and `abbreviation` are "" for a fixed offset.
  """
  @spec datetime(NaiveDateTime.t(), integer(), integer(), String.t(), String.t()) ::
          {:ok, DateTime.t()} | {:error, String.t()}
  def datetime(naive, offset, dst \\ 0, zone \\ "", abbreviation \\ "")

  def datetime(_naive, offset, dst, _zone, _abbreviation) when abs(offset) >= @day or abs(dst) >= @day,
    do: {:error, "an offset of #{offset} seconds from UTC (#{dst} of daylight saving time)"}

  def datetime(naive, offset, _dst, "", _abbreviation) do
    {zone, abbreviation} = fixed(offset)
    {:ok, build(naive, offset, 0, zone, abbreviation)}
  end

  def datetime(naive, offset, dst, zone, abbreviation) do
    # Copies, because these few bytes must not keep the whole message alive.
    if String.valid?(zone) and String.valid?(abbreviation),
      do: {:ok, build(naive, offset - dst, dst, :binary.copy(zone), :binary.copy(abbreviation))},
      else: {:error, "a time zone whose name is not text"}
  end

  defp build(naive, utc, std, zone, abbreviation) do
    naive
    |> Map.from_struct()
    |> Map.merge(%{utc_offset: utc, std_offset: std, time_zone: zone, zone_abbr: abbreviation})
    |> then(&struct!(DateTime, &1))
  end
end
