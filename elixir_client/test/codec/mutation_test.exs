defmodule SnakeBridge.Codec.MutationTest do
  @moduledoc """
  A fuzzer of the Elixir decoders: messages of generated terms and of the conformance vectors, truncated and with bytes changed, give a term
  or an error, whatever they are. The seed is fixed; FUZZ_SECONDS says how long it runs, 3 seconds otherwise (`make fuzz`).
  """

  use ExUnit.Case, async: true

  alias SnakeBridge.Codec.Packed
  alias SnakeBridge.Test.{Json, Terms}
  alias SnakeBridge.Types

  @moduletag timeout: :infinity
  @found Path.expand("../found", __DIR__)
  @vectors Path.wildcard(Path.expand("../../../codec/vectors/*.json", __DIR__))
  @seconds "FUZZ_SECONDS" |> System.get_env("3") |> String.to_integer()
  # What decoding a message of some kilobytes may need at most, in words.
  @heap 8_000_000

  test "what was found once stays mended" do
    for path <- Path.wildcard(@found <> "/*.packed"), do: decode_packed(File.read!(path))
  end

  test "damaged packed messages give a term or an error" do
    seeds =
      for vector <- vectors(), is_binary(vector["packed"]), do: Base.decode16!(vector["packed"], case: :lower)

    fuzz(seeds ++ generated(), &decode_packed/1, fn message ->
      name = binary_part(Base.encode16(:crypto.hash(:sha256, message), case: :lower), 0, 12) <> ".packed"
      File.mkdir_p!(@found)
      File.write!(Path.join(@found, name), message)
    end)
  end

  test "damaged tagged forms give a term or an error" do
    seeds = for vector <- vectors(), key <- ["tagged", "tagged2"], form = vector[key], do: form

    fuzz(Enum.filter(seeds, &(is_map(&1) or is_list(&1))), &decode_tagged/1, fn _ -> :ok end)
  end

  defp vectors, do: Enum.flat_map(@vectors, &(&1 |> File.read!() |> Json.decode!() |> Map.fetch!("vectors")))

  defp generated do
    # PropEr needs its state in the process, and hands out what `quickcheck` gives the property.
    me = self()

    property =
      :proper.forall(Terms.batch(), fn terms ->
        is_reference(make_ref()) and send(me, {:terms, terms}) != nil
      end)

    true = :proper.quickcheck(property, [:quiet, numtests: 30, max_size: 20])

    for _ <- 1..30,
        {:ok, bytes} = Packed.encode(receive(do: ({:terms, terms} -> terms))),
        do: IO.iodata_to_binary(bytes)
  end

  # Runs in a process whose heap is bounded: one message that takes more ends it, and the test.
  defp fuzz(seeds, decode, keep) do
    seeds = List.to_tuple(seeds)
    until = System.monotonic_time(:millisecond) + 1000 * @seconds

    task =
      Task.async(fn ->
        Process.flag(:max_heap_size, %{size: @heap, kill: true, error_logger: false})
        :rand.seed(:exsss, {1, 2, 3})
        round(seeds, decode, keep, until, 0)
      end)

    IO.puts("\n#{Task.await(task, :infinity)} damaged messages decoded")
  end

  defp round(seeds, decode, keep, until, count) do
    message = seeds |> elem(:rand.uniform(tuple_size(seeds)) - 1) |> damaged(seeds)

    try do
      decode.(message)
    rescue
      error ->
        keep.(message)
        flunk("#{Exception.format(:error, error, __STACKTRACE__)}\nfor #{inspect(message, limit: :infinity)}")
    end

    if System.monotonic_time(:millisecond) < until,
      do: round(seeds, decode, keep, until, count + 1),
      else: count + 1
  end

  defp damaged(bytes, seeds) when is_binary(bytes) do
    other = elem(seeds, :rand.uniform(tuple_size(seeds)) - 1)

    case :rand.uniform(6) do
      1 -> binary_part(bytes, 0, :rand.uniform(byte_size(bytes) + 1) - 1)
      2 -> spliced(bytes, other)
      3 -> bytes |> spliced(other) |> changed(3)
      _ -> changed(bytes, :rand.uniform(4))
    end
  end

  # Of a tagged form one part becomes something else.
  defp damaged(form, seeds) do
    other = elem(seeds, :rand.uniform(tuple_size(seeds)) - 1)

    replaced(
      form,
      Enum.random([nil, 0, -1, 1.5, "", "x", [], %{}, [[]], "=", 10 ** 30, %{"__type__" => "ref"}, other])
    )
  end

  defp replaced(form, other) when is_map(form) and map_size(form) > 0 do
    {key, value} = Enum.random(form)

    case :rand.uniform(5) do
      1 -> other
      2 -> Map.delete(form, key)
      3 -> Map.put(form, key, other)
      _ -> Map.put(form, key, replaced(value, other))
    end
  end

  defp replaced([_ | _] = list, other) do
    at = :rand.uniform(length(list)) - 1

    case :rand.uniform(4) do
      1 -> other
      2 -> List.delete_at(list, at)
      _ -> List.update_at(list, at, &replaced(&1, other))
    end
  end

  defp replaced(_, other), do: other

  defp spliced(left, right) do
    at = :rand.uniform(byte_size(left) + 1) - 1
    <<head::binary-size(at), _::binary>> = left
    from = :rand.uniform(byte_size(right) + 1) - 1
    head <> binary_part(right, from, byte_size(right) - from)
  end

  defp changed("", _), do: ""
  defp changed(bytes, 0), do: bytes

  defp changed(bytes, times) do
    at = :rand.uniform(byte_size(bytes)) - 1
    <<head::binary-size(at), _, rest::binary>> = bytes

    interesting =
      Enum.random([
        0,
        1,
        0x7F,
        0x80,
        0x90,
        0xC1,
        0xC4,
        0xC9,
        0xCB,
        0xD4,
        0xDD,
        0xDF,
        0xFF,
        :rand.uniform(256) - 1
      ])

    changed(<<head::binary, interesting, rest::binary>>, times - 1)
  end

  defp decode_packed(message) do
    case Packed.decode(message, callback: &callback/1) do
      {:ok, term} ->
        {:ok, _} = Packed.encode(term, callback: &callback/1)

      {:error, %SnakeBridge.Error{category: category}} when category in [:decode_error, :limit_exceeded] ->
        :ok
    end
  end

  defp decode_tagged(form) do
    Types.decode(form, callback: &callback/1)
  rescue
    SnakeBridge.Error -> :ok
  end

  defp callback(record) when is_map(record), do: fn -> record end
  defp callback(function) when is_function(function, 0), do: function.()
  defp callback(function), do: %{id: inspect(function), arity: 0, owner: ""}
end
