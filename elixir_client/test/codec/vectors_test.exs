defmodule SnakeBridge.Codec.VectorsTest do
  @moduledoc """
  Runs every conformance vector that names Elixir (codec/vectors). The Python tests run the same files.

  Where `elixir_after_tagged` is given, schema 1 may lose something on the way here. Our decoder may be more exact than that: it may give the
  value itself, or the same moment with the offset that UTC has lost, but nothing else.
  """

  use ExUnit.Case, async: true

  import SnakeBridge.Test.Exact

  alias SnakeBridge.Codec.Packed
  alias SnakeBridge.Test.Json
  alias SnakeBridge.Types

  @paths Path.wildcard(Path.expand("../../../codec/vectors/*.json", __DIR__))
  @both ["python", "elixir"]

  for path <- @paths do
    @external_resource path
    file = path |> File.read!() |> Json.decode!()

    for vector <- file["vectors"], is_binary(vector["elixir"]) do
      @vector vector
      name = "#{file["type"]}: #{vector["name"]}"
      encodes? = "elixir" in (vector["from"] || @both)
      decodes? = "elixir" in (vector["decoded_by"] || @both)

      if is_binary(vector["packed"]) and encodes? do
        test "#{name} is packed to its bytes" do
          assert {:ok, iodata} = Packed.encode(term(@vector["elixir"]))
          assert iodata |> IO.iodata_to_binary() |> Base.encode16(case: :lower) == @vector["packed"]
        end
      end

      if is_binary(vector["packed"]) and decodes? do
        test "#{name} is read from its bytes" do
          expected = term(@vector["elixir"])
          assert {:ok, decoded} = @vector["packed"] |> Base.decode16!(case: :lower) |> Packed.decode()
          assert same?(decoded, expected), "decoded to #{inspect(decoded)}"
        end
      end

      if is_map_key(vector, "tagged") and encodes? do
        test "#{name} is tagged" do
          assert same?(Types.encode(term(@vector["elixir"])), @vector["tagged"])
        end
      end

      if is_map_key(vector, "tagged") and decodes? do
        test "#{name} is read from its tagged form" do
          exact = term(@vector["elixir"])
          lossy = term(@vector["elixir_after_tagged"] || @vector["elixir"])
          decoded = Types.decode(@vector["tagged"], bytes: :binary)

          assert same?(decoded, lossy) or same?(Types.decode(@vector["tagged"]), exact) or
                   same_moment?(decoded, lossy),
                 "decoded to #{inspect(decoded)}"
        end
      end
    end
  end

  test "there are vectors" do
    assert @paths != []
  end

  defp same_moment?(%DateTime{} = left, %DateTime{} = right), do: DateTime.compare(left, right) == :eq
  defp same_moment?(_, _), do: false

  defp term(expression) do
    {term, _} = Code.eval_string(expression)
    term
  end
end
