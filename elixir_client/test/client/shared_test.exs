defmodule SnakeBridge.SharedTest do
  # Values in shared memory, both ways, and that nothing of them stays behind.
  use ExUnit.Case, async: false

  import SnakeBridge.Test.{Eventually, Processes}

  @moduletag capture_log: true

  alias SnakeBridge.Shared.{Directory, Keeper}
  alias SnakeBridge.{Arrow, Bytes, Error, Pool, Shared, Tensor, ZeroCopyRef}

  @large 100_000

  # --- what lies there ---

  # Unlinking is done by another process.
  defp files do
    Keeper.make_room()
    Shared.directory() |> File.ls!() |> Enum.sort()
  end

  defp path(ref), do: Path.join(Shared.directory(), ref.segment)

  setup do
    {:ok, session} = SnakeBridge.create_session()
    on_exit(fn -> SnakeBridge.close_session(session) end)
    before = files()
    {:ok, session: session, before: before}
  end

  defp inside(session, fun), do: SnakeBridge.in_session(session, fun)

  defp sample(function, args, runtime \\ []),
    do: SnakeBridge.call("sample", function, args, __runtime__: runtime)

  defp arange(n, runtime \\ []), do: SnakeBridge.call("numpy", "arange", [n * 1.0], __runtime__: runtime)

  # --- round trips ---

  test "a shared tensor is a read-only array in Python, on the same pages", %{session: session} do
    inside(session, fn ->
      tensor = Tensor.from_list([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
      assert {:ok, %ZeroCopyRef{kind: :tensor, owner: :elixir, bytes: 48} = ref} = SnakeBridge.share(tensor)
      assert {ref.dtype, ref.shape, ref.order, ref.session_id} == {"float64", {2, 3}, :c, session}
      assert {:ok, %{"args" => ["ndarray"]}} = sample("kinds", [ref])
      assert {:ok, 21.0} = SnakeBridge.call("numpy", "sum", [ref])
      assert {:ok, inodes} = sample("mapped_inodes", [ref])
      assert File.stat!(path(ref)).inode in inodes
      assert {:error, %Error{python_type: "ValueError", message: text}} = sample("set_item", [ref, 0, 7.0])
      assert text =~ "read-only"
      assert {:ok, ^tensor} = SnakeBridge.unshare(ref)
    end)
  end

  test "every kind of value comes back as it was", %{session: session} do
    inside(session, fn ->
      {:ok, table} = SnakeBridge.call("pyarrow", "table", [%{"x" => [1, 2, 3]}])
      %Arrow{} = table
      structured = %{"names" => ["a"], "formats" => ["int16"], "offsets" => [0], "itemsize" => 2}

      for value <- [
            Tensor.from_list([1, 2, 3], "int8"),
            %Tensor{Tensor.from_list([[1, 2], [3, 4]]) | order: :f},
            Tensor.from_list([], "float32"),
            %Tensor{dtype: ">float64", shape: {2}, data: <<1.0::float, 2.0::float>>},
            %Tensor{dtype: structured, shape: {2}, data: <<1, 0, 2, 0>>},
            table
          ] do
        assert {:ok, ref} = SnakeBridge.share(value)
        assert {:ok, echo} = sample("identity", [ref])
        assert {:ok, ^value} = SnakeBridge.unshare(echo)
        assert {:ok, ^value} = SnakeBridge.unshare(ref)
      end

      for data <- ["text", <<255, 0>>, ""] do
        assert {:ok, ref} = SnakeBridge.share(data)
        assert {:ok, %{"args" => ["memoryview"]}} = sample("kinds", [ref])
        assert {:ok, %Bytes{data: ^data}} = SnakeBridge.call("builtins", "bytes", [ref])
        assert {:ok, %Bytes{data: ^data}} = SnakeBridge.unshare(ref)
      end

      assert {:ok, %ZeroCopyRef{kind: :bytes}} = SnakeBridge.share(Bytes.new("b"))
    end)
  end

  test "what cannot lie in memory as it travels is not shared" do
    for term <- [1, "bits" |> then(&<<&1::binary, 1::1>>), [1.0], %{}, nil, ~D[2024-01-01], self()] do
      assert {:error, %Error{category: :encode_error, message: text}} = SnakeBridge.share(term)
      assert text =~ "cannot be shared"
    end

    bad = %Tensor{dtype: "float64", shape: {3}, data: "short"}
    assert {:error, %Error{category: :encode_error}} = SnakeBridge.share(bad)
    assert_raise Error, fn -> SnakeBridge.share!(bad) end
  end

  test "other terms pass through unshare" do
    for term <- [1, "text", Tensor.from_list([1.0]), nil],
        do: assert({:ok, ^term} = SnakeBridge.unshare(term))

    assert SnakeBridge.unshare!(:ok) == :ok
  end

  test "a shared value that is shared is itself", %{session: session} do
    inside(session, fn ->
      ref = SnakeBridge.share!("abc")
      assert SnakeBridge.share!(ref) == ref
    end)
  end

  # --- results ---

  test "what passes through is answered by its own segment", %{session: session, before: before} do
    inside(session, fn ->
      ref = SnakeBridge.share!(Tensor.from_list([1.0, 2.0, 3.0, 4.0]))
      assert {:ok, %ZeroCopyRef{} = echo} = sample("identity", [ref])
      assert echo.segment == ref.segment
      assert length(files()) == length(before) + 1
      # Each of the two holds it.
      SnakeBridge.unshare!(ref)
      assert {:ok, %Tensor{}} = ZeroCopyRef.read(echo)
      assert {:ok, [part, [_]]} = sample("parts", [echo, 1, 3])
      assert {part.segment, part.offset, part.bytes} == {echo.segment, 8, 16}
      assert Tensor.to_list(SnakeBridge.unshare!(part)) == [2.0, 3.0]
    end)
  end

  test "a result that is nothing but bytes is shared like an array", %{session: session} do
    inside(session, fn ->
      ref = SnakeBridge.share!("abc")
      assert {:ok, %ZeroCopyRef{kind: :bytes} = echo} = sample("identity", [ref])
      assert echo.segment == ref.segment

      assert {:ok, %ZeroCopyRef{kind: :bytes, owner: :python} = zeros} =
               SnakeBridge.call("builtins", "bytes", [@large * 8], __runtime__: [shared: true])

      assert SnakeBridge.unshare!(zeros) == %Bytes{data: :binary.copy(<<0>>, @large * 8)}
      assert {:ok, %Bytes{}} = SnakeBridge.call("builtins", "bytes", [@large * 8])
    end)
  end

  test "large results are refs where refs were passed or asked for, tensors elsewhere", %{session: session} do
    inside(session, fn ->
      one = SnakeBridge.share!(Tensor.from_list([1.0]))
      assert {:ok, %Tensor{shape: {@large}}} = arange(@large)
      assert {:ok, %Tensor{shape: {10}}} = arange(10, shared: true)
      assert {:ok, %ZeroCopyRef{owner: :python, pool: :default} = ref} = arange(@large, shared: true)
      assert ref.shape == {@large}
      assert {:ok, %ZeroCopyRef{} = sum} = SnakeBridge.call("numpy", "add", [ref, one])
      assert {:ok, %Tensor{data: <<1.0::float-little, _::binary>>}} = SnakeBridge.unshare(sum)
      assert {:ok, %ZeroCopyRef{shape: {10}}} = arange(10, shared: true, shared_threshold: 80)

      assert {:ok, %ZeroCopyRef{kind: :arrow, dtype: "table"} = table} =
               SnakeBridge.call("pyarrow", "table", [%{"x" => ref}])

      assert {:ok, @large} = SnakeBridge.get_attr(table, :num_rows)
      assert {:ok, %Arrow{kind: "table"}} = SnakeBridge.unshare(table)
    end)
  end

  test "shared: false keeps everything on the socket", %{session: session, before: before} do
    inside(session, fn ->
      ref = SnakeBridge.share!(Tensor.from_list([1.0, 2.0]))
      assert {:ok, %Tensor{}} = sample("identity", [ref], shared: false)
      assert {:ok, %Tensor{}} = SnakeBridge.call("numpy", "zeros", [@large], __runtime__: [shared: false])
      SnakeBridge.unshare!(ref)
      assert files() == before
    end)
  end

  test "refs lie anywhere in a value, and go through callbacks and streams", %{session: session} do
    inside(session, fn ->
      ref = SnakeBridge.share!(Tensor.from_list([1.0, 2.0]))
      assert {:ok, %{"a" => [{echo}]}} = sample("identity", [%{"a" => [{ref}]}])
      assert %ZeroCopyRef{} = echo

      assert {:ok, %ZeroCopyRef{}} =
               sample("apply", [fn %Tensor{} = t -> Tensor.to_list(t) == [1.0, 2.0] && ref end, ref])

      assert [%Tensor{}, %Tensor{}] = SnakeBridge.stream("sample", "identity", [[ref, ref]]) |> Enum.to_list()
      nested = fn -> SnakeBridge.call!("numpy", "sum", [ref]) end
      assert {:ok, 3.0} = sample("apply", [nested])
    end)
  end

  test "with another runtime client the value itself travels", %{session: session} do
    inside(session, fn ->
      ref = SnakeBridge.share!(Tensor.from_list([1.0, 2.0]))
      encoded = SnakeBridge.Types.encode(Bytes.new("abc"))
      assert SnakeBridge.Types.encode(SnakeBridge.share!("abc")) == encoded
      ZeroCopyRef.release(ref)
      assert_raise Error, ~r/holds nothing any more/, fn -> SnakeBridge.Types.encode(ref) end
    end)
  end

  # --- slices ---

  test "slices are read without the rest", %{session: session} do
    inside(session, fn ->
      {:ok, ref} = arange(@large, shared: true)
      assert {:ok, %Tensor{shape: {3}} = tensor} = ZeroCopyRef.slice(ref, @large - 3, 3)
      assert Tensor.to_list(tensor) == [99_997.0, 99_998.0, 99_999.0]
      assert {:ok, %Tensor{shape: {0}, data: ""}} = ZeroCopyRef.slice(ref, @large, 0)

      for {offset, count} <- [{@large, 1}, {0, @large + 1}, {0x10000000000000000, 1}] do
        assert {:error, %Error{category: :invalid_request}} = ZeroCopyRef.slice(ref, offset, count)
      end

      assert {:ok, %Bytes{data: "cd"}} = ZeroCopyRef.slice(SnakeBridge.share!("abcdef"), 2, 2)
      {:ok, table} = SnakeBridge.call("pyarrow", "table", [%{"x" => ref}])
      assert {:error, %Error{message: text}} = ZeroCopyRef.slice(table, 0, 1)
      assert text =~ "no slices"
    end)
  end

  # --- lifetime ---

  test "files are private", %{session: session} do
    inside(session, fn ->
      ref = SnakeBridge.share!("abc")
      assert Bitwise.band(File.stat!(path(ref)).mode, 0o777) == 0o600
      assert Bitwise.band(File.stat!(Shared.directory()).mode, 0o777) == 0o700
    end)
  end

  test "a ref that was let go holds nothing", %{session: session, before: before} do
    inside(session, fn ->
      ref = SnakeBridge.share!("abc")
      assert {:ok, _} = SnakeBridge.unshare(ref)
      assert :ok = ZeroCopyRef.release(ref)
      assert {:error, %Error{category: :invalid_ref}} = SnakeBridge.unshare(ref)
      assert {:error, %Error{category: :invalid_ref}} = ZeroCopyRef.slice(ref, 0, 1)
      assert {:error, %Error{category: :encode_error, message: text}} = sample("identity", [ref])
      assert text =~ "share the value again"
      assert files() == before
    end)
  end

  test "a session takes its segments with it", %{session: session, before: before} do
    inside(session, fn ->
      for i <- 1..5, do: SnakeBridge.share!("value #{i}")
      {:ok, %ZeroCopyRef{}} = arange(@large, shared: true)
    end)

    assert length(files()) == length(before) + 6
    SnakeBridge.close_session(session)
    assert files() == before
  end

  test "a process takes the segments of its own session with it", %{before: before} do
    me = self()

    {pid, monitor} =
      spawn_monitor(fn ->
        SnakeBridge.share!("abc")
        {:ok, %ZeroCopyRef{}} = arange(@large, shared: true)
        send(me, :shared)
        receive do: (:stop -> :ok)
      end)

    assert_receive :shared
    Process.exit(pid, :kill)
    assert_receive {:DOWN, ^monitor, _, _, _}
    # The session manager hears of it as well, before it answers this.
    SnakeBridge.SessionManager.track()
    :sys.get_state(SnakeBridge.SessionManager)
    assert files() == before
  end

  test "a view in Python outlives its segment", %{session: session, before: before} do
    inside(session, fn ->
      ref = SnakeBridge.share!(Tensor.from_list([1.0, 2.0, 3.0]))
      {:ok, _} = sample("keep", [ref])
      SnakeBridge.unshare!(ref)
      assert files() == before
      # Others write their segments meanwhile.
      for _ <- 1..20, do: "other" |> SnakeBridge.share!() |> ZeroCopyRef.release()
      assert {:ok, %Tensor{} = kept} = sample("kept_value", [])
      assert Tensor.to_list(kept) == [1.0, 2.0, 3.0]
    end)
  end

  test "memory that Python maps is never written anew", %{session: session} do
    inside(session, fn ->
      zeros = %Tensor{dtype: "uint8", shape: {2_000_000}, data: :binary.copy(<<0>>, 2_000_000)}
      ones = %{zeros | data: :binary.copy(<<1>>, 2_000_000)}
      ref = SnakeBridge.share!(zeros)
      {:ok, _} = sample("keep", [ref])
      ZeroCopyRef.release(ref)

      for _ <- 1..5 do
        other = SnakeBridge.share!(ones)
        assert {:ok, 2_000_000} = SnakeBridge.call("numpy", "sum", [other])
        ZeroCopyRef.release(other)
      end

      assert {:ok, 0} = sample("sum_kept", [])
      sample("drop_kept", [])
    end)
  end

  test "large memory that nobody maps is used again, also for a smaller value", %{session: session} do
    inside(session, fn ->
      large = SnakeBridge.share!(:binary.copy("x", 4_000_000))
      inode = File.stat!(path(large)).inode
      ZeroCopyRef.release(large)
      assert eventually(fn -> match?([_], :ets.match(Shared, {{:spare, 4_000_000, :"$1"}, :_})) end)
      small = SnakeBridge.share!(:binary.copy("y", 3_000_000))
      assert File.stat!(path(small)).inode == inode

      assert {:ok, %Bytes{data: data}} =
               SnakeBridge.call("builtins", "bytes", [small], __runtime__: [shared: false])

      assert data == :binary.copy("y", 3_000_000)
    end)
  end

  # --- bounds ---

  test "all segments together are bounded", %{session: session, before: before} do
    with_settings([limit: Shared.total() + 2_500_000], fn ->
      inside(session, fn ->
        one = :binary.copy("x", 1_200_000)
        first = SnakeBridge.share!(one)
        assert {:ok, second} = SnakeBridge.share(one)
        assert {:error, %Error{category: :limit_exceeded, message: text}} = SnakeBridge.share(one)
        assert text =~ "unshare what is no longer needed"
        assert text =~ "limit: bytes"
        # A result that does not fit comes by the socket.
        assert {:ok, %Tensor{shape: {@large}}} = arange(@large, shared: true)
        ZeroCopyRef.release(first)
        # Only for a value that is too large is what was kept given up.
        assert {:ok, third} = SnakeBridge.share(one)
        ZeroCopyRef.release(second)
        ZeroCopyRef.release(third)
        assert {:ok, _} = SnakeBridge.share(one <> one)
      end)

      SnakeBridge.close_session(session)
    end)

    assert files() == before
  end

  defp with_settings(settings, fun) do
    before = Application.get_env(:snakebridge, :shared, [])
    Application.put_env(:snakebridge, :shared, settings)

    try do
      fun.()
    after
      Application.put_env(:snakebridge, :shared, before)
    end
  end

  test "many processes share at the same time", %{session: session, before: before} do
    sum = fn i ->
      inside(session, fn ->
        tensor = Tensor.from_list(List.duplicate(i, 50), "int64")
        ref = SnakeBridge.share!(tensor)
        {:ok, echo} = sample("identity", [ref])
        ZeroCopyRef.release(ref)
        SnakeBridge.unshare!(echo) == tensor
      end)
    end

    assert 1..40
           |> Task.async_stream(sum, max_concurrency: 8, timeout: 60_000)
           |> Enum.all?(&(&1 == {:ok, true}))

    assert files() == before
  end

  test "of those who let a ref go at the same time one counts", %{session: session, before: before} do
    inside(session, fn ->
      ref = SnakeBridge.share!("abc")
      {:ok, echo} = Shared.hold(session, ref.segment, 0, 3)
      1..20 |> Task.async_stream(fn _ -> ZeroCopyRef.release(ref) end, timeout: 60_000) |> Stream.run()
      assert {:ok, %Bytes{data: "abc"}} = SnakeBridge.unshare(echo)
      assert files() == before
    end)
  end

  # --- crashes ---

  defp pool(options \\ []) do
    name = :"shared_#{System.unique_integer([:positive])}"
    env = [{"PYTHONPATH", Path.expand("tests/python")}]
    options = [name: name, size: 1, python: Path.expand(".venv/bin/python"), env: env] ++ options
    start_supervised!({Pool, options}, id: name)
    name
  end

  test "a worker that is killed leaves nothing but what is held", %{session: session, before: before} do
    pool = pool()

    inside(session, fn ->
      {:ok, %ZeroCopyRef{} = held} = arange(@large, shared: true, pool: pool)
      # A result that is written and never sent: the worker dies with it.
      assert {:error, %Error{category: :worker_crash}} =
               sample("die_after_segment", [Shared.directory()], shared: true, pool: pool)

      assert eventually(fn -> Enum.all?(files(), &(not String.starts_with?(&1, "w"))) end)
      assert length(files()) == length(before) + 1
      # It was taken over, and lives in another worker as well.
      assert {:ok, 4_999_950_000.0} = SnakeBridge.call("numpy", "sum", [held], __runtime__: [pool: pool])
    end)
  end

  test "a pool without shared memory says so", %{session: session} do
    pool = pool(shared: false)

    inside(session, fn ->
      assert {:ok, %Tensor{}} = arange(@large, shared: true, pool: pool)
      ref = SnakeBridge.share!("abc")
      assert {:error, %Error{category: :decode_error}} = sample("identity", [ref], pool: pool)
    end)
  end

  test "the registry goes on where it was when it crashes", %{session: session, before: before} do
    inside(session, fn ->
      ref = SnakeBridge.share!("abc")
      pid = Process.whereis(Keeper)
      monitor = Process.monitor(pid)
      Process.exit(pid, :kill)
      assert_receive {:DOWN, ^monitor, _, _, _}
      assert eventually(fn -> Process.whereis(Keeper) end)
      assert {:ok, %Bytes{data: "abc"}} = SnakeBridge.call("builtins", "bytes", [ref])
      assert {:ok, %Bytes{data: "abc"}} = SnakeBridge.unshare(ref)
      assert files() == before
      assert Shared.total() == 0 or before != []
    end)
  end

  @script """
  {:ok, ref} = SnakeBridge.share(:binary.copy("x", 1_000_000))
  {:ok, %SnakeBridge.ZeroCopyRef{}} = SnakeBridge.call("numpy", "arange", [100_000.0], __runtime__: [shared: true])
  IO.puts("shared " <> System.pid() <> " " <> SnakeBridge.Shared.directory() <> " " <> ref.segment)
  Process.sleep(:infinity)
  """

  test "what a killed BEAM leaves is swept by the next one" do
    port = beam()
    {pid, directory} = shared(port)
    assert length(File.ls!(directory)) == 2
    {:ok, mine} = Directory.make(Path.dirname(directory))
    assert File.dir?(directory)
    assert File.dir?(Shared.directory())
    kill(pid)
    assert_receive {^port, {:exit_status, _}}
    {:ok, next} = Directory.make(Path.dirname(directory))
    refute File.exists?(directory)
    assert File.dir?(mine)
    for path <- [mine, next], do: File.rm_rf!(path)
  end

  test "a directory of somebody else, or that is no directory, is not swept" do
    base = Path.join(System.tmp_dir!(), "shared-base-#{System.unique_integer([:positive])}")
    File.mkdir!(base)
    on_exit(fn -> File.rm_rf(base) end)
    {:ok, mine} = Directory.make(base)
    [_, space, pid, started, random] = mine |> Path.basename() |> String.split("-")
    name = &Path.join(base, Enum.join(["snakebridge" | &1], "-"))
    # The pid was given to another process meanwhile.
    recycled = name.([space, pid, "1", random])
    other_space = name.(["1", pid, "1", random])
    link = name.([space, "999999999", started, random])
    Enum.each([recycled, other_space], &File.mkdir!/1)
    File.mkdir!(Path.join(base, "target"))
    File.ln_s!(Path.join(base, "target"), link)
    assert {:ok, _} = Directory.make(base)
    refute File.exists?(recycled)
    for path <- [mine, other_space, Path.join(base, "target")], do: assert(File.dir?(path))
  end

  test "a directory that cannot be made is an error that says so" do
    assert {:error, text} = Directory.make("/nonexistent")
    assert text =~ "/nonexistent"
  end

  defp beam do
    script = Path.join(System.tmp_dir!(), "shared-#{System.unique_integer([:positive])}.exs")
    File.write!(script, "{:ok, _} = Application.ensure_all_started(:snakebridge)\n" <> @script)
    on_exit(fn -> File.rm(script) end)

    Port.open({:spawn_executable, System.find_executable("elixir")}, [
      :binary,
      :exit_status,
      :stderr_to_stdout,
      {:line, 4096},
      {:args, ["-pa", to_string(:code.lib_dir(:snakebridge, :ebin)), script]},
      {:env, [{'SNAKEBRIDGE_PYTHON', String.to_charlist(Path.expand(".venv/bin/python"))}]}
    ])
  end

  defp shared(port) do
    receive do
      {^port, {:data, {:eol, "shared " <> rest}}} ->
        [pid, directory, _] = String.split(rest)
        on_exit(fn -> kill(String.to_integer(pid)) end)
        {String.to_integer(pid), directory}

      {^port, {:data, _}} ->
        shared(port)

      {^port, {:exit_status, status}} ->
        flunk("the child ended with status #{status}")
    after
      60_000 -> flunk("the child did not start")
    end
  end
end
