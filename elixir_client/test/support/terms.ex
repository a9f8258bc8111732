defmodule SnakeBridge.Test.Stranger do
  @moduledoc "A struct that nobody has told Python about."
  defstruct [:inside]
end

defmodule SnakeBridge.Test.Terms do
  @moduledoc """
  Generators for PropEr of every kind of term that travels: the Elixir domain of docs/wire.md.

  `term/0` is all of it. What nothing here can make (a `DateTime` with an offset that its zone never had, a path that Python writes in another
  way, a text that is no address) is an error or is changed, and tested one by one.
  """

  alias SnakeBridge.Test.{Point, Stranger}

  import :proper_types,
    only: [
      integer: 0,
      integer: 2,
      float: 0,
      binary: 0,
      bitstring: 0,
      list: 1,
      vector: 2,
      exactly: 1,
      sized: 1,
      lazy: 1,
      frequency: 1
    ]

  @doc "Any term, nested to a depth that PropEr's size says."
  def term, do: sized(&term/1)

  @doc "Twenty of them."
  def batch(size \\ 20), do: vector(size, term())

  defp term(size) when size <= 1, do: leaf()

  defp term(size) do
    inner = lazy(fn -> term(div(size, 4)) end)
    frequency([{3, leaf()}, {4, lazy(fn -> container(inner) end)}])
  end

  defp leaf, do: one_of([plain(), plain(), moment(), name(), own(), opaque(), tensor()])

  # PropEr takes lists and tuples in what a generator answers for generators; what is made here is a term.
  defp let(generator, make), do: :proper_types.bind(generator, &exactly(make.(&1)), false)
  defp one_of(generators), do: :proper_types.oneof(generators)
  defp pick(terms), do: integer(0, length(terms) - 1) |> let(&Enum.at(terms, &1))

  # --- scalars ---

  @specials [nil, true, false, :nan, :infinity, :neg_infinity, :ok, :a, :"", :"ein Wort", SnakeBridge, String]
  @edges [0, 127, 128, 255, 256, 65_535, 65_536, -32, -33, -128, -129, -32_769] ++
           [
             0xFFFFFFFF,
             0x100000000,
             0xFFFFFFFFFFFFFFFF,
             0x10000000000000000,
             -0x8000000000000000,
             -0x8000000000000001
           ]

  defp plain do
    one_of([
      pick(@specials),
      integer(),
      pick(@edges),
      let({integer(), integer(60, 300)}, fn {n, bits} -> n * Integer.pow(2, bits) + n end),
      float(),
      pick([-0.0, 5.0e-324, 1.7976931348623157e308]),
      binary(),
      text(),
      pick([1, 1.0, true, :a, "a", ~c"a", "1"])
    ])
  end

  defp text, do: let(list(pick([?a, ?Z, ?0, ?\s, 0, ?ü, ?€, 0x1F40D])), &List.to_string/1)
  defp label, do: let(vector(5, integer(?a, ?z)), &List.to_string/1)

  # --- dates and times ---

  defp date(years), do: let({years, integer(1, 12), integer(1, 28)}, fn {y, m, d} -> Date.new!(y, m, d) end)

  defp time do
    let({integer(0, 23), integer(0, 59), integer(0, 59), integer(0, 6), integer(0, 999_999)}, fn {h, m, s,
                                                                                                  digits,
                                                                                                  us} ->
      unit = Integer.pow(10, 6 - digits)
      Time.new!(h, m, s, {div(us, unit) * unit, digits})
    end)
  end

  defp python_date, do: date(integer(1, 9999))

  @zones [
    {"Etc/UTC", "UTC", 0, 0, 1..12},
    {"Europe/Berlin", "CET", 3600, 0, 1..2},
    {"Europe/Berlin", "CEST", 3600, 3600, 6..7},
    {"America/New_York", "EST", -18_000, 0, 1..2},
    {"Asia/Kolkata", "IST", 19_800, 0, 1..12}
  ]

  defp datetime do
    let({integer(1990, 2030), integer(1, 12), integer(1, 28), time(), pick(@zones)}, fn {y, m, d, time, zone} ->
      {name, abbreviation, utc, std, months} = zone
      month = if m in months, do: m, else: months.first
      aware(NaiveDateTime.new!(Date.new!(y, month, d), time), name, abbreviation, utc, std)
    end)
  end

  defp fixed do
    let({python_date(), time(), integer(-1439, 1439)}, fn {date, time, minutes} ->
      sign = if minutes < 0, do: "-", else: "+"
      clock = for n <- [div(abs(minutes), 60), rem(abs(minutes), 60)], do: String.pad_leading("#{n}", 2, "0")
      name = if minutes == 0, do: "Etc/UTC", else: sign <> Enum.join(clock, ":")
      abbreviation = if minutes == 0, do: "UTC", else: name
      aware(NaiveDateTime.new!(date, time), name, abbreviation, minutes * 60, 0)
    end)
  end

  defp aware(naive, zone, abbreviation, utc, std) do
    fields = %{time_zone: zone, zone_abbr: abbreviation, utc_offset: utc, std_offset: std}
    struct!(DateTime, naive |> Map.from_struct() |> Map.merge(fields))
  end

  defp moment do
    one_of([
      python_date(),
      date(integer(-9999, 9999)),
      time(),
      let({date(integer(-50, 9999)), time()}, fn {date, time} -> NaiveDateTime.new!(date, time) end),
      fixed(),
      datetime(),
      let({python_date(), python_date(), step()}, fn {first, last, step} -> Date.range(first, last, step) end),
      let({integer(-999_999, 999_999), integer(0, 86_399), integer(0, 999_999)}, fn {days, seconds, us} ->
        %SnakeBridge.TimeDelta{days: days, seconds: seconds, microseconds: us}
      end),
      let(time(), &%SnakeBridge.Fold{moment: Time.truncate(&1, :second)}),
      let(zone(), & &1),
      let({time(), zone()}, fn {time, zone} ->
        %SnakeBridge.ZonedTime{time: Time.truncate(time, :second), zone: zone}
      end),
      let({integer(), pick(~w(s ms us ns D))}, fn {n, unit} ->
        %SnakeBridge.DateTime64{value: n, unit: unit}
      end),
      let({integer(), pick(~w(s 10ms us ns D W))}, fn {n, unit} ->
        %SnakeBridge.TimeDelta64{value: n, unit: unit}
      end)
    ])
  end

  defp step, do: pick([1, 2, 7, -1, -3])

  defp zone do
    one_of([
      let({integer(-86_399, 86_399), one_of([exactly(nil), label()])}, fn {seconds, name} ->
        %SnakeBridge.TimeZone{seconds: seconds, microseconds: 0, name: name}
      end),
      let(pick(~w(Europe/Berlin UTC Asia/Kolkata)), &%SnakeBridge.ZoneInfo{key: &1})
    ])
  end

  # --- names ---

  @sources [
    "",
    "a+",
    "[a-c]{2,3}",
    "\\d+\\.\\w*",
    "(a|b)?c",
    "^x$",
    "(?<n>ü)",
    "a(?|b)",
    "\\h+",
    "a++",
    "(a)\\1",
    "\\p{L}",
    "[[:alpha:]]"
  ]

  defp name do
    one_of([
      let({integer(), integer(), step()}, fn {first, last, step} -> Range.new(first, last, step) end),
      let({pick(@sources), pick(["", "u", "i", "im", "sx", "U", "uimsxfU"])}, fn {source, options} ->
        Regex.compile!(source, options)
      end),
      let({label(), label(), pick(["", ":80", ":8080"]), pick(["", "?q=1", "#f"])}, fn {host, path, port,
                                                                                        rest} ->
        URI.parse("http://#{host}#{port}/#{path}#{rest}")
      end),
      let(label(), &URI.new!("mailto:" <> &1)),
      let({integer(0, 9), integer(0, 99), pick(["", "-rc.1", "+build", "-a.1+b"])}, fn {major, minor, rest} ->
        Version.parse!("#{major}.#{minor}.0#{rest}")
      end),
      pick([%RuntimeError{message: "x"}, %ArgumentError{}, %KeyError{key: :a, term: %{}}]),
      let({label(), integer()}, fn {name, value} ->
        %SnakeBridge.Enum{type: "nowhere:Enum", name: name, value: value}
      end),
      let({pick([1, -1]), integer(0, 1_000_000), pick([0, -3, 7, "n"])}, fn {sign, coef, exp} ->
        %SnakeBridge.Decimal{sign: sign, coef: coef, exp: exp}
      end),
      let({integer(), integer(1, 99)}, fn {n, d} -> SnakeBridge.Fraction.new(n, d) end),
      pick([
        %SnakeBridge.Ellipsis{},
        %SnakeBridge.UUID{text: "00000000-0000-4000-8000-00000000000f"},
        %SnakeBridge.IP{type: "IPv6Address", text: "::1"},
        %SnakeBridge.IP{type: "IPv4Network", text: "10.0.0.0/8"},
        %SnakeBridge.Pattern{source: SnakeBridge.Bytes.new("a+"), flags: 0},
        %SnakeBridge.Decimal{sign: -1, coef: 0, exp: "F"}
      ]),
      let({pick(["PosixPath", "PurePosixPath"]), label(), label()}, fn {type, a, b} ->
        %SnakeBridge.Path{type: type, path: "/#{a}/#{b}"}
      end),
      let({label(), label()}, fn {a, b} ->
        %SnakeBridge.Path{type: "PureWindowsPath", path: "C:\\#{a}\\#{b}"}
      end)
    ])
  end

  # --- what is ours ---

  defp own do
    one_of([
      let(binary(), &SnakeBridge.Bytes.new/1),
      let(text(), &%SnakeBridge.Text{wtf8: &1 <> <<0xED, 0xA0, 0x80>>}),
      let({number(), number()}, fn {real, imag} -> SnakeBridge.Complex.new(real, imag) end),
      let(label(), &%SnakeBridge.Atom{name: "no atom of this node #{&1}"}),
      pick([%SnakeBridge.Atom{name: "nil"}, %SnakeBridge.Atom{name: "nan"}]),
      let(list(one_of([integer(), text()])), &SnakeBridge.FrozenSet.new/1)
    ])
  end

  defp number, do: one_of([float(), pick([:nan, :infinity, :neg_infinity, -0.0])])

  @widths [
            {"bool", 0},
            {"int8", 1},
            {">int16", 2},
            {"uint64", 8},
            {"float16", 2},
            {"float64", 8},
            {">complex64", 8},
            {"bfloat16", 2}
          ] ++
            [{"datetime64[ns]", 8}, {"bytes3", 3}]

  defp tensor do
    let({pick(@widths), pick([{}, {0}, {3}, {2, 3}, {2, 1, 2}]), pick([:c, :f])}, fn {{dtype, width}, shape,
                                                                                      order} ->
      count = shape |> Tuple.to_list() |> Enum.product()
      data = if width == 0, do: :binary.copy(<<1>>, count), else: :binary.copy(<<?x>>, count * width)
      order = if shape in [{2, 3}, {2, 1, 2}], do: order, else: :c
      %SnakeBridge.Tensor{dtype: dtype, shape: shape, data: data, order: order}
    end)
  end

  # --- what only this node can read ---

  defp opaque do
    one_of([
      let(bitstring(), &<<&1::bitstring, 1::1>>),
      let(integer(0, 3), fn _ -> make_ref() end),
      let(integer(0, 3), fn _ -> self() end),
      let(integer(0, 3), fn _ -> hd(Port.list()) end),
      let({plain(), pick([1, :tail, "tail", {1}])}, fn {head, tail} -> [head | tail] end),
      let(integer(), fn n -> fn x -> {x, n} end end),
      pick([&Enum.map/2, &String.upcase/1, %{__struct__: 1}]),
      let(plain(), &%Stranger{inside: &1})
    ])
  end

  # --- containers ---

  defp container(inner) do
    one_of([
      short(inner),
      let(short(inner), &List.to_tuple/1),
      keywords(),
      list(integer(32, 126)),
      let(pairs(inner), &Map.new/1),
      let(pairs(inner), &Map.new/1),
      let(short(inner), &MapSet.new/1),
      let(list({text(), inner}), &Map.new/1),
      let({short(inner), inner}, fn {values, value} ->
        fields = for {_, n} <- Enum.with_index([value | values]), do: "f#{n}"
        %SnakeBridge.NamedTuple{type: "nowhere:Record", fields: fields, values: [value | values]}
      end),
      let({inner, inner, inner}, fn {start, stop, step} ->
        %SnakeBridge.Slice{start: start, stop: stop, step: step}
      end),
      let(list({label(), inner}), &%SnakeBridge.Namespace{fields: Map.new(&1)}),
      let({label(), inner}, fn {tag, value} ->
        %SnakeBridge.Extension{tag: "somewhere." <> tag, value: value}
      end),
      let({inner, inner}, fn {x, y} -> %Point{x: x, y: y} end)
    ])
  end

  defp short(inner), do: :proper_types.resize(4, list(inner))
  defp pairs(inner), do: short({inner, inner})

  defp keywords, do: pick([[a: 1], [a: 1, b: [c: nil]], [{:a, 1}, {:a, 2}], [{:a, 1}, :b]])
end
