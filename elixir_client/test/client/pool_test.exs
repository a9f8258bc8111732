defmodule SnakeBridge.PoolTest do
  use ExUnit.Case, async: false

  # What the log says of workers that cannot start is what the tests check, not what a reader of their output needs.
  @moduletag capture_log: true

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.{Error, Lane, Pool}
  alias SnakeBridge.Lane.Connection

  @python Path.expand(".venv/bin/python")

  setup context do
    name = :"pool_#{System.unique_integer([:positive])}"
    options = [name: name, size: 1, python: @python, env: [{"PYTHONPATH", Path.expand("tests/python")}]]
    start_supervised!({Pool, Keyword.merge(options, Map.get(context, :options, []))})
    {:ok, pool: name}
  end

  defp script(line) do
    path = Path.join(System.tmp_dir!(), "python-#{System.unique_integer([:positive])}-#{System.pid()}")
    File.write!(path, "#!/bin/sh\n#{line}\n")
    File.chmod!(path, 0o755)
    on_exit(fn -> File.rm(path) end)
    path
  end

  defp executor?(os_pid) do
    match?({:ok, _}, File.read("/proc/#{os_pid}/cmdline")) and
      File.read!("/proc/#{os_pid}/cmdline") =~ "executor"
  rescue
    File.Error -> false
  end

  defp sqrt(pool, opts \\ []), do: SnakeBridge.call("math", "sqrt", [4], [pool: pool] ++ opts)

  @tag options: [python: "/nonexistent/python"]
  test "a missing Python is named, with the remedy", %{pool: pool} do
    assert {:error, %Error{category: :worker_start, message: message}} = sqrt(pool)
    assert message =~ "/nonexistent/python"
    assert message =~ "config :snakebridge"
  end

  @tag options: [python: "/bin/false"]
  test "a Python that ends at once is named with its status", %{pool: pool} do
    assert {:error, %Error{category: :worker_start, message: message}} = sqrt(pool)
    assert message =~ "/bin/false"
    assert message =~ "status 1"
  end

  test "a Python without our package says so and how to install it" do
    # An isolated interpreter: the working directory, where the package lies, is not on its path.
    python = script("cd / && exec #{System.find_executable("python3")} -I \"$@\"")
    start_supervised!({Pool, name: :bare, size: 1, python: python}, id: :bare)
    assert {:error, %Error{category: :worker_start, message: message}} = sqrt(:bare)
    assert message =~ "bridge_adapter"
    assert message =~ "pip install"
  end

  test "a Python that never becomes ready is given up on" do
    start_supervised!({Pool, name: :silent, size: 1, python: script("exec sleep 60"), start_timeout: 300},
      id: :silent
    )

    assert {:error, %Error{category: :worker_start, message: message}} = sqrt(:silent)
    assert message =~ "start timeout"
  end

  @tag options: [max_connections: 2]
  test "callers wait when all connections are in use, and their timeout counts", %{pool: pool} do
    {:ok, 2.0} = sqrt(pool)
    [{_, :ready, worker}] = :ets.lookup(:snakebridge_workers, {pool, 1})
    me = self()
    hold = fn -> send(me, {:in, self()}) && receive(do: (:go -> :done)) end
    tasks = for _ <- 1..6, do: Task.async(fn -> SnakeBridge.call("sample", "apply", [hold], pool: pool) end)
    assert eventually(fn -> :atomics.get(worker.counts, 2) == 4 end)
    assert {:error, %Error{category: :timeout}} = sqrt(pool, __runtime__: [timeout: 100])

    for _ <- tasks do
      assert_receive {:in, pid}
      send(pid, :go)
    end

    assert Enum.all?(Task.await_many(tasks, 60_000), &(&1 == {:ok, :done}))
    assert {:ok, 2.0} = sqrt(pool)
  end

  test "the wrong token is refused, and garbage harms nobody", %{pool: pool} do
    assert {:ok, 2.0} = sqrt(pool)
    [{_, :ready, worker}] = :ets.lookup(:snakebridge_workers, {pool, 1})
    assert {:error, %Error{category: :unauthorized}} = Connection.open(worker.address, "guess", :call)
    "unix:" <> path = worker.address

    for garbage <- ["GET / HTTP/1.1\r\n\r\n", <<255, 255, 255, 255, 1>>, :crypto.strong_rand_bytes(200)] do
      {:ok, socket} = :gen_tcp.connect({:local, path}, 0, [:binary, active: false])
      :gen_tcp.send(socket, garbage)
      :gen_tcp.close(socket)
    end

    assert {:ok, 2.0} = sqrt(pool)
  end

  test "the socket lies in a private directory that goes with the pool", %{pool: pool} do
    assert {:ok, 2.0} = sqrt(pool)
    [{_, :ready, %{address: "unix:" <> path, os_pid: os_pid}}] = :ets.lookup(:snakebridge_workers, {pool, 1})
    assert Bitwise.band(File.stat!(Path.dirname(path)).mode, 0o777) == 0o700
    assert Bitwise.band(File.stat!(path).mode, 0o777) == 0o600
    stop_supervised!({Pool, pool})
    refute File.exists?(Path.dirname(path))
    # The kernel takes its time to end what was killed.
    assert eventually(fn -> not executor?(os_pid) end)
  end

  test "a message over the limit is refused before it is sent", %{pool: pool} do
    assert {:ok, _} = sqrt(pool)
    parts = List.duplicate(SnakeBridge.bytes(:binary.copy("x", 27_000_000)), 10)

    assert {:error, %Error{category: :limit_exceeded, message: message}} =
             SnakeBridge.call("sample", "identity", [parts], pool: pool)

    assert message =~ "max_frame"
    assert {:ok, 2.0} = sqrt(pool)
  end

  test "what is no lane message is an error" do
    {:ok, body} = SnakeBridge.Codec.Packed.encode(%{"no" => "message"})

    assert {:error, %Error{category: :protocol_error}} =
             Lane.parse(IO.iodata_to_binary(body), Lane.options([]))
  end

  test "info tells what the workers are", %{pool: pool} do
    assert {:ok, 2.0} = sqrt(pool)
    assert [%{index: 1, status: :ready, os_pid: pid, sessions: 1}] = Pool.info(pool)
    assert is_integer(pid)
  end

  test "a session that several end at once is taken off its worker once", %{pool: pool} do
    sessions = for _ <- 1..10, do: SnakeBridge.create_session!(pool: pool)
    for session <- sessions, do: SnakeBridge.in_session(session, fn -> {:ok, 2.0} = sqrt(pool) end)
    assert [%{sessions: 10}] = Pool.info(pool)
    kept = List.last(sessions)

    for session <- sessions -- [kept], _ <- 1..4 do
      Task.async(fn -> SnakeBridge.close_session(session) end)
    end
    |> Task.await_many(60_000)

    # Those that end the sessions of the tasks are at it still.
    assert eventually(fn -> match?([%{sessions: 1}], Pool.info(pool)) end)
  end
end
