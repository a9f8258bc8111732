defmodule SnakeBridge.Codec.Arrays do
  @moduledoc """
  Arrays (`packed` MARK 0x08, `tagged` ndarray): the parts of a `SnakeBridge.Tensor` or an `Nx.Tensor`, and the one or the other of its
  parts.

  Nx is not a dependency: its functions are called by name, where a tensor of it is met or asked for.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2, malformed: 2, show: 1]

  alias SnakeBridge.{Bytes, OrderedMap, Tensor, ZeroCopyRef}
  alias SnakeBridge.Codec.{Options, Packages, Segment}

  @nx :"Elixir.Nx"

  @nx_types %{
    "int8" => {:s, 8},
    "int16" => {:s, 16},
    "int32" => {:s, 32},
    "int64" => {:s, 64},
    "uint8" => {:u, 8},
    "uint16" => {:u, 16},
    "uint32" => {:u, 32},
    "uint64" => {:u, 64},
    "float8_e5m2" => {:f, 8},
    "bfloat16" => {:bf, 16},
    "float16" => {:f, 16},
    "float32" => {:f, 32},
    "float64" => {:f, 64},
    "complex64" => {:c, 64},
    "complex128" => {:c, 128}
  }
  @dtypes Map.new(@nx_types, fn {dtype, type} -> {type, dtype} end)

  @doc "dtype, shape and bytes of an array, and \"F\" when it is in Fortran order. Throws for a malformed one."
  @spec split(struct()) :: [term()]
  def split(array) do
    tensor = tensor(array)
    fields(tensor, %Bytes{data: tensor.data})
  end

  @doc "An array as a tensor that can be sent. Throws for one that cannot."
  @spec tensor(struct()) :: Tensor.t()
  def tensor(%Tensor{} = tensor) do
    with {:error, rule} <- Tensor.check(tensor),
         do: fail(:encode_error, "#{show(tensor)} cannot be sent: #{rule}")

    tensor
  end

  def tensor(%{__struct__: :"Elixir.Nx.Tensor"} = tensor) do
    names = apply(@nx, :names, [tensor])
    type = apply(@nx, :type, [tensor])

    cond do
      Enum.any?(names) ->
        fail(
          :encode_error,
          "an Nx tensor with the axis names #{show(names)} cannot be sent: numpy has none; take them off with Nx.rename/2"
        )

      not is_map_key(@dtypes, type) ->
        fail(
          :encode_error,
          "an Nx tensor of type #{show(type)} cannot be sent: numpy has no such type; use Nx.as_type/2"
        )

      true ->
        tensor(%Tensor{
          dtype: native(Map.fetch!(@dtypes, type)),
          shape: apply(@nx, :shape, [tensor]),
          data: apply(@nx, :to_binary, [tensor])
        })
    end
  end

  @doc "The fields of an array: what it is, and its bytes or where they are."
  @spec fields(%{dtype: term(), shape: tuple(), order: :c | :f}, struct()) :: [term()]
  def fields(%{dtype: dtype, shape: shape, order: order}, data) do
    parts = [ordered(dtype), Tuple.to_list(shape), data]
    if order == :f, do: parts ++ ["F"], else: parts
  end

  # A structured dtype travels with its entries in one order, so that equal arrays have equal bytes.
  defp ordered(%{"names" => names, "formats" => formats, "offsets" => offsets, "itemsize" => size}) do
    formats =
      Enum.map(formats, fn
        [form, shape] -> [ordered(form), shape]
        form -> ordered(form)
      end)

    pairs = [{"names", names}, {"formats", formats}, {"offsets", offsets}, {"itemsize", size}]
    %OrderedMap{pairs: pairs}
  end

  defp ordered(name), do: name

  # Nx keeps numbers in the byte order of the machine.
  if System.endianness() == :little,
    do: defp(native(dtype), do: dtype),
    else: defp(native(dtype), do: ">" <> dtype)

  # An opaque term that comes back may be an improper list, so every list that comes in is asked for its length.

  @doc "The array of its parts. Throws when they are not those of one."
  @spec build([term()], Options.t()) :: struct()
  def build([dtype, shape, data], opts), do: build([dtype, shape, data, "C"], opts)

  def build([dtype, shape, %ZeroCopyRef{} = ref, order], _) when length(shape) >= 0 and order in ["C", "F"],
    do: Segment.array(ref, dtype(dtype), shape, if(order == "F", do: :f, else: :c))

  def build([dtype, shape, data, order], opts) when length(shape) >= 0 and order in ["C", "F"] do
    tensor = %Tensor{
      dtype: dtype(dtype),
      shape: List.to_tuple(shape),
      data: if(is_struct(data, Bytes), do: data.data, else: data),
      order: if(order == "F", do: :f, else: :c)
    }

    case Tensor.check(tensor) do
      :ok -> if nx?(tensor, opts), do: nx(tensor), else: tensor
      {:error, rule} -> malformed("an array", rule)
    end
  end

  def build(parts, _opts), do: malformed("an array that is not a dtype, a shape and bytes", parts)

  # A copy, because these few bytes must not keep the whole message alive.
  defp dtype(name) when is_binary(name), do: :binary.copy(name)
  defp dtype(%OrderedMap{} = fields), do: fields |> OrderedMap.to_map() |> dtype()

  defp dtype(%{} = fields) when not is_struct(fields),
    do: Map.new(fields, fn {key, value} -> {key, formats(value)} end)

  defp dtype(other), do: other

  defp formats(list) when length(list) >= 0, do: Enum.map(list, &formats/1)
  defp formats(%OrderedMap{} = fields), do: dtype(fields)
  defp formats(other), do: other

  defp nx?(tensor, opts) do
    (opts.tensors || Application.get_env(:snakebridge, :tensors, :snakebridge)) == :nx and
      is_map_key(@nx_types, tensor.dtype) and Packages.loaded?(@nx)
  end

  defp nx(tensor) do
    tensor = Tensor.c_order(tensor)
    type = Map.fetch!(@nx_types, tensor.dtype)
    apply(@nx, :reshape, [apply(@nx, :from_binary, [tensor.data, type]), tensor.shape])
  end
end
