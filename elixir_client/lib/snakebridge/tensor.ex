defmodule SnakeBridge.Tensor do
  @moduledoc """
  A numpy array by value: element type as numpy names it (`SnakeBridge.Tensor.DType`), shape, and the raw elements, little-endian unless the
  dtype says otherwise, in C order (`order: :c`) or Fortran order (`order: :f`).

  No element is touched on the way: `data` is what numpy holds and what `Nx.from_binary/2` and friends take. `to_list/1` and `from_list/2`
  are for small arrays; floats that are not finite appear in lists as `:nan`, `:infinity` and `:neg_infinity`.
  """

  alias SnakeBridge.Complex
  alias SnakeBridge.Tensor.{DType, Element}

  @enforce_keys [:dtype, :shape, :data]
  defstruct [:dtype, :shape, :data, order: :c]

  @type t :: %__MODULE__{dtype: DType.form(), shape: tuple(), data: binary(), order: :c | :f}
  @type element :: number() | boolean() | Complex.t() | :nan | :infinity | :neg_infinity

  @doc "The element types of numbers, of which `from_list/2` makes tensors."
  @spec dtypes() :: [String.t()]
  def dtypes, do: DType.numbers()

  @doc "Number of elements."
  @spec size(t()) :: non_neg_integer()
  def size(%__MODULE__{shape: shape}), do: shape |> Tuple.to_list() |> Enum.product()

  @doc """
  Says what is wrong with a tensor, or `:ok`: the dtype must be known, the shape a tuple of at most 64 sizes, and the data as long as both
  say.
  """
  @spec check(t()) :: :ok | {:error, String.t()}
  def check(%__MODULE__{dtype: dtype, shape: shape, data: data, order: order} = tensor)
      when is_tuple(shape) and is_binary(data) and order in [:c, :f] do
    with {:ok, layout} <- DType.parse(dtype) do
      cond do
        not (shape |> Tuple.to_list() |> DType.shape?()) ->
          {:error, "its shape must be a tuple of at most 64 integers >= 0, not #{inspect(shape, limit: 8)}"}

        (expected = size(tensor) * DType.size(layout)) != byte_size(data) ->
          {:error,
           "shape #{inspect(shape)} of dtype #{show(dtype)} makes #{expected} bytes, but its data has #{byte_size(data)}"}

        true ->
          :ok
      end
    end
  end

  def check(_), do: {:error, "its shape must be a tuple, its data a binary, and its order :c or :f"}

  @doc """
  A tensor of (nested) lists; the nesting gives the shape. Raises `ArgumentError` when the lists are ragged or an element does not fit the
  dtype.

      iex> SnakeBridge.Tensor.from_list([[1, 2], [3, 4]], "uint8").shape
      {2, 2}
  """
  @spec from_list(list() | element(), String.t()) :: t()
  def from_list(list, dtype \\ "float64") do
    layout = layout!(dtype)
    shape = shape_of(list)

    write = fn element ->
      Element.write(layout, element) ||
        raise ArgumentError, "#{inspect(element)} does not fit dtype #{dtype}"
    end

    %__MODULE__{
      dtype: dtype,
      shape: List.to_tuple(shape),
      data: list |> flat(shape, write) |> IO.iodata_to_binary()
    }
  end

  defp layout!(dtype) do
    name = if is_binary(dtype), do: String.trim_leading(dtype, ">")

    case DType.parse(dtype) do
      {:ok, layout} when is_binary(name) ->
        if name in dtypes(), do: layout, else: no_list_of(dtype)

      _ ->
        no_list_of(dtype)
    end
  end

  defp no_list_of(dtype),
    do:
      raise(ArgumentError, "no list becomes dtype #{inspect(dtype)}; use one of #{Enum.join(dtypes(), ", ")}")

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

  @doc """
  The elements as lists nested like the shape; one element for a tensor of no dimensions. Of dates and spans the counts of their units (nil
  for NaT), of structured elements maps, of text and bytes strings and `SnakeBridge.Bytes`.
  """
  @spec to_list(t()) :: list() | term()
  def to_list(%__MODULE__{} = tensor) do
    {layout, shape} = checked(tensor)
    Element.nested(layout, shape, strides(tensor.order, shape), tensor.data)
  end

  @doc "The same tensor in C order."
  @spec c_order(t()) :: t()
  def c_order(%__MODULE__{order: :c} = tensor), do: tensor

  def c_order(%__MODULE__{} = tensor) do
    {layout, shape} = checked(tensor)
    # Elements as they are, bytes.
    raw = {:void, DType.size(layout), :little}
    elements = Element.nested(raw, shape, strides(:f, shape), tensor.data)
    data = for %{data: bytes} <- List.flatten([elements]), into: <<>>, do: bytes
    %{tensor | data: data, order: :c}
  end

  defp checked(tensor) do
    with {:error, rule} <- check(tensor), do: raise(ArgumentError, "#{inspect(tensor)} is malformed: #{rule}")
    {:ok, layout} = DType.parse(tensor.dtype)
    {layout, Tuple.to_list(tensor.shape)}
  end

  defp strides(:c, shape), do: Element.strides(shape)
  defp strides(:f, shape), do: shape |> Enum.reverse() |> Element.strides() |> Enum.reverse()

  defp show(dtype) when is_binary(dtype), do: dtype
  defp show(dtype), do: inspect(dtype, limit: 8)

  defimpl Inspect do
    def inspect(%{dtype: dtype, shape: shape, data: data, order: order}, _opts)
        when (is_binary(dtype) or is_map(dtype)) and is_binary(data) do
      name = if is_binary(dtype), do: dtype, else: "structured"
      fortran = if order == :f, do: " Fortran order,", else: ""
      "#SnakeBridge.Tensor<#{name} #{Kernel.inspect(shape, limit: 8)},#{fortran} #{byte_size(data)} bytes>"
    end

    def inspect(tensor, opts), do: Inspect.Any.inspect(tensor, opts)
  end
end
