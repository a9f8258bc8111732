defmodule SnakeBridge.OrphansTest do
  # Whatever dies, and in which order, no Python process stays behind. Processes are killed by their exact pid, by the shell's own kill.
  use ExUnit.Case, async: false

  import SnakeBridge.Test.{Eventually, Processes}

  @script """
  {:ok, _} = SnakeBridge.Pool.start_link(name: :orphans, size: 2)
  ready = fn ready ->
    unless Enum.all?(SnakeBridge.Pool.info(:orphans), & &1.status == :ready), do: Process.sleep(10) && ready.(ready)
  end
  ready.(ready)
  pids = Enum.map_join(SnakeBridge.Pool.info(:orphans), " ", &to_string(&1.os_pid))
  IO.puts("pids " <> System.pid() <> " " <> pids)
  Process.sleep(:infinity)
  """

  defp beam do
    paths = Enum.flat_map(["snakebridge"], &["-pa", to_string(:code.lib_dir(String.to_atom(&1), :ebin))])
    script = Path.join(System.tmp_dir!(), "orphans-#{System.unique_integer([:positive])}.exs")

    File.write!(
      script,
      "Application.put_env(:snakebridge, :autostart, false)\n{:ok, _} = Application.ensure_all_started(:snakebridge)\n" <>
        @script
    )

    on_exit(fn -> File.rm(script) end)

    Port.open({:spawn_executable, System.find_executable("elixir")}, [
      :binary,
      :exit_status,
      :stderr_to_stdout,
      {:line, 4096},
      {:args, paths ++ [script]},
      {:env, [{'SNAKEBRIDGE_PYTHON', String.to_charlist(Path.expand(".venv/bin/python"))}]}
    ])
  end

  defp pids(port) do
    receive do
      {^port, {:data, {:eol, "pids " <> pids}}} ->
        [beam | _] = pids = pids |> String.split() |> Enum.map(&String.to_integer/1)
        # A test that fails leaves nothing behind either.
        on_exit(fn -> kill(beam) end)
        pids

      {^port, {:data, _}} ->
        pids(port)

      {^port, {:exit_status, status}} ->
        flunk("the child ended with status #{status}")
    after
      60_000 -> flunk("the child did not start")
    end
  end

  defp gone?(pids), do: eventually(fn -> not Enum.any?(pids, &running?/1) end)

  test "killing the BEAM ends its workers" do
    [beam | workers] = pids(beam())
    kill(beam)
    assert gone?(workers)
  end

  test "killing a worker ends nothing else, and killing the rest afterwards leaves nothing" do
    [beam, one, two] = pids(beam())
    kill(one)
    assert gone?([one])
    assert running?(beam)
    assert running?(two)
    kill(two)
    kill(beam)
    assert gone?([one, two])
  end

  test "killing both at once leaves nothing" do
    [beam | workers] = pids(beam())
    Enum.each([beam | workers], &kill/1)
    assert gone?(workers)
  end

  test "killing the BEAM while its workers start leaves nothing" do
    for delay <- [300, 450, 600, 750] do
      port = beam()
      {:os_pid, pid} = Port.info(port, :os_pid)
      # Not a wait for anything: the moment of the kill is what the test varies.
      Process.sleep(delay)
      kill(pid)
      assert gone?([pid])
    end

    # Workers that lost their parent would be children of process 1 by now.
    assert eventually(fn -> not Enum.any?(executors(), &(parent(&1) == 1)) end)
  end

  defp executors do
    for "/proc/" <> rest = path <- Path.wildcard("/proc/[0-9]*"),
        {:ok, command} <- [File.read(Path.join(path, "cmdline"))],
        command =~ "bridge_adapter.executor" and command =~ "snakebridge-pool-",
        running?(rest),
        do: String.to_integer(rest)
  end

  defp parent(pid) do
    case File.read("/proc/#{pid}/stat") do
      {:ok, stat} ->
        stat |> String.split(") ") |> List.last() |> String.split() |> Enum.at(1) |> String.to_integer()

      {:error, _} ->
        0
    end
  end
end
