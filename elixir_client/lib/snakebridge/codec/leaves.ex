defmodule SnakeBridge.Codec.Leaves do
  @moduledoc """
  The leaves of `packed`: types that travel as a MessagePack extension with a fixed binary layout.

  The table is the one place where such a type is declared: its code on the wire, its struct here (nil for what is no struct), and the
  functions that write and read its payload. Integers in payloads are big-endian.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2, show: 1]

  alias SnakeBridge.Codec.{Moments, Opaque, Options}
  alias SnakeBridge.{Complex, Text}

  @table [
    {0x01, nil, nil, :load_integer},
    {0x02, SnakeBridge.Atom, :dump_atom, :load_atom},
    {0x03, nil, nil, :load_binary},
    {0x04, SnakeBridge.Text, :dump_text, :load_text},
    {0x05, SnakeBridge.Complex, :dump_complex, :load_complex},
    {0x06, Date, :dump_date, :load_date},
    {0x07, Time, :dump_time, :load_time},
    {0x08, NaiveDateTime, :dump_naive, :load_naive},
    {0x09, DateTime, :dump_datetime, :load_datetime},
    {0x0B, nil, nil, :load_opaque}
  ]

  @doc "Code and payload of a struct that is a leaf; nil for another one, and for a date or time that Python does not have."
  @spec dump(struct()) :: {byte(), binary()} | nil
  for {code, struct, dump, _load} <- @table, struct != nil do
    def dump(%{__struct__: unquote(struct)} = value) do
      case unquote(dump)(value) do
        :foreign -> nil
        payload -> {unquote(code), payload}
      end
    end
  end

  def dump(_), do: nil

  @doc "The term of a leaf. Throws when the code is unknown or the payload is not of its layout."
  @spec load(byte(), binary(), Options.t()) :: term()
  for {code, _struct, _dump, load} <- @table do
    def load(unquote(code), payload, opts), do: unquote(load)(payload, opts)
  end

  def load(0x10, _payload, _opts),
    do: fail(:decode_error, "a composite mark stands where a value should be; the sender's encoder is broken")

  def load(code, _payload, _opts),
    do: fail(:decode_error, "unknown extension type #{code}; the peer speaks a newer version of the protocol")

  # integers beyond 64 bits

  @doc "Code and payload of an integer beyond 64 bits: two's complement, minimal length."
  @spec dump_integer(integer(), pos_integer()) :: {byte(), binary()}
  def dump_integer(n, limit) do
    <<top, _::binary>> = magnitude = :binary.encode_unsigned(if n < 0, do: -n - 1, else: n)
    size = byte_size(magnitude) + Bitwise.bsr(top, 7)
    check_bits(size, limit)
    {0x01, <<n::size(size)-unit(8)>>}
  end

  defp load_integer(<<>>, _), do: malformed("an integer of no bytes")

  defp load_integer(payload, opts) do
    size = byte_size(payload)
    check_bits(size, opts.int_bits)
    <<n::signed-size(size)-unit(8)>> = payload
    n
  end

  defp check_bits(size, limit) do
    if size > div(limit, 8) + 1,
      do:
        fail(
          :limit_exceeded,
          "an integer of #{8 * size} bits is larger than int_bits = #{limit}; send it as bytes or as text"
        )
  end

  # atoms

  @doc "The code under which plain atoms travel, too."
  defmacro atom_code, do: 0x02

  defp dump_atom(%SnakeBridge.Atom{name: name} = atom) do
    if is_binary(name) and Text.wtf8?(name), do: name, else: not_exact(atom, "its name must be text")
  end

  # Python may name an atom by text with lone surrogates; no atom here can have that name, and the struct keeps it.
  defp load_atom(name, _) do
    if Text.wtf8?(name),
      do: SnakeBridge.Atom.existing(:binary.copy(name)),
      else: malformed("an atom whose name is not text")
  end

  # binaries that are not text

  @doc "The code under which binaries that are not valid UTF-8 travel."
  defmacro binary_code, do: 0x03

  defp load_binary(payload, _), do: payload

  # text with lone surrogates

  defp dump_text(%Text{wtf8: wtf8} = text) do
    if is_binary(wtf8) and Text.wtf8?(wtf8),
      do: wtf8,
      else: not_exact(text, "its wtf8 must be UTF-8, lone surrogates allowed")
  end

  defp load_text(payload, _) do
    cond do
      String.valid?(payload) -> payload
      Text.wtf8?(payload) -> %Text{wtf8: payload}
      true -> malformed("text that is not UTF-8, even with lone surrogates")
    end
  end

  # complex numbers

  defp dump_complex(%Complex{real: real, imag: imag} = complex),
    do: <<part(real, complex)::binary, part(imag, complex)::binary>>

  defp part(x, _) when is_float(x), do: <<x::float-64>>
  defp part(:nan, _), do: <<0x7FF8000000000000::64>>
  defp part(:infinity, _), do: <<0x7FF0000000000000::64>>
  defp part(:neg_infinity, _), do: <<0xFFF0000000000000::64>>

  defp part(_, complex),
    do:
      not_exact(
        complex,
        "its parts must be floats, :nan, :infinity or :neg_infinity; SnakeBridge.Complex.new/2 makes them so"
      )

  defp load_complex(<<real::binary-size(8), imag::binary-size(8)>>, _),
    do: %Complex{real: float(real), imag: float(imag)}

  defp load_complex(_, _), do: malformed("a complex number that is not 16 bytes")

  defp float(<<x::float-64>>), do: x
  defp float(<<bits::64>>), do: special_float(bits)

  @doc "The atom for the bits of a float64 that is not finite."
  @spec special_float(non_neg_integer()) :: :nan | :infinity | :neg_infinity
  def special_float(0x7FF0000000000000), do: :infinity
  def special_float(0xFFF0000000000000), do: :neg_infinity
  def special_float(_), do: :nan

  # dates and times

  defp dump_date(date), do: exact(date, Moments.check(date), &date_fields/1)
  defp dump_time(time), do: exact(time, Moments.check(time), &time_fields/1)
  defp dump_naive(naive), do: exact(naive, Moments.check(naive), &naive_fields/1)
  defp dump_datetime(moment), do: exact(moment, Moments.check(moment), &datetime_fields/1)

  defp exact(value, :ok, write), do: write.(value)
  defp exact(_value, {:foreign, _rule}, _write), do: :foreign
  defp exact(value, {:error, rule}, _write), do: not_exact(value, rule)

  defp date_fields(value), do: <<value.year::32, value.month, value.day>>

  defp time_fields(%{hour: hour, minute: minute, second: second, microsecond: {us, precision}}),
    do: <<hour, minute, second, us::32, precision>>

  defp naive_fields(value), do: <<date_fields(value)::binary, time_fields(value)::binary>>

  defp datetime_fields(moment) do
    {zone, abbreviation} = Moments.zone(moment)
    offset = moment.utc_offset + moment.std_offset

    <<naive_fields(moment)::binary, offset::32, moment.std_offset::32, byte_size(zone), zone::binary,
      abbreviation::binary>>
  end

  defp load_date(<<year::signed-32, month, day>>, _), do: Moments.date(year, month, day) |> loaded()
  defp load_date(_, _), do: malformed("a date that is not 6 bytes")

  defp load_time(<<hour, minute, second, us::32, precision>>, _),
    do: Moments.time(hour, minute, second, {us, precision}) |> loaded()

  defp load_time(_, _), do: malformed("a time that is not 8 bytes")

  defp load_naive(<<date::binary-size(6), time::binary-size(8)>>, opts),
    do: Moments.naive(load_date(date, opts), load_time(time, opts))

  defp load_naive(_, _), do: malformed("a naive datetime that is not 14 bytes")

  defp load_datetime(<<naive::binary-size(14), offset::signed-32, dst::signed-32, size, rest::binary>>, opts)
       when byte_size(rest) >= size do
    <<zone::binary-size(size), abbreviation::binary>> = rest
    Moments.datetime(load_naive(naive, opts), offset, dst, zone, abbreviation) |> loaded()
  end

  defp load_datetime(_, _), do: malformed("a datetime of too few bytes")

  defp load_opaque(payload, opts), do: Opaque.load(payload, opts)

  defp loaded({:ok, value}), do: value
  defp loaded({:error, what}), do: malformed(what)

  defp not_exact(value, rule), do: fail(:encode_error, "#{show(value)} cannot be sent: #{rule}")

  defp malformed(what),
    do: fail(:decode_error, "#{what} came in; the sender's encoder is broken or the message is corrupt")
end
