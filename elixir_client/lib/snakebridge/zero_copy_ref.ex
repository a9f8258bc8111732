defmodule SnakeBridge.ZeroCopyRef do
  @moduledoc """
  A value that lies in shared memory (docs/sharing.md): made by `SnakeBridge.share/1`, or a result of Python. Passed to Python it is a
  read-only array, table or `memoryview` on the same pages; `SnakeBridge.unshare/1` copies it out.

    * `kind` - `:tensor`, `:arrow` or `:bytes`
    * `dtype`, `shape`, `order` - of a tensor, as in `SnakeBridge.Tensor`; of an Arrow value `dtype` says what it is in Python ("table", ...)
    * `segment`, `offset`, `bytes` - where it lies
    * `owner` - who wrote it: `:elixir` or `:python`; `pool` - the pool that answered it
    * `session_id` - the session that holds it; when the session ends, so does the ref
  """

  alias SnakeBridge.{Arrow, Bytes, Error, Shared, Tensor}
  alias SnakeBridge.Tensor.DType

  @enforce_keys [:kind, :segment, :offset, :bytes, :session_id, :hold]
  defstruct [:kind, :dtype, :shape, :order, :segment, :offset, :bytes, :owner, :session_id, :pool, :hold]

  @type t :: %__MODULE__{
          kind: :tensor | :arrow | :bytes,
          dtype: DType.form() | nil,
          shape: tuple() | nil,
          order: :c | :f | nil,
          segment: String.t(),
          offset: non_neg_integer(),
          bytes: non_neg_integer(),
          owner: :elixir | :python,
          session_id: String.t(),
          pool: atom(),
          hold: pos_integer()
        }

  @doc "The value, copied; the ref stays."
  @spec read(t()) :: {:ok, Tensor.t() | Arrow.t() | Bytes.t()} | {:error, Error.t()}
  def read(%__MODULE__{} = ref) do
    with :ok <- check_held(ref), {:ok, data} <- Shared.read(ref.segment, ref.offset, ref.bytes) do
      case ref.kind do
        :tensor -> {:ok, %Tensor{dtype: ref.dtype, shape: ref.shape, data: data, order: ref.order}}
        :arrow -> {:ok, %Arrow{kind: ref.dtype, data: data}}
        :bytes -> {:ok, %Bytes{data: data}}
      end
    end
  end

  @doc """
  `count` elements from element `offset` on, in the order in which they lie in memory, as a tensor of one dimension; of bytes that many
  bytes. Nothing else is read.
  """
  @spec slice(t(), non_neg_integer(), non_neg_integer()) ::
          {:ok, Tensor.t() | Bytes.t()} | {:error, Error.t()}
  def slice(%__MODULE__{} = ref, offset, count)
      when is_integer(offset) and offset >= 0 and is_integer(count) and count >= 0 do
    with :ok <- check_held(ref),
         {:ok, size} <- element_size(ref),
         :ok <- check_range(ref, offset, count, size),
         {:ok, data} <- Shared.read(ref.segment, ref.offset + offset * size, count * size) do
      if ref.kind == :bytes,
        do: {:ok, %Bytes{data: data}},
        else: {:ok, %Tensor{dtype: ref.dtype, shape: {count}, data: data}}
    end
  end

  defp element_size(%{kind: :bytes}), do: {:ok, 1}

  defp element_size(%{kind: :arrow}),
    do: {:error, Error.new(:invalid_request, "an Arrow value has no slices; unshare it")}

  defp element_size(%{dtype: dtype}) do
    {:ok, layout} = DType.parse(dtype)
    {:ok, DType.size(layout)}
  end

  defp check_range(ref, offset, count, size) do
    if (offset + count) * size <= ref.bytes do
      :ok
    else
      {:error,
       Error.new(
         :invalid_request,
         "elements #{offset} to #{offset + count} were asked for, but there are #{div(ref.bytes, max(size, 1))}"
       )}
    end
  end

  @doc "Lets the ref go without reading it. Views that Python has made stay valid."
  @spec release(t()) :: :ok
  def release(%__MODULE__{} = ref), do: Shared.release(ref)

  defp check_held(ref) do
    if Shared.held?(ref), do: :ok, else: {:error, Error.new(:invalid_ref, released(ref))}
  end

  @doc false
  def released(ref),
    do:
      "#{inspect(ref)} holds nothing any more: it was unshared, or its session #{ref.session_id} has ended; share the value again"

  defimpl Inspect do
    def inspect(%{kind: kind, bytes: bytes} = ref, _opts) do
      what =
        case kind do
          :tensor when is_binary(ref.dtype) -> "#{ref.dtype} #{Kernel.inspect(ref.shape, limit: 8)}"
          :tensor -> "structured #{Kernel.inspect(ref.shape, limit: 8)}"
          :arrow -> ref.dtype
          _ -> "bytes"
        end

      "#SnakeBridge.ZeroCopyRef<#{what}, #{bytes} bytes>"
    end
  end
end
