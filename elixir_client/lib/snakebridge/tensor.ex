defmodule SnakeBridge.Tensor do
  @moduledoc """
  A numpy array by value: element type as numpy names it, shape, and the raw elements, little-endian and in C order.

  No element is touched on the way: `data` is what numpy holds and what `Nx.from_binary/2` and friends take. `to_list/1` and `from_list/2`
  are for small arrays; floats that are not finite appear in lists as `:nan`, `:infinity` and `:neg_infinity`.
  """

  alias SnakeBridge.Complex

  @enforce_keys [:dtype, :shape, :data]
  defstruct [:dtype, :shape, :data]

  @type t :: %__MODULE__{dtype: String.t(), shape: tuple(), data: binary()}
  @type element :: number() | boolean() | Complex.t() | :nan | :infinity | :neg_infinity

  # name, kind of element, bits
  @dtypes [
    {"bool", :bool, 8},
    {"int8", :signed, 8},
    {"int16", :signed, 16},
    {"int32", :signed, 32},
    {"int64", :signed, 64},
    {"uint8", :unsigned, 8},
    {"uint16", :unsigned, 16},
    {"uint32", :unsigned, 32},
    {"uint64", :unsigned, 64},
    {"float16", :float, 16},
    {"bfloat16", :bfloat, 16},
    {"float32", :float, 32},
    {"float64", :float, 64},
    {"complex64", :complex, 64},
    {"complex128", :complex, 128}
  ]
  @names Enum.map(@dtypes, &elem(&1, 0))
  @layouts Map.new(@dtypes, fn {name, kind, bits} -> {name, {kind, bits}} end)

  @doc "The element types that travel by value."
  @spec dtypes() :: [String.t()]
  def dtypes, do: @names

  @doc "Number of elements."
  @spec size(t()) :: non_neg_integer()
  def size(%__MODULE__{shape: shape}), do: shape |> Tuple.to_list() |> Enum.product()

  @doc """
  Says what is wrong with a tensor, or `:ok`: the dtype must be known, the shape a tuple of at most 64 sizes, and the data as long as both
  say.
  """
  @spec check(t()) :: :ok | {:error, String.t()}
  def check(%__MODULE__{dtype: dtype, shape: shape, data: data} = tensor)
      when is_map_key(@layouts, dtype) and is_tuple(shape) and is_binary(data) do
    # The bound on the rank keeps a forged shape from making the product a number of megabytes.
    if tuple_size(shape) <= 64 and Enum.all?(Tuple.to_list(shape), &(is_integer(&1) and &1 >= 0)) do
      {_kind, bits} = Map.fetch!(@layouts, dtype)
      expected = size(tensor) * div(bits, 8)

      if expected == byte_size(data),
        do: :ok,
        else:
          {:error,
           "shape #{inspect(shape)} of dtype #{dtype} makes #{expected} bytes, but its data has #{byte_size(data)}"}
    else
      {:error, "its shape must be a tuple of at most 64 integers >= 0, not #{inspect(shape, limit: 8)}"}
    end
  end

  def check(%__MODULE__{dtype: dtype}) when not is_map_key(@layouts, dtype),
    do:
      {:error,
       "its dtype must be one of #{Enum.join(@names, ", ")}, not #{inspect(dtype, limit: 5, printable_limit: 40)}"}

  def check(_), do: {:error, "its shape must be a tuple and its data a binary"}

  @doc """
  A tensor of (nested) lists; the nesting gives the shape. Raises `ArgumentError` when the lists are ragged or an element does not fit the
  dtype.

      iex> SnakeBridge.Tensor.from_list([[1, 2], [3, 4]], "uint8").shape
      {2, 2}
  """
  @spec from_list(list() | element(), String.t()) :: t()
  def from_list(list, dtype \\ "float64")

  def from_list(list, dtype) when is_map_key(@layouts, dtype) do
    {kind, bits} = Map.fetch!(@layouts, dtype)
    shape = shape_of(list)

    write = fn element ->
      write(kind, bits, element) || raise ArgumentError, "#{inspect(element)} does not fit dtype #{dtype}"
    end

    %__MODULE__{
      dtype: dtype,
      shape: List.to_tuple(shape),
      data: list |> flat(shape, write) |> IO.iodata_to_binary()
    }
  end

  def from_list(_list, dtype),
    do: raise(ArgumentError, "unknown dtype #{inspect(dtype)}; use one of #{Enum.join(@names, ", ")}")

  defp shape_of([first | _] = list), do: [length(list) | shape_of(first)]
  defp shape_of([]), do: [0]
  defp shape_of(_element), do: []

  defp flat(element, [], write) when not is_list(element), do: write.(element)

  defp flat(list, [size | shape], write) when is_list(list) and length(list) == size,
    do: Enum.map(list, &flat(&1, shape, write))

  defp flat(part, shape, _write),
    do:
      raise(
        ArgumentError,
        "the lists are ragged: #{inspect(part, limit: 5)} should have shape #{inspect(List.to_tuple(shape))}"
      )

  @doc "The elements as lists nested like the shape; one element for a tensor of no dimensions."
  @spec to_list(t()) :: list() | element()
  def to_list(%__MODULE__{} = tensor) do
    with {:error, rule} <- check(tensor), do: raise(ArgumentError, "#{inspect(tensor)} is malformed: #{rule}")
    {kind, bits} = Map.fetch!(@layouts, tensor.dtype)
    elements = for <<element::binary-size(div(bits, 8)) <- tensor.data>>, do: read(kind, element)
    nest(elements, Tuple.to_list(tensor.shape))
  end

  defp nest([element], []), do: element
  defp nest(elements, [_]), do: elements
  defp nest([], [size | shape]), do: List.duplicate(nest([], shape), size)

  defp nest(elements, [size | shape]),
    do: elements |> Enum.chunk_every(div(length(elements), size)) |> Enum.map(&nest(&1, shape))

  # The bytes of an element; nil when it does not fit.
  defp write(:bool, _, true), do: <<1>>
  defp write(:bool, _, false), do: <<0>>

  defp write(:signed, bits, n) when is_integer(n) do
    limit = Bitwise.bsl(1, bits - 1)
    if n >= -limit and n < limit, do: <<n::little-size(bits)>>
  end

  defp write(:unsigned, bits, n) when is_integer(n),
    do: if(n >= 0 and n < Bitwise.bsl(1, bits), do: <<n::little-size(bits)>>)

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

  defp read(:bool, <<byte>>), do: byte != 0
  defp read(:signed, element), do: element |> :binary.decode_unsigned(:little) |> signed(bit_size(element))
  defp read(:unsigned, element), do: :binary.decode_unsigned(element, :little)
  defp read(:bfloat, upper), do: read(:float, <<0, 0, upper::binary>>)

  defp read(:complex, element) do
    half = div(byte_size(element), 2)
    <<real::binary-size(half), imag::binary>> = element
    %Complex{real: read(:float, real), imag: read(:float, imag)}
  end

  defp read(:float, element) do
    bits = bit_size(element)
    exponent = exponent(bits)
    negative = exponent + Bitwise.bsl(1, bits - 1)

    case element do
      <<x::float-little-size(bits)>> -> x
      <<^exponent::little-size(bits)>> -> :infinity
      <<^negative::little-size(bits)>> -> :neg_infinity
      _ -> :nan
    end
  end

  defp signed(n, bits), do: if(n < Bitwise.bsl(1, bits - 1), do: n, else: n - Bitwise.bsl(1, bits))

  defp exponent(16), do: 0x7C00
  defp exponent(32), do: 0x7F800000
  defp exponent(64), do: 0x7FF0000000000000

  defp quiet(16), do: 0x0200
  defp quiet(32), do: 0x00400000
  defp quiet(64), do: 0x0008000000000000

  defimpl Inspect do
    def inspect(%{dtype: dtype, shape: shape, data: data}, _opts) when is_binary(dtype) and is_binary(data),
      do: "#SnakeBridge.Tensor<#{dtype} #{Kernel.inspect(shape, limit: 8)}, #{byte_size(data)} bytes>"

    def inspect(tensor, opts), do: Inspect.Any.inspect(tensor, opts)
  end
end
