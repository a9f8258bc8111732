defmodule SnakeBridge.LeftDirectoriesTest do
  # The private directories of executors that were killed together with their BEAM: the next pool removes them, and no others.
  use ExUnit.Case, async: false
  @moduletag capture_log: true

  import SnakeBridge.Test.Eventually

  alias SnakeBridge.Pool
  alias SnakeBridge.Pool.{Python, Slots}
  alias SnakeBridge.Shared.Keeper

  # Directories are swept where temporary files are.
  setup do
    before = System.get_env("TMPDIR")
    # Short: the path of a socket may have a hundred characters.
    base = Path.join(System.tmp_dir!(), "sweep-#{System.pid()}-#{System.unique_integer([:positive])}")
    File.mkdir!(base)
    System.put_env("TMPDIR", base)

    on_exit(fn ->
      if before, do: System.put_env("TMPDIR", before), else: System.delete_env("TMPDIR")
      File.rm_rf!(base)
    end)

    {:ok, base: base}
  end

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
    "unix:" <> socket = Enum.find(Slots.workers(), &(&1.pool == :sweep_first)).address
    assert String.starts_with?(socket, base)
    minutes_ago(socket, 60)
    {dead, left, listener} = listening(base, "dead")
    :gen_tcp.close(listener)
    minutes_ago(left, 60)

    start_supervised!({Pool, [name: :sweep_next] ++ python}, id: :next)
    assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: :sweep_next)
    refute File.exists?(dead)
    assert File.exists?(socket)
    assert {:ok, 4.0} = SnakeBridge.call("math", "sqrt", [16], pool: :sweep_first)
    stop_supervised!(:first)
    stop_supervised!(:next)
    assert eventually(fn -> Path.wildcard(Path.join(base, "snakebridge-pool-*")) == [] end)
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
