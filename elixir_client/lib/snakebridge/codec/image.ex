defmodule SnakeBridge.Codec.Image do
  @moduledoc """
  How a term looks to Python as a key: two keys are equal in Python exactly when their images are the same term.

  Some keys Python cannot hash (`:unhashable`), and of some it depends on more than is known here whether they equal another key
  (`:doubtful`).
  """

  alias SnakeBridge.Codec.Moments

  alias SnakeBridge.{
    Arrow,
    Bytes,
    Complex,
    DateTime64,
    Decimal,
    Ellipsis,
    Extension,
    Fold,
    Fraction,
    FrozenSet,
    Graph,
    IP,
    NamedTuple,
    Namespace,
    OrderedMap,
    Path,
    Pattern,
    Ref,
    Slice,
    StreamRef,
    Tensor,
    Text,
    TimeDelta,
    TimeDelta64,
    TimeZone,
    UUID,
    ZonedDateTime,
    ZonedTime,
    ZoneInfo
  }

  @unhashable [Arrow, Graph, MapSet, Namespace, OrderedMap, Slice, Tensor] ++
                [:"Elixir.Nx.Tensor", :"Elixir.Explorer.DataFrame"]
  # Of those named below only some: with zones by name, with units that others are compared in.
  @doubtful [DateTime64, TimeDelta64, ZonedDateTime]

  # Seconds of the Gregorian calendar: 1970, and the years that Python has.
  @epoch 62_167_219_200
  @first NaiveDateTime.to_gregorian_seconds(~N[0001-01-01 00:00:00]) |> elem(0)
  @last NaiveDateTime.to_gregorian_seconds(~N[9999-12-31 23:59:59]) |> elem(0)

  @spec of(term()) :: {:image, term()} | :unhashable | :doubtful
  def of(term) do
    {:image, image(term)}
  catch
    {__MODULE__, verdict} -> verdict
  end

  defp image(nil), do: nil
  defp image(true), do: 1
  defp image(false), do: 0
  defp image(special) when special in [:nan, :infinity, :neg_infinity], do: special
  defp image(atom) when is_atom(atom), do: {:str, Atom.to_string(atom)}
  defp image(n) when is_integer(n), do: n

  defp image(x) when is_float(x) do
    {numerator, denominator} = Float.ratio(x)
    ratio(numerator, denominator)
  end

  defp image(text) when is_binary(text), do: {if(String.valid?(text), do: :str, else: :bytes), text}
  defp image(tuple) when is_tuple(tuple), do: {:tuple, tuple |> Tuple.to_list() |> Enum.map(&image/1)}
  defp image(function) when is_function(function), do: {:function, function}

  defp image(list) when is_list(list),
    do: if(List.improper?(list), do: {:opaque, list}, else: throw({__MODULE__, :unhashable}))

  defp image(%SnakeBridge.Atom{name: name}), do: {:str, name}
  defp image(%Text{wtf8: wtf8}), do: {:str, wtf8}
  defp image(%Bytes{data: data}), do: {:bytes, data}

  defp image(%Complex{real: real, imag: imag}) do
    case image(imag) do
      0 -> image(real)
      imag -> {:complex, image(real), imag}
    end
  end

  # dates and times

  defp image(%Date{} = date), do: moment(date, & &1)

  defp image(%Time{} = time),
    do: moment(time, &{:time, &1.hour, &1.minute, &1.second, elem(&1.microsecond, 0)})

  defp image(%NaiveDateTime{microsecond: {us, _}} = naive), do: moment(naive, &%{&1 | microsecond: {us, 6}})
  defp image(%DateTime{} = aware), do: moment(aware, &{:instant, DateTime.to_unix(&1, :microsecond)})
  defp image(%Fold{moment: moment}), do: image(moment)
  defp image(%TimeDelta{days: days, seconds: seconds, microseconds: us}), do: {:span, days, seconds, us}
  defp image(%TimeZone{seconds: seconds, microseconds: us}), do: {:offset, seconds, us}

  defp image(%Date.Range{first: first, last: last, step: step}), do: {:dates, image(first), image(last), step}

  # A time in a named zone has no offset, and Python compares it as one without a zone.
  defp image(%ZonedTime{time: time, zone: %ZoneInfo{}}), do: image(time)
  defp image(%ZonedTime{time: %Fold{moment: time}} = zoned), do: image(%{zoned | time: time})

  defp image(%ZonedTime{time: %Time{microsecond: {us, _}} = time, zone: %TimeZone{} = zone}) do
    seconds = time.hour * 3600 + time.minute * 60 + time.second - zone.seconds
    {:zoned_time, seconds * 1_000_000 + us - zone.microseconds}
  end

  defp image(%ZonedDateTime{naive: %NaiveDateTime{microsecond: {us, _}} = naive, zone: %TimeZone{} = zone}) do
    {seconds, _} = NaiveDateTime.to_gregorian_seconds(naive)
    {:instant, (seconds - @epoch - zone.seconds) * 1_000_000 + us - zone.microseconds}
  end

  defp image(%DateTime64{value: nil, unit: unit}), do: {:no_moment, unit}
  defp image(%TimeDelta64{value: nil, unit: unit}), do: {:no_span, unit}
  defp image(%DateTime64{value: value, unit: unit}) when is_integer(value), do: moment64(value, unit(unit))
  defp image(%TimeDelta64{value: value, unit: unit}) when is_integer(value), do: span64(value, unit(unit))

  # numbers

  defp image(%Decimal{sign: sign, coef: coef, exp: exp}), do: decimal(sign, coef, exp)
  defp image(%{__struct__: :"Elixir.Decimal", coef: :NaN} = decimal), do: {:decimal, decimal}

  defp image(%{__struct__: :"Elixir.Decimal", coef: :inf, sign: sign}),
    do: if(sign == 1, do: :infinity, else: :neg_infinity)

  defp image(%{__struct__: :"Elixir.Decimal", sign: sign, coef: coef, exp: exp}), do: decimal(sign, coef, exp)

  defp image(%Fraction{numerator: n, denominator: d}) when is_integer(n) and is_integer(d) and d > 0 do
    divisor = Integer.gcd(n, d)
    ratio(div(n, divisor), div(d, divisor))
  end

  # An IntEnum is its number and a StrEnum its text; which one is known in Python only. A plain Enum hashes by its name.
  defp image(%SnakeBridge.Enum{type: type, name: name, value: value}) do
    case of(value) do
      {:image, image} -> image
      _ -> {:enum, type, name}
    end
  end

  # containers and objects

  defp image(%NamedTuple{values: values}) when is_list(values), do: {:tuple, Enum.map(values, &image/1)}

  # frozensets are compared as sets; of images that are equal one is left, as in Python
  defp image(%FrozenSet{items: %MapSet{} = items}), do: {:set, MapSet.new(items, &image/1)}

  defp image(%Range{first: first, last: last, step: step}) when is_integer(step) do
    case Range.size(first..last//step) do
      0 -> {:range, 0}
      1 -> {:range, 1, first}
      size -> {:range, size, first, step}
    end
  end

  defp image(%Ref{} = ref), do: {:object, ref.session_id, ref.id}
  defp image(%StreamRef{} = ref), do: {:object, ref.session_id, ref.id}
  defp image(%Graph.Node{index: index}), do: {:node, index}
  defp image(%Ellipsis{}), do: :ellipsis

  # names

  defp image(%URI{} = uri), do: {:str, text(uri)}
  defp image(%Version{} = version), do: {:str, text(version)}
  defp image(%ZoneInfo{key: key}), do: {:zone, key}
  defp image(%UUID{text: text}), do: {:uuid, text}
  defp image(%IP{type: type, text: text}), do: {:ip, type, text}
  defp image(%Pattern{source: source, flags: flags}), do: {:pattern, source, flags}
  defp image(%Regex{source: source, opts: opts}), do: {:regex, source, opts}

  # Python drops what does not change where a path leads.
  defp image(%Path{type: type, path: path}) do
    text = text(path)

    if is_binary(type) and String.contains?(type, "Windows") do
      # Windows does not tell upper from lower case, and Python's idea of the last letter of Greek words is another one.
      text = text |> String.downcase() |> String.replace("ς", "σ") |> String.replace("/", "\\")
      {:windows_path, String.starts_with?(text, "\\"), steps(text, "\\")}
    else
      {:path, String.starts_with?(text, "/"), steps(text, "/")}
    end
  end

  # Its Python class hashes lists and dicts as well. What it is where the tag is registered is known in Python only.
  defp image(%Extension{tag: tag, value: value}), do: {:extension, tag, content(value)}

  defp image(%module{}) when module in @unhashable, do: throw({__MODULE__, :unhashable})
  defp image(%module{}) when module in @doubtful, do: throw({__MODULE__, :doubtful})

  # A type of a user may be anything there; every other struct is an opaque term, which is equal to itself.
  defp image(%_{} = struct) do
    if SnakeBridge.Encoder.impl_for(struct), do: throw({__MODULE__, :unhashable}), else: {:opaque, struct}
  end

  defp image(%{__struct__: _} = map), do: {:opaque, map}
  defp image(map) when is_map(map), do: throw({__MODULE__, :unhashable})
  defp image(other), do: {:opaque, other}

  defp moment(value, image), do: if(Moments.check(value) == :ok, do: image.(value), else: {:opaque, value})

  defp ratio(n, 1), do: n
  defp ratio(n, d), do: {:ratio, n, d}

  defp decimal(_sign, _coef, "N"), do: throw({__MODULE__, :unhashable})
  defp decimal(sign, coef, "n"), do: {:decimal_nan, sign, coef}
  defp decimal(1, _coef, "F"), do: :infinity
  defp decimal(-1, _coef, "F"), do: :neg_infinity
  defp decimal(_sign, 0, exp) when is_integer(exp), do: 0

  # Within the range of floats the number itself is looked at; beyond it only other decimals and integers could be equal.
  defp decimal(sign, coef, exp) when is_integer(coef) and exp in -400..400 do
    power = Integer.pow(10, abs(exp))
    {n, d} = if exp >= 0, do: {sign * coef * power, 1}, else: {sign * coef, power}
    divisor = Integer.gcd(n, d)
    ratio(div(n, divisor), div(d, divisor))
  end

  defp decimal(_sign, _coef, _exp), do: throw({__MODULE__, :doubtful})

  # The text of a malformed struct, with which the encoder deals, may be impossible.
  defp text(term) do
    to_string(term)
  rescue
    _ -> ""
  end

  defp steps(path, separator), do: for(step <- String.split(path, separator), step not in ["", "."], do: step)

  defp content(%MapSet{} = set), do: {:set, MapSet.new(set, &image/1)}

  defp content(list) when is_list(list),
    do: {:list, if(List.improper?(list), do: list, else: Enum.map(list, &content/1))}

  defp content(tuple) when is_tuple(tuple), do: {:tuple, tuple |> Tuple.to_list() |> Enum.map(&content/1)}

  defp content(map) when is_map(map) and not is_struct(map),
    do: {:dict, Map.new(map, fn {key, value} -> {image(key), content(value)} end)}

  defp content(other), do: image(other)

  # numpy's times: those of units that can be compared are equal when they say the same, and equal Python's own.

  @attoseconds %{
    "W" => 604_800 * 10 ** 18,
    "D" => 86_400 * 10 ** 18,
    "h" => 3600 * 10 ** 18,
    "m" => 60 * 10 ** 18,
    "s" => 10 ** 18,
    "ms" => 10 ** 15,
    "us" => 10 ** 12,
    "ns" => 10 ** 9,
    "ps" => 10 ** 6,
    "fs" => 1000,
    "as" => 1
  }
  @second 10 ** 18
  @microsecond 10 ** 12

  defp unit(text) do
    with [count, name] <- Regex.run(~r/\A([0-9]*)([A-Za-z]+)\z/, text, capture: :all_but_first) || :none do
      count = if count == "", do: 1, else: String.to_integer(count)

      case {name, @attoseconds} do
        {"Y", _} -> {:months, 12 * count}
        {"M", _} -> {:months, count}
        {_, %{^name => attoseconds}} -> {:attoseconds, attoseconds * count}
        _ -> :none
      end
    end
  end

  defp moment64(value, {:months, count}) do
    months = value * count
    days = Calendar.ISO.date_to_iso_days(1970 + Integer.floor_div(months, 12), Integer.mod(months, 12) + 1, 1)
    moment64(days * 86_400 - @epoch, {:attoseconds, @second})
  rescue
    # The calendar has years of four digits.
    FunctionClauseError -> {:month, value * count}
  end

  defp moment64(value, {:attoseconds, unit}) do
    seconds = @epoch + Integer.floor_div(value * unit, @second)
    fraction = Integer.mod(value * unit, @second)

    if seconds in @first..@last and rem(fraction, @microsecond) == 0,
      do: NaiveDateTime.from_gregorian_seconds(seconds, {div(fraction, @microsecond), 6}),
      else: {:moment, value * unit}
  end

  defp moment64(_value, :none), do: throw({__MODULE__, :doubtful})

  defp span64(value, {:months, count}), do: {:months, value * count}

  defp span64(value, {:attoseconds, unit}) do
    span = value * unit

    if rem(span, @microsecond) == 0 do
      us = div(span, @microsecond)
      seconds = Integer.floor_div(us, 1_000_000)
      {:span, Integer.floor_div(seconds, 86_400), Integer.mod(seconds, 86_400), Integer.mod(us, 1_000_000)}
    else
      {:attoseconds, span}
    end
  end

  defp span64(_value, :none), do: throw({__MODULE__, :doubtful})
end
