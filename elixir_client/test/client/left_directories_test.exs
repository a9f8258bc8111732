defmodule SnakeBridge.LeftDirectoriesTest do
  # The private directories of executors that were killed together with their BEAM: the next pool removes them, and no others.
  use ExUnit.Case, async: false
  @moduletag capture_log: true

  import SnakeBridge.Test.{Eventually, OwnPool}

  alias SnakeBridge.Pool
  alias SnakeBridge.Pool.{Python, Slots}
  alias SnakeBridge.Shared.Keeper

  # Directories are swept where temporary files are. Of a worker of another pool that began here meanwhile, the directory would go, too.
  setup do
    assert eventually(fn -> Enum.all?(Pool.info(), &(&1.status == :ready)) end)
    before = System.get_env("TMPDIR")
    # Short: the path of a socket may have a hundred characters.
    base = Path.join(System.tmp_dir!(), "sweep-#{System.pid()}-#{System.unique_integer([:positive])}")
    File.mkdir!(base)
    System.put_env("TMPDIR", base)

    on_exit(fn ->
      if before, do: System.put_env("TMPDIR", before), else: System.delete_env("TMPDIR")

      for %{pool: :default, address: "unix:" <> socket} <- Slots.workers(),
          below?(socket, base),
          do: :ok = Pool.restart()

      File.rm_rf!(base)
    end)

    {:ok, base: base}
  end

  defp below?(path, base), do: String.starts_with?(path, base <> "/")

  defp directory(base, name) do
    path = Path.join(base, "snakebridge-pool-" <> name)
    File.mkdir!(path)
    path
  end

  # A directory with a socket at which somebody listens, or has listened.
  defp listening(base, name) do
    directory = directory(base, name)
    socket = Path.join(directory, "w.sock")
    {:ok, listener} = :gen_tcp.listen(0, [:binary, active: false, ifaddr: {:local, socket}])
    {directory, socket, listener}
  end

  defp socket(pool) do
    "unix:" <> socket = Enum.find(Slots.workers(), &(&1.pool == pool)).address
    socket
  end

  defp minutes_ago(path, minutes), do: File.touch!(path, System.os_time(:second) - 60 * minutes)

  test "what is swept: sockets at which nobody listens any more, and directories that never got one", %{
    base: base
  } do
    {dead, socket, listener} = listening(base, "dead")
    :gen_tcp.close(listener)
    minutes_ago(socket, 1)
    never = directory(base, "never")
    minutes_ago(never, 3)
    assert :ok = Python.sweep()
    assert File.ls!(base) == []
    refute File.exists?(dead) or File.exists?(never)
  end

  test "what is not: live sockets, young directories, links, files, and what has another name", %{base: base} do
    {live, socket, listener} = listening(base, "live")
    minutes_ago(socket, 60)
    # One that does not accept: its queue is full, or its process was stopped.
    clients = for _ <- 1..3, do: :gen_tcp.connect({:local, socket}, 0, [:binary, active: false], 100)
    {young, _, closed} = listening(base, "young")
    :gen_tcp.close(closed)
    starting = directory(base, "starting")
    target = Path.join(base, "target")
    File.mkdir!(target)
    minutes_ago(target, 60)
    link = Path.join(base, "snakebridge-pool-link")
    File.ln_s!(target, link)
    file = Path.join(base, "snakebridge-pool-file")
    File.write!(file, "")
    minutes_ago(file, 60)
    other = Path.join(base, "snakebridge-else")
    File.mkdir!(other)
    minutes_ago(other, 60)

    assert :ok = Python.sweep()
    for path <- [live, socket, young, starting, target, file, other], do: assert(File.exists?(path))
    assert {:ok, %{type: :symlink}} = File.lstat(link)
    for {:ok, client} <- clients, do: :gen_tcp.close(client)
    :gen_tcp.close(listener)
  end

  test "a pool that starts sweeps, and leaves the directories of the workers of others alone", %{base: base} do
    python = [size: 1, python: Path.expand(".venv/bin/python")]
    start_supervised!({Pool, [name: :sweep_first] ++ python}, id: :first)
    assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: :sweep_first)
    socket = socket(:sweep_first)
    assert below?(socket, base)
    minutes_ago(socket, 60)
    {dead, left, listener} = listening(base, "dead")
    :gen_tcp.close(listener)
    minutes_ago(left, 60)

    start_supervised!({Pool, [name: :sweep_next] ++ python}, id: :next)
    assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: :sweep_next)
    refute File.exists?(dead)
    assert File.exists?(socket)
    assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: :sweep_first)
    directories = for pool <- [:sweep_first, :sweep_next], do: Path.dirname(socket(pool))
    stop_supervised!(:first)
    stop_supervised!(:next)
    assert eventually(fn -> not Enum.any?(directories, &File.exists?/1) end)
  end

  test "a worker whose directory somebody has removed is replaced, and sessions that it holds go on" do
    pool = start_pool("removed", retry: false)
    assert {:ok, acc} = SnakeBridge.call("sample", "Acc", [1], pool: pool)
    [%{os_pid: first}] = Pool.info(pool)
    me = self()

    other =
      spawn(fn ->
        send(me, SnakeBridge.call("sample", "Acc", [1], pool: pool))
        receive(do: (:end -> :ok))
      end)

    assert_receive {:ok, _}
    File.rm_rf!(Path.dirname(socket(pool)))

    # The connection that there is does, as long as one is enough.
    assert {:ok, 2} = SnakeBridge.call(acc, :add, [1], pool: pool)
    wait = fn -> send(me, {:in, self()}) && receive(do: (:go -> :done)) end
    task = Task.async(fn -> SnakeBridge.call("sample", "apply", [wait], pool: pool) end)
    assert_receive {:in, holder}
    # That this session has ended, the old process can be told later only.
    send(other, :end)
    # In a session of its own, as each process has.
    getpid = fn ->
      Task.await(Task.async(fn -> SnakeBridge.call("os", "getpid", [], pool: pool) end), 60_000)
    end

    assert {:error, %SnakeBridge.Error{category: :worker_crash, outcome: :not_started} = error} = getpid.()
    assert error.message =~ "the Python worker was lost: cannot connect to the worker at unix:"
    assert eventually(fn -> match?({:ok, pid} when pid != first, getpid.()) end)
    send(holder, :go)
    assert {:ok, :done} = Task.await(task, 60_000)
    # Where the end of the other session is being told, there is no connection left.
    assert eventually(fn -> SnakeBridge.call(acc, :add, [1], pool: pool) == {:ok, 3} end)
    assert [%{leaving: [_]}] = Pool.info(pool)
    assert eventually(fn -> not match?({:error, _}, SnakeBridge.release_ref(acc)) end)
    assert eventually(fn -> match?([%{leaving: []}], Pool.info(pool)) end)
  end

  test "a process that cannot be started leaves no directory", %{base: base} do
    for {options, text} <- [
          {[cd: "/nonexistent"], "there is no directory /nonexistent"},
          {[policy: 17], "policy"}
        ] do
      assert {:error, message} = Python.open([python: Path.expand(".venv/bin/python")] ++ options)
      assert message =~ text
    end

    assert Path.wildcard(Path.join(base, "snakebridge-pool-*")) == []
  end

  test "a directory of shared memory that somebody has removed ends nothing" do
    keeper = Process.whereis(Keeper)
    directory = SnakeBridge.Shared.directory()
    File.rename!(directory, directory <> ".away")
    Keeper.worker_gone(1)
    assert %{directory: ^directory} = :sys.get_state(keeper)
    File.rename!(directory <> ".away", directory)
    assert Process.whereis(Keeper) == keeper
  end
end
