defmodule SnakeBridge.ValuesTest do
  use ExUnit.Case, async: true
  doctest SnakeBridge.Tensor

  alias SnakeBridge.{Bytes, Complex, Error, FrozenSet, Ref, StreamRef, Tensor, Text}

  describe "a tensor" do
    test "of lists gives the lists back, for every dtype" do
      cases = [
        {"bool", [true, false]},
        {"int8", [-128, 127]},
        {"int16", [-32_768, 32_767]},
        {"int32", [-1, 2_147_483_647]},
        {"int64", [-9_223_372_036_854_775_808, 1]},
        {"uint8", [0, 255]},
        {"uint16", [65_535]},
        {"uint32", [4_294_967_295]},
        {"uint64", [18_446_744_073_709_551_615]},
        {"float16", [1.5, :nan, :infinity, :neg_infinity]},
        {"bfloat16", [1.5, -2.0, :nan, :infinity, :neg_infinity]},
        {"float32", [1.5, :nan, :infinity, :neg_infinity]},
        {"float64", [0.1, :nan, :infinity, :neg_infinity]},
        {"complex64", [Complex.new(1, -2.5)]},
        {"complex128", [Complex.new(0.1, :nan)]},
        {"int1", [-1, 0]},
        {"int2", [-2, 1]},
        {"int4", [-8, 7, -1]},
        {"uint1", [0, 1]},
        {"uint2", [3]},
        {"uint4", [15]}
      ]

      assert Enum.map(cases, &elem(&1, 0)) == Tensor.dtypes()

      for {dtype, list} <- cases do
        tensor = Tensor.from_list([list, list], dtype)
        assert tensor.shape == {2, length(list)}
        assert Tensor.size(tensor) == 2 * length(list)
        assert Tensor.check(tensor) == :ok
        assert Tensor.to_list(tensor) == [list, list]
        big = Tensor.from_list([list, list], ">" <> dtype)
        assert Tensor.to_list(big) == [list, list]
        assert byte_size(big.data) == byte_size(tensor.data)
      end
    end

    test "is little-endian and in C order" do
      assert Tensor.from_list([[1, 2], [3, 4]], "uint16").data == <<1, 0, 2, 0, 3, 0, 4, 0>>
      assert Tensor.from_list([1.0]).data == <<0, 0, 0, 0, 0, 0, 0xF0, 0x3F>>
    end

    test "rounds to bfloat16, ties to even" do
      list = [1.00390625, 1.01171875]
      assert list |> Tensor.from_list("bfloat16") |> Tensor.to_list() == [1.0, 1.015625]
    end

    test "can be empty and can have no dimensions" do
      assert [] |> Tensor.from_list("int8") |> Tensor.to_list() == []
      assert Tensor.to_list(%Tensor{dtype: "int8", shape: {2, 0, 3}, data: ""}) == [[], []]
      assert Tensor.from_list(7, "int8") == %Tensor{dtype: "int8", shape: {}, data: <<7>>}
      assert 7 |> Tensor.from_list("int8") |> Tensor.to_list() == 7
    end

    test "is read in Fortran order, too" do
      # [[1, 2, 3], [4, 5, 6]], column by column
      tensor = %Tensor{dtype: "uint8", shape: {2, 3}, data: <<1, 4, 2, 5, 3, 6>>, order: :f}
      assert Tensor.to_list(tensor) == [[1, 2, 3], [4, 5, 6]]

      assert Tensor.c_order(tensor) == %Tensor{
               dtype: "uint8",
               shape: {2, 3},
               data: <<1, 2, 3, 4, 5, 6>>,
               order: :c
             }

      cube = %Tensor{dtype: ">uint16", shape: {2, 1, 2}, data: <<0, 1, 0, 3, 0, 2, 0, 4>>, order: :f}
      assert Tensor.to_list(cube) == [[[1, 2]], [[3, 4]]]
      assert inspect(tensor) == "#SnakeBridge.Tensor<uint8 {2, 3}, Fortran order, 6 bytes>"
    end

    test "of text, bytes, dates and spans gives lists, too" do
      list = fn dtype, shape, data -> Tensor.to_list(%Tensor{dtype: dtype, shape: shape, data: data}) end
      assert list.("str2", {2}, <<?a::little-32, 0::32, ?é::little-32, 0x1F600::little-32>>) == ["a", "é😀"]
      assert list.(">str1", {1}, <<?a::32>>) == ["a"]
      assert list.("str1", {1}, <<0xD800::little-32>>) == [%Text{wtf8: <<0xED, 0xA0, 0x80>>}]
      assert list.("bytes3", {2}, <<"ab", 0, 0, 255, 0>>) == [%Bytes{data: "ab"}, %Bytes{data: <<0, 255>>}]
      assert list.("void2", {1}, <<1, 0>>) == [%Bytes{data: <<1, 0>>}]
      nat = <<0x8000000000000000::little-64>>
      assert list.("datetime64[ns]", {2}, <<7::little-64, nat::binary>>) == [7, nil]
      assert list.(">timedelta64[25s]", {}, <<-1::64>>) == -1
      assert list.("str0", {2}, "") == ["", ""]
    end

    test "of structured elements gives maps" do
      dtype = %{
        "names" => ["a", "b", "c"],
        "formats" => [
          "int16",
          [">uint16", [2]],
          %{"names" => ["x"], "formats" => ["bool"], "offsets" => [1], "itemsize" => 2}
        ],
        "offsets" => [0, 4, 8],
        "itemsize" => 10
      }

      tensor = %Tensor{dtype: dtype, shape: {1}, data: <<-2::little-16, 0, 0, 1::16, 2::16, 0, 1>>}
      assert Tensor.check(tensor) == :ok
      assert Tensor.to_list(tensor) == [%{"a" => -2, "b" => [1, 2], "c" => %{"x" => true}}]

      for wrong <- [
            %{dtype | "offsets" => [0, 4, 9]},
            %{dtype | "names" => ["a", "a", "c"]},
            %{dtype | "formats" => ["int16"]},
            %{dtype | "itemsize" => -1},
            Map.delete(dtype, "names")
          ] do
        assert {:error, _} = Tensor.check(%{tensor | dtype: wrong})
      end
    end

    test "of the small floats of ml_dtypes gives numbers" do
      list = fn dtype, codes ->
        Tensor.to_list(%Tensor{dtype: dtype, shape: {length(codes)}, data: :binary.list_to_bin(codes)})
      end

      assert list.("float8_e5m2", [0x3C, 0xBC, 0x7C, 0xFC, 0x7E, 1]) ==
               [1.0, -1.0, :infinity, :neg_infinity, :nan, 1.52587890625e-5]

      assert list.("float8_e4m3fn", [0x38, 0x7E, 0x7F, 0xFF]) == [1.0, 448.0, :nan, :nan]
      assert list.("float8_e4m3fnuz", [0x40, 0x80]) == [1.0, :nan]
      assert list.("float8_e8m0fnu", [127, 128, 255]) == [1.0, 2.0, :nan]
      assert list.("float4_e2m1fn", [0, 1, 7, 15]) == [0.0, 0.5, 6.0, -6.0]
    end

    test "refuses what does not fit" do
      for {list, dtype} <- [
            {[256], "uint8"},
            {[-1], "uint8"},
            {[128], "int8"},
            {[1.5], "int8"},
            {["a"], "float64"},
            {[1.0e300], "float32"},
            {[1.0e5], "float16"},
            {[3.4e38], "bfloat16"},
            {[Integer.pow(10, 400)], "float64"},
            {[1], "bool"},
            {[[1], [1, 2]], "int8"},
            {[1, [2]], "int8"},
            {[1], "text"}
          ] do
        assert_raise ArgumentError, fn -> Tensor.from_list(list, dtype) end
      end

      assert_raise ArgumentError, fn -> Tensor.to_list(%Tensor{dtype: "int8", shape: {2}, data: ""}) end
    end
  end

  test "values are shown short, and refs without asking Python" do
    assert inspect(Bytes.new("abc")) == ~s[SnakeBridge.Bytes.new("abc")]

    assert inspect(Bytes.new(:binary.copy(<<255>>, 10_000))) =~
             ~r/^#SnakeBridge.Bytes<10000 bytes, <<255, .{1,300}>$/

    assert inspect(Tensor.from_list([[1, 2]], "int8")) == "#SnakeBridge.Tensor<int8 {1, 2}, 2 bytes>"

    ref = %Ref{id: "r1", session_id: "s1", python_module: "numpy", type_name: "Generator"}
    assert inspect(ref) == "#SnakeBridge.Ref<numpy.Generator r1 in s1>"
    assert inspect(%StreamRef{id: "r1", session_id: "s1"}) == "#SnakeBridge.StreamRef<iterator r1 in s1>"
  end

  test "wrappers become plain values with to_string" do
    assert to_string(Bytes.new(<<1, 255>>)) == <<1, 255>>
    assert to_string(%Text{wtf8: <<?a, 0xED, 0xA0, 0x80, ?b>>}) == "a\uFFFDb"
    assert to_string(%SnakeBridge.Atom{name: "nil"}) == "nil"
    assert FrozenSet.new([1, 1]).items == MapSet.new([1])
  end

  describe "an error" do
    test "of the wire keeps everything it was sent with" do
      error =
        Error.from_wire(%{
          "category" => "python_error",
          "type" => "json.decoder.JSONDecodeError",
          "message" => "no value",
          "traceback" => "Traceback ...",
          "stacktrace" => ["a", "b"],
          "notes" => ["check the file"],
          "cause" => %{"category" => "python_error", "type" => "OSError", "message" => "gone"},
          "context" => %{"tool_name" => "snakebridge.call", "function" => "loads", "extra" => 1},
          "details" => %{"outcome" => "unknown"}
        })

      assert %Error{category: :python_error, stacktrace: ["a", "b"], python_traceback: "Traceback ..."} =
               error

      assert %Error{python_type: "OSError", message: "gone"} = error.cause
      assert error.context == %{:tool_name => "snakebridge.call", :function => "loads", "extra" => 1}
      assert error.details == %{}
      assert error.outcome == :unknown
      assert Exception.message(error) == "json.decoder.JSONDecodeError: no value\ncheck the file"
    end

    test "of an unknown category makes no atom" do
      assert %Error{category: :unknown, details: %{"category" => "zq_new_category"}} =
               Error.from_wire(%{"category" => "zq_new_category", "message" => "m"})
    end

    test "that is malformed is still an error" do
      assert %Error{category: :unknown, message: ""} = Error.from_wire(%{})
      assert %Error{category: :protocol_error} = Error.from_wire([1])

      assert %Error{stacktrace: [], notes: ["a"], cause: nil} =
               Error.from_wire(%{"stacktrace" => 1, "notes" => [1, "a"], "cause" => []})

      surrogate = %Text{wtf8: <<?a, 0xED, 0xA0, 0x80>>}
      assert %Error{message: "a\uFFFD"} = Error.from_wire(%{"message" => surrogate})
      assert Exception.message(Error.from_wire(%{"category" => "timeout"})) == "timeout"
    end

    test "knows every category of the wire" do
      for category <- Error.categories() do
        assert Error.from_wire(%{"category" => Atom.to_string(category)}).category == category
        assert %Error{category: ^category, message: "m"} = Error.new(category, "m")
      end
    end
  end
end
