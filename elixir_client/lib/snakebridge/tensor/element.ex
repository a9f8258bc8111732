defmodule SnakeBridge.Tensor.Element do
  @moduledoc """
  One element of a `SnakeBridge.Tensor`: its bytes as a term, and for numbers the bytes of a term.

  Floats that are not finite are `:nan`, `:infinity` and `:neg_infinity`; text and bytes lose the zeros that numpy fills them up with; dates
  and spans are their count of units, nil for NaT; an element of a structured type is a map.
  """

  alias SnakeBridge.{Bytes, Complex, Text}
  alias SnakeBridge.Tensor.DType

  @nat -0x8000000000000000

  # exponent bits, fraction bits, bias, and what the highest codes mean: :ieee infinities and NaNs; :fn a NaN in the last code of each sign;
  # :fnuz a NaN in place of -0; :finite numbers only; :e8m0 powers of two without a sign
  @minifloats %{
    float4_e2m1fn: {2, 1, 1, :finite},
    float6_e2m3fn: {2, 3, 1, :finite},
    float6_e3m2fn: {3, 2, 3, :finite},
    float8_e3m4: {3, 4, 3, :ieee},
    float8_e4m3: {4, 3, 7, :ieee},
    float8_e4m3b11fnuz: {4, 3, 11, :fnuz},
    float8_e4m3fn: {4, 3, 7, :fn},
    float8_e4m3fnuz: {4, 3, 8, :fnuz},
    float8_e5m2: {5, 2, 15, :ieee},
    float8_e5m2fnuz: {5, 2, 16, :fnuz},
    float8_e8m0fnu: {8, 0, 127, :e8m0}
  }

  @doc "The term of the bytes of an element."
  @spec read(DType.layout(), binary()) :: term()
  def read({:struct, fields, _size}, bytes) do
    Map.new(fields, fn {name, offset, layout, shape} ->
      part = binary_part(bytes, offset, DType.size(layout) * Enum.product(shape))
      {name, nested(layout, shape, part)}
    end)
  end

  def read({:bool, _, _}, <<byte>>), do: byte != 0
  def read({:signed, _, endianness}, bytes), do: integer(bytes, endianness) |> signed(bit_size(bytes))
  def read({:unsigned, _, endianness}, bytes), do: integer(bytes, endianness)
  def read({:float, _, endianness}, bytes), do: bytes |> little(endianness) |> float()
  def read({:bfloat, _, endianness}, bytes), do: float(<<0, 0, little(bytes, endianness)::binary>>)

  def read({:complex, size, endianness}, bytes) do
    half = div(size, 2)
    <<real::binary-size(half), imag::binary>> = bytes
    %Complex{real: real |> little(endianness) |> float(), imag: imag |> little(endianness) |> float()}
  end

  def read({:count, _, endianness}, bytes) do
    case integer(bytes, endianness) |> signed(64) do
      @nat -> nil
      count -> count
    end
  end

  def read({:str, _, endianness}, bytes) do
    codes =
      if endianness == :little,
        do: for(<<c::little-32 <- bytes>>, do: c),
        else: for(<<c::32 <- bytes>>, do: c)

    codes |> filled() |> text()
  end

  def read({:bytes, _, _}, bytes) do
    data = bytes |> :binary.bin_to_list() |> filled() |> :binary.list_to_bin()
    %Bytes{data: data}
  end

  def read({:void, _, _}, bytes), do: %Bytes{data: bytes}
  def read({{:minifloat, name}, _, _}, <<byte>>), do: minifloat(Map.fetch!(@minifloats, name), byte)

  for bits <- [1, 2, 4] do
    def read({unquote(:"int#{bits}"), _, _}, <<_::unquote(8 - bits), n::signed-unquote(bits)>>), do: n
    def read({unquote(:"uint#{bits}"), _, _}, <<_::unquote(8 - bits), n::unquote(bits)>>), do: n
  end

  @doc "Elements in C order as lists nested like a shape; one element for a shape of no dimensions."
  @spec nested(DType.layout(), [non_neg_integer()], binary()) :: term()
  def nested(layout, shape, data), do: nested(layout, shape, strides(shape), data)

  @doc "The same, where `strides` are the elements from one to the next in each dimension."
  @spec nested(DType.layout(), [non_neg_integer()], [pos_integer()], binary()) :: term()
  def nested(layout, shape, strides, data), do: nested(layout, DType.size(layout), shape, strides, data, 0)

  defp nested(layout, size, [], [], data, at), do: read(layout, binary_part(data, at * size, size))

  defp nested(layout, size, [dim | dims], [stride | strides], data, at) do
    for i <- 0..(dim - 1)//1, do: nested(layout, size, dims, strides, data, at + i * stride)
  end

  @doc "The strides of a shape in C order."
  @spec strides([non_neg_integer()]) :: [non_neg_integer()]
  def strides(shape) do
    {strides, _} = shape |> Enum.reverse() |> Enum.map_reduce(1, &{&2, &1 * &2})
    Enum.reverse(strides)
  end

  defp integer(bytes, endianness), do: :binary.decode_unsigned(bytes, endianness)
  defp signed(n, bits), do: if(n < Bitwise.bsl(1, bits - 1), do: n, else: n - Bitwise.bsl(1, bits))

  defp little(bytes, :little), do: bytes
  defp little(bytes, :big), do: bytes |> :binary.bin_to_list() |> Enum.reverse() |> :binary.list_to_bin()

  defp filled(items), do: items |> Enum.reverse() |> Enum.drop_while(&(&1 == 0)) |> Enum.reverse()

  defp text(codes) do
    wtf8 = for code <- codes, into: <<>>, do: utf8(code)
    if String.valid?(wtf8), do: wtf8, else: %Text{wtf8: wtf8}
  end

  # Surrogates may stand alone in numpy's text, as in Python's.
  defp utf8(code) when code in 0xD800..0xDFFF do
    <<high::4, middle::6, low::6>> = <<code::16>>
    <<0xE::4, high::4, 2::2, middle::6, 2::2, low::6>>
  end

  defp utf8(code) when code <= 0x10FFFF, do: <<code::utf8>>
  defp utf8(_no_character), do: <<0xFFFD::utf8>>

  defp float(bytes) do
    bits = bit_size(bytes)
    exponent = exponent(bits)
    negative = exponent + Bitwise.bsl(1, bits - 1)

    case bytes do
      <<x::float-little-size(bits)>> -> x
      <<^exponent::little-size(bits)>> -> :infinity
      <<^negative::little-size(bits)>> -> :neg_infinity
      _ -> :nan
    end
  end

  defp minifloat({8, 0, _, :e8m0}, 0xFF), do: :nan
  defp minifloat({8, 0, bias, :e8m0}, byte), do: :math.pow(2, byte - bias)
  defp minifloat({_, _, _, :fnuz}, 0x80), do: :nan

  defp minifloat({exponent_bits, fraction_bits, bias, specials}, byte) do
    unused = 7 - exponent_bits - fraction_bits
    <<_::size(unused), sign::1, exponent::size(exponent_bits), fraction::size(fraction_bits)>> = <<byte>>
    top? = exponent == Bitwise.bsl(1, exponent_bits) - 1

    case specials do
      :ieee when top? and fraction == 0 ->
        if sign == 0, do: :infinity, else: :neg_infinity

      :ieee when top? ->
        :nan

      :fn when top? and fraction == Bitwise.bsl(1, fraction_bits) - 1 ->
        :nan

      _ ->
        if sign == 0,
          do: number(exponent, fraction, fraction_bits, bias),
          else: -number(exponent, fraction, fraction_bits, bias)
    end
  end

  defp number(0, fraction, fraction_bits, bias), do: fraction * :math.pow(2, 1 - bias - fraction_bits)

  defp number(exponent, fraction, fraction_bits, bias),
    do: (1 + fraction * :math.pow(2, -fraction_bits)) * :math.pow(2, exponent - bias)

  @doc "The bytes of an element; nil when it does not fit."
  @spec write(DType.layout(), term()) :: binary() | nil
  def write({kind, size, :little}, element), do: write(kind, 8 * size, element)

  def write({:complex, _, :big} = layout, element) do
    with <<real::binary-size(div(elem(layout, 1), 2)), imag::binary>> <-
           write(put_elem(layout, 2, :little), element),
         do: little(real, :big) <> little(imag, :big)
  end

  def write({kind, size, :big}, element) do
    with <<bytes::binary>> <- write(kind, 8 * size, element), do: little(bytes, :big)
  end

  defp write(:bool, _, true), do: <<1>>
  defp write(:bool, _, false), do: <<0>>

  defp write(:signed, bits, n) when is_integer(n) do
    limit = Bitwise.bsl(1, bits - 1)
    if n >= -limit and n < limit, do: <<n::little-size(bits)>>
  end

  defp write(:unsigned, bits, n) when is_integer(n),
    do: if(n >= 0 and n < Bitwise.bsl(1, bits), do: <<n::little-size(bits)>>)

  # ml_dtypes leaves the upper bits of the byte of a small integer 0.
  for bits <- [1, 2, 4] do
    defp write(unquote(:"int#{bits}"), _, n) when is_integer(n) do
      limit = unquote(Bitwise.bsl(1, bits - 1))
      if n >= -limit and n < limit, do: <<0::unquote(8 - bits), n::unquote(bits)>>
    end

    defp write(unquote(:"uint#{bits}"), _, n) when is_integer(n),
      do: if(n >= 0 and n < unquote(Bitwise.bsl(1, bits)), do: <<n>>)
  end

  # What is too large becomes an infinity, or cannot be written at all, by its size.
  defp write(:float, bits, x) when is_number(x) do
    case <<x::float-little-size(bits)>> do
      <<_::float-little-size(bits)>> = element -> element
      _infinite -> nil
    end
  rescue
    ArgumentError -> nil
  end

  # An infinity has every bit of the exponent set and none of the fraction; a NaN has some of the fraction.
  defp write(:float, bits, :infinity), do: <<exponent(bits)::little-size(bits)>>

  defp write(:float, bits, :neg_infinity),
    do: <<exponent(bits) + Bitwise.bsl(1, bits - 1)::little-size(bits)>>

  defp write(:float, bits, :nan), do: <<exponent(bits) + quiet(bits)::little-size(bits)>>

  # A bfloat16 is the upper half of a float32, rounded; ties go to the even neighbour.
  defp write(:bfloat, _, x) when is_number(x) do
    with <<bits::little-32>> <- write(:float, 32, x) do
      even = bits |> Bitwise.bsr(16) |> Bitwise.band(1)
      upper = Bitwise.bsr(bits + 0x7FFF + even, 16)
      if Bitwise.band(upper, 0x7FFF) < 0x7F80, do: <<upper::little-16>>
    end
  end

  defp write(:bfloat, _, special) do
    with <<_::binary-size(2), upper::binary>> <- write(:float, 32, special), do: upper
  end

  defp write(:complex, bits, %Complex{real: real, imag: imag}) do
    half = div(bits, 2)

    with <<real::binary>> <- write(:float, half, real),
         <<imag::binary>> <- write(:float, half, imag),
         do: real <> imag
  end

  defp write(:complex, bits, x), do: write(:complex, bits, %Complex{real: x, imag: 0.0})
  defp write(_, _, _), do: nil

  defp exponent(16), do: 0x7C00
  defp exponent(32), do: 0x7F800000
  defp exponent(64), do: 0x7FF0000000000000

  defp quiet(16), do: 0x0200
  defp quiet(32), do: 0x00400000
  defp quiet(64), do: 0x0008000000000000
end
