defmodule SnakeBridge.Codec.ProperTest do
  @moduledoc """
  Properties of the codec over every kind of term (`SnakeBridge.Test.Terms`), checked by PropEr: through the codec, and through Python.

  CODEC_EXAMPLES says how many terms go to Python and back. A term that a property fails for is written to elixir_client/test/found, where
  every later run begins.
  """

  use ExUnit.Case, async: false

  import SnakeBridge.Test.Exact

  alias SnakeBridge.Codec.Packed
  alias SnakeBridge.Test.Terms

  @moduletag timeout: :infinity
  @found Path.expand("../found", __DIR__)
  @python_found Path.expand("../../../tests/codec/found", __DIR__)
  @examples "CODEC_EXAMPLES" |> System.get_env("4000") |> String.to_integer()
  @batch 20

  setup_all do
    Code.ensure_loaded?(:proper) ||
      raise "PropEr is missing, which the properties of the codec need: on Debian and Ubuntu apt-get install erlang-proper"

    SnakeBridge.Types.register("test.point", SnakeBridge.Test.Point)
    :ok
  end

  test "what was found once stays mended" do
    for path <- Path.wildcard(@found <> "/*.etf") do
      term = path |> File.read!() |> :erlang.binary_to_term()
      assert travels?(term), "#{path}: #{inspect(term)}"
      assert {:ok, [back]} = SnakeBridge.call("copy", "copy", [[term]])
      assert same?(back, term), "#{path}: #{inspect(back)} for #{inspect(term)}"
    end

    for path <- Path.wildcard(@python_found <> "/*.packed") do
      with {:ok, term} <- path |> File.read!() |> Packed.decode(callback: &callback/1),
           do: assert({:ok, _} = Packed.encode(term, callback: &callback/1))
    end
  end

  test "every term comes back from its bytes" do
    holds(Terms.batch(@batch), div(@examples, 2 * @batch), fn terms ->
      Enum.find(terms, &(not travels?(&1)))
    end)
  end

  test "every term comes back from Python" do
    calls = div(@examples, @batch)
    started = System.monotonic_time(:millisecond)

    holds(Terms.batch(@batch), calls, fn terms ->
      progress(@batch, started)

      case SnakeBridge.call("copy", "copy", [terms]) do
        {:ok, back} ->
          terms
          |> Enum.zip(back)
          |> Enum.find_value(fn {term, back} -> same?(term, back) || {:came, term, back} end)
          |> wrong()

        # One term that cannot be sent must not hide behind the others.
        {:error, _} ->
          Enum.find_value(terms, &refused/1)
      end
    end)

    IO.puts("\n#{calls * @batch} terms went to Python and back")
  end

  test "equal terms have equal bytes in canonical form" do
    holds(Terms.batch(@batch), div(@examples, 10 * @batch), fn terms ->
      Enum.find(terms, fn term ->
        {:ok, bytes} = Packed.encode(term, canonical: true)
        {:ok, again} = Packed.encode(rebuilt(term), canonical: true)
        IO.iodata_to_binary(bytes) != IO.iodata_to_binary(again)
      end)
    end)
  end

  # The first term that does not, with what came for it.
  defp holds(generator, count, wrong) do
    property =
      :proper.forall(generator, fn terms ->
        case wrong.(terms) do
          nil ->
            true

          found ->
            Process.put(__MODULE__, found)
            false
        end
      end)

    options = [:quiet, :noshrink, numtests: max(count, 1), max_size: 30]

    unless :proper.quickcheck(property, options) == true do
      found = Process.get(__MODULE__)
      flunk("does not hold for #{inspect(found, limit: :infinity, pretty: true)}, kept in #{keep(found)}")
    end
  end

  defp keep({:came, term, _}), do: keep(term)
  defp keep({:refused, term, _}), do: keep(term)

  defp keep(term) do
    data = :erlang.term_to_binary(term)

    path =
      Path.join(
        @found,
        binary_part(Base.encode16(:crypto.hash(:sha256, data), case: :lower), 0, 12) <> ".etf"
      )

    File.mkdir_p!(@found)
    File.write!(path, data)
    path
  end

  defp travels?(term) do
    with {:ok, bytes} <- Packed.encode(term),
         {:ok, back} <- bytes |> IO.iodata_to_binary() |> Packed.decode() do
      same?(back, term)
    else
      _ -> false
    end
  end

  defp wrong(true), do: nil
  defp wrong(found), do: found

  defp refused(term) do
    case SnakeBridge.call("copy", "copy", [[term]]) do
      {:ok, [back]} -> if same?(back, term), do: nil, else: {:came, term, back}
      {:error, error} -> {:refused, term, Exception.message(error)}
    end
  end

  # The same term, with maps and sets that grew in another order.
  defp rebuilt(%MapSet{} = set), do: set |> Enum.reverse() |> MapSet.new(&rebuilt/1)

  defp rebuilt(map) when is_map(map) and not is_struct(map),
    do: map |> Enum.reverse() |> Map.new(fn {k, v} -> {rebuilt(k), rebuilt(v)} end)

  defp rebuilt(tuple) when is_tuple(tuple),
    do: tuple |> Tuple.to_list() |> Enum.map(&rebuilt/1) |> List.to_tuple()

  defp rebuilt([head | tail]), do: [rebuilt(head) | rebuilt(tail)]
  defp rebuilt(other), do: other

  defp callback(record) when is_map(record), do: fn -> record end
  defp callback(function), do: function.()

  defp progress(more, started) do
    done = Process.get(:done, 0) + more
    Process.put(:done, done)

    if rem(done, 20_000) == 0,
      do:
        IO.puts(
          "#{done} of #{@examples} terms, #{div(System.monotonic_time(:millisecond) - started, 1000)} s"
        )
  end
end
