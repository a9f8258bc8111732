defmodule SnakeBridge.Tensor.DType do
  @moduledoc """
  The element types of `SnakeBridge.Tensor`, as numpy and ml_dtypes name them: what their texts mean, and how many bytes an element has.

  A leading ">" means big-endian. A structured type is a map of "names", "formats", "offsets" and "itemsize", where a format is a type or
  `[type, shape]`.
  """

  @typedoc "As it travels."
  @type form :: String.t() | %{String.t() => term()}

  @typedoc "What an element is: its kind, its size in bytes, and how its bytes are read."
  @type layout ::
          {kind :: atom() | {:minifloat, atom()}, size :: non_neg_integer(), endianness :: :little | :big}
          | {:struct, fields :: [{String.t(), offset :: non_neg_integer(), layout(), shape :: [integer()]}],
             size :: non_neg_integer()}

  # name, kind of element, bytes
  @numbers [
    {"bool", :bool, 1},
    {"int8", :signed, 1},
    {"int16", :signed, 2},
    {"int32", :signed, 4},
    {"int64", :signed, 8},
    {"uint8", :unsigned, 1},
    {"uint16", :unsigned, 2},
    {"uint32", :unsigned, 4},
    {"uint64", :unsigned, 8},
    {"float16", :float, 2},
    {"bfloat16", :bfloat, 2},
    {"float32", :float, 4},
    {"float64", :float, 8},
    {"complex64", :complex, 8},
    {"complex128", :complex, 16},
    # ml_dtypes keeps each of these small integers in a byte of its own.
    {"int1", :int1, 1},
    {"int2", :int2, 1},
    {"int4", :int4, 1},
    {"uint1", :uint1, 1},
    {"uint2", :uint2, 1},
    {"uint4", :uint4, 1}
  ]
  @small_floats ~w(float4_e2m1fn float6_e2m3fn float6_e3m2fn float8_e3m4 float8_e4m3 float8_e4m3b11fnuz float8_e4m3fn
                   float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu)
  @layouts Map.new(@numbers, fn {name, kind, size} -> {name, {kind, size}} end)
           |> Map.merge(Map.new(@small_floats, &{&1, {{:minifloat, String.to_atom(&1)}, 1}}))
           |> Map.merge(%{"datetime64" => {:count, 8}, "timedelta64" => {:count, 8}})
  @names Enum.map(@numbers, &elem(&1, 0))
  @max_depth 16

  @doc "The names of the number types that a tensor can be made of lists of."
  @spec numbers() :: [String.t()]
  def numbers, do: @names

  @doc "The layout of a type, or what is wrong with it."
  @spec parse(term()) :: {:ok, layout()} | {:error, String.t()}
  def parse(form), do: parse(form, @max_depth)

  defp parse(">" <> name, _depth), do: named(name, :big)
  defp parse(name, _depth) when is_binary(name), do: named(name, :little)

  defp parse(
         %{"names" => names, "formats" => formats, "offsets" => offsets, "itemsize" => size} = form,
         depth
       )
       when depth > 0 and map_size(form) == 4 and is_list(names) and is_list(formats) and is_list(offsets) and
              is_integer(size) and size >= 0 and length(names) == length(formats) and
              length(names) == length(offsets) do
    fields =
      Enum.map(Enum.zip([names, formats, offsets]), fn {name, format, offset} ->
        with {:ok, layout, shape} <- format(format, depth - 1),
             true <- is_binary(name) and is_integer(offset) and offset >= 0,
             true <- offset + size(layout) * Enum.product(shape) <= size do
          {name, offset, layout, shape}
        else
          _ -> :error
        end
      end)

    if :error in fields or Enum.uniq(names) != names, do: refuse(form), else: {:ok, {:struct, fields, size}}
  end

  defp parse(other, _depth), do: refuse(other)

  defp format([form, shape], depth) do
    with true <- shape?(shape), {:ok, layout} <- parse(form, depth), do: {:ok, layout, shape}
  end

  defp format(form, depth), do: with({:ok, layout} <- parse(form, depth), do: {:ok, layout, []})

  defp named(name, endianness) when is_map_key(@layouts, name) do
    {kind, size} = Map.fetch!(@layouts, name)
    {:ok, {kind, size, endianness}}
  end

  defp named("str" <> digits = name, endianness), do: sized(name, digits, :str, 4, endianness)
  defp named("bytes" <> digits = name, endianness), do: sized(name, digits, :bytes, 1, endianness)
  defp named("void" <> digits = name, endianness), do: sized(name, digits, :void, 1, endianness)

  defp named(name, endianness) do
    if name =~ ~r/\A(datetime|timedelta)64\[[0-9]{0,9}[A-Za-z]{1,2}\]\z/,
      do: {:ok, {:count, 8, endianness}},
      else: refuse(name)
  end

  defp sized(name, digits, kind, unit, endianness) do
    if digits =~ ~r/\A[0-9]{1,9}\z/,
      do: {:ok, {kind, String.to_integer(digits) * unit, endianness}},
      else: refuse(name)
  end

  defp refuse(form) do
    names = Enum.join(@names ++ @small_floats, ", ")

    {:error,
     "its dtype must be one of #{names}, datetime64[unit], timedelta64[unit], str<n>, bytes<n>, void<n>, one of these after \">\", " <>
       "or a map of names, formats, offsets and itemsize, not #{inspect(form, limit: 5, printable_limit: 40)}"}
  end

  @doc "The bytes of an element."
  @spec size(layout()) :: non_neg_integer()
  def size({:struct, _fields, size}), do: size
  def size({_kind, size, _endianness}), do: size

  @doc "Whether a list is a shape. The bound on the rank keeps a forged one from making their product a number of megabytes."
  @spec shape?(term()) :: boolean()
  def shape?(shape),
    do:
      is_list(shape) and not List.improper?(shape) and length(shape) <= 64 and
        Enum.all?(shape, &(is_integer(&1) and &1 >= 0 and &1 < 0x4000000000000000))
end
