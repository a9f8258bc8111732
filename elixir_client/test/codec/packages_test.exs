defmodule SnakeBridge.Codec.PackagesTest do
  @moduledoc """
  What becomes of terms of packages that the codec works with but does not depend on. Modules with their names and the functions that are
  called stand in for them; they are there for one test each.
  """

  # Not async: modules come and go, and the application environment is changed.
  use ExUnit.Case, async: false

  alias SnakeBridge.{Arrow, Error, Tensor, Types}
  alias SnakeBridge.Codec.{Packages, Packed}

  @decimal :"Elixir.Decimal"
  @nx :"Elixir.Nx"
  @nx_tensor :"Elixir.Nx.Tensor"
  @frame :"Elixir.Explorer.DataFrame"

  defp with_modules(source, names) do
    Code.compile_string(source)
    Enum.each(names, &Packages.forget/1)

    on_exit(fn ->
      for name <- names do
        :code.purge(name)
        :code.delete(name)
        :code.purge(name)
        Packages.forget(name)
      end
    end)
  end

  defp back(term, options \\ []) do
    {:ok, iodata} = Packed.encode(term)
    {:ok, back} = iodata |> IO.iodata_to_binary() |> Packed.decode(options)
    back
  end

  test "Decimal comes and goes as itself, but for what it does not have" do
    with_modules("defmodule Decimal do defstruct [sign: 1, coef: 0, exp: 0] end", [@decimal])
    decimal = &struct!(@decimal, sign: &1, coef: &2, exp: &3)

    for value <- [decimal.(1, 15, -1), decimal.(-1, 0, 3), decimal.(1, :NaN, 0), decimal.(-1, :inf, 0)] do
      assert back(value) == value
      assert back(%{value => 1}) == %{value => 1}
      assert value |> Types.encode(schema: 2) |> Types.decode() == value
    end

    assert back(%SnakeBridge.Decimal{coef: 1, exp: 2}) == decimal.(1, 1, 2)
    payload = %SnakeBridge.Decimal{coef: 7, exp: "n"}
    assert back(payload) == payload
    # Not a number that Python has: an opaque term.
    odd = decimal.(1, :NaN, 5)
    assert back(odd) == odd
    assert back(%{decimal.(1, 10, -1) => 1, 1 => 2}) == %{decimal.(1, 10, -1) => 1, 1 => 2}
  end

  test "without the package a Decimal is SnakeBridge.Decimal" do
    assert back(%{__struct__: @decimal, sign: -1, coef: 5, exp: 1}) == %SnakeBridge.Decimal{
             sign: -1,
             coef: 5,
             exp: 1
           }
  end

  test "Nx tensors are numpy arrays, and come back as such or as tensors of Nx" do
    with_modules(
      """
      defmodule Nx.Tensor do
        defstruct [:data, :type, :shape, :names]
      end

      defmodule Nx do
        def to_binary(tensor), do: tensor.data
        def shape(tensor), do: tensor.shape
        def type(tensor), do: tensor.type
        def names(tensor), do: tensor.names
        def from_binary(data, type), do: struct!(Nx.Tensor, data: data, type: type, shape: nil, names: [nil, nil])
        def reshape(tensor, shape), do: %{tensor | shape: shape}
      end
      """,
      [@nx, @nx_tensor]
    )

    tensor = struct!(@nx_tensor, data: <<1, 2, 3, 4>>, type: {:u, 8}, shape: {2, 2}, names: [nil, nil])
    plain = %Tensor{dtype: "uint8", shape: {2, 2}, data: <<1, 2, 3, 4>>}
    assert back([tensor]) == [plain]
    assert back([tensor], tensors: :nx) == [tensor]
    assert tensor |> Types.encode(schema: 2) |> Types.decode(tensors: :nx) == tensor
    assert back(%{plain | data: <<1, 3, 2, 4>>, order: :f}, tensors: :nx) == tensor

    Application.put_env(:snakebridge, :tensors, :nx)
    on_exit(fn -> Application.delete_env(:snakebridge, :tensors) end)
    assert back(tensor) == tensor
    assert back(tensor, tensors: :snakebridge) == plain

    # What Nx has no type for stays as it is.
    text = %Tensor{dtype: "str1", shape: {1}, data: <<?a::little-32>>}
    assert back(text) == text

    for wrong <- [%{tensor | names: [:x, nil]}, %{tensor | type: {:q, 3}}] do
      assert {:error, %Error{category: :encode_error, message: message}} = Packed.encode(wrong)
      assert message =~ "Nx."
    end
  end

  test "Explorer frames are Arrow tables, and come back as such or as frames" do
    with_modules(
      """
      defmodule Explorer.DataFrame do
        defstruct [:stream]
        def dump_ipc_stream!(frame), do: frame.stream
        def load_ipc_stream!(stream), do: struct!(__MODULE__, stream: stream)
      end
      """,
      [@frame]
    )

    frame = struct!(@frame, stream: <<255, 1>>)
    arrow = %Arrow{kind: "table", data: <<255, 1>>}
    assert back(frame) == arrow
    assert back(frame, bytes: :binary) == arrow
    assert back(frame, frames: :explorer) == frame
    assert back(%{arrow | kind: "pandas"}, frames: :explorer) == frame
    assert back(%{arrow | kind: "scalar"}, frames: :explorer) == %{arrow | kind: "scalar"}
    assert frame |> Types.encode(schema: 2) |> Types.decode(frames: :explorer) == frame

    Application.put_env(:snakebridge, :frames, :explorer)
    on_exit(fn -> Application.delete_env(:snakebridge, :frames) end)
    assert back(frame) == frame
  end

  test "without the packages what is asked for is what there is" do
    tensor = Tensor.from_list([1], "uint8")
    assert back(tensor, tensors: :nx) == tensor
    arrow = %Arrow{kind: "table", data: "a"}
    assert back(arrow, frames: :explorer) == arrow
  end
end
