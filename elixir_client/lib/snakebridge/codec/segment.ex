defmodule SnakeBridge.Codec.Segment do
  @moduledoc """
  Where the bytes of an array, an Arrow value or plain bytes lie in shared memory, in place of the bytes (docs/wire.md section 1.3).

  The codec only moves these: what a ref is and what becomes of a segment that comes in is for `SnakeBridge.Shared`, which the option
  `:segments` leads to.
  """

  import SnakeBridge.Codec.Failure, only: [fail: 2, malformed: 2, show: 1]

  alias SnakeBridge.{Bytes, Shared, Tensor.DType, ZeroCopyRef}
  alias SnakeBridge.Codec.{Arrays, Options}

  @enforce_keys [:name, :offset, :length]
  defstruct [:name, :offset, :length]

  @type t :: %__MODULE__{name: String.t(), offset: non_neg_integer(), length: non_neg_integer()}

  # A plain file name, so that nothing outside the directory is ever opened.
  @name ~r/\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\z/

  @doc "Kind, level and parts of a ref, as of the value that it stands for."
  @spec split_ref(ZeroCopyRef.t()) :: {byte(), :fields | :elements, [term()]}
  def split_ref(%ZeroCopyRef{} = ref) do
    unless Shared.sending?(ref), do: fail(:encode_error, ZeroCopyRef.released(ref))
    segment = %__MODULE__{name: ref.segment, offset: ref.offset, length: ref.bytes}

    case ref.kind do
      :tensor -> {0x08, :fields, Arrays.fields(ref, segment)}
      :arrow -> {0x09, :elements, ["arrow", [ref.dtype, segment]]}
      :bytes -> {0x0B, :fields, split(segment)}
    end
  end

  @spec split(t()) :: [term()]
  def split(%__MODULE__{name: name, offset: offset, length: length}), do: [name, offset, length]

  @doc "What a segment becomes: a ref, or its bytes."
  @spec build([term()], Options.t()) :: ZeroCopyRef.t() | Bytes.t() | binary()
  def build([name, offset, length] = parts, opts)
      when is_binary(name) and is_integer(offset) and offset >= 0 and is_integer(length) and length >= 0 do
    cond do
      not (name =~ @name) ->
        malformed("a segment whose name is no plain file name", parts)

      opts.segments == nil ->
        fail(:decode_error, "the segment #{show(name)} came in where no memory is shared")

      true ->
        case opts.segments.({:binary.copy(name), offset, length}) do
          {:ok, %ZeroCopyRef{} = ref} -> ref
          {:ok, data} -> if opts.bytes == :struct, do: %Bytes{data: data}, else: data
          {:error, error} -> fail(error.category, error.message)
        end
    end
  end

  def build(parts, _), do: malformed("a segment that is not a name, an offset and a length", parts)

  @doc "The ref of an array, from the ref of its bytes."
  @spec array(ZeroCopyRef.t(), DType.form(), [term()], :c | :f) :: ZeroCopyRef.t()
  def array(%ZeroCopyRef{} = ref, dtype, shape, order) do
    with {:ok, layout} <- DType.parse(dtype),
         true <- DType.shape?(shape) and Enum.product(shape) * DType.size(layout) == ref.bytes do
      %{ref | kind: :tensor, dtype: dtype, shape: List.to_tuple(shape), order: order}
    else
      _ ->
        Shared.release(ref)

        malformed("an array in shared memory whose dtype, shape and size do not fit", [
          dtype,
          shape,
          ref.bytes
        ])
    end
  end
end
