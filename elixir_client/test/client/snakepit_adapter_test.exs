defmodule SnakeBridge.SnakepitAdapterTest do
  # Snakepit is not a dependency. Its two modules that the adapter is compiled against are stood in for by small ones of the same shape, the
  # script is the real one: started the way Snakepit starts it, with what the adapter says.
  use ExUnit.Case, async: false

  import SnakeBridge.Test.Eventually
  import SnakeBridge.Test.Processes

  @source Path.expand("../../lib/snakebridge/snakepit_adapter.ex", __DIR__)
  @adapter SnakeBridge.SnakepitAdapter
  @compile {:no_warn_undefined, @adapter}
  @settings [:python, :snakepit_script, :snakepit_args]
  @python System.get_env("SNAKEBRIDGE_PYTHON") || Path.expand(".venv/bin/python")

  @snakepit """
  defmodule Snakepit.Adapter do
    @callback executable_path() :: String.t()
    @callback script_path() :: String.t()
    @callback script_args() :: [String.t()]
    @callback command_timeout(String.t(), map()) :: pos_integer()
    @callback get_port() :: non_neg_integer()
    @callback uses_grpc?() :: boolean()
    @callback init_grpc_connection(port :: non_neg_integer()) :: {:ok, map()} | {:error, term()}
    @callback grpc_execute(map(), String.t(), String.t(), map(), timeout(), keyword()) :: {:ok, term()} | {:error, term()}
    @callback grpc_execute_stream(map(), String.t(), String.t(), map(), fun(), timeout(), keyword()) :: term()
    @optional_callbacks command_timeout: 2
  end

  defmodule Snakepit.Adapters.GRPCPython do
    def init_grpc_connection(port), do: {:ok, %{port: port}}
    def grpc_execute(connection, session, command, args, timeout, opts), do: {:ok, {connection, session, command, args, timeout, opts}}
    def grpc_execute_stream(connection, session, command, args, callback, timeout, opts), do: {connection, session, command, args, callback, timeout, opts}
  end
  """

  setup_all do
    modules = for {module, _} <- Code.compile_string(@snakepit), do: module
    compiled = for {module, _} <- Code.compile_file(@source), do: module
    assert compiled == [@adapter]

    on_exit(fn ->
      for module <- [@adapter | modules] do
        :code.purge(module)
        :code.delete(module)
      end
    end)
  end

  setup do
    before = for key <- @settings, do: {key, Application.fetch_env(:snakebridge, key)}

    on_exit(fn ->
      for {key, value} <- before do
        case value do
          {:ok, value} -> Application.put_env(:snakebridge, key, value)
          :error -> Application.delete_env(:snakebridge, key)
        end
      end
    end)

    Application.put_env(:snakebridge, :python, @python)
  end

  test "without Snakepit there is no such module" do
    beams = Path.wildcard(Path.join(:code.lib_dir(:snakebridge, :ebin), "*SnakepitAdapter.beam"))
    assert beams == []
  end

  test "Snakepit learns what to start: this Python, the gateway's script, the adapter and flags of one's own" do
    Application.put_env(:snakebridge, :snakepit_args, ["--max-connections", "8"])
    assert @adapter.executable_path() == @python
    # A path is meant from here.
    Application.put_env(:snakebridge, :python, Path.relative_to_cwd(@python))
    assert @adapter.executable_path() == @python
    assert Path.basename(@adapter.script_path()) == "grpc_server.py"
    assert File.regular?(@adapter.script_path())

    assert @adapter.script_args() == [
             "--adapter",
             "bridge_adapter.SnakeBridgeAdapter",
             "--max-connections",
             "8"
           ]

    assert @adapter.get_port() == 0
    assert @adapter.uses_grpc?()
    assert @adapter.command_timeout("snakebridge.call", %{}) == 300_000
  end

  test "calls, streams and connections stay those of Snakepit's gRPC adapter" do
    assert @adapter.init_grpc_connection(50_051) == {:ok, %{port: 50_051}}

    assert @adapter.grpc_execute(%{}, "s", "snakebridge.call", %{"a" => 1}, 5_000, timeout: 1) ==
             {:ok, {%{}, "s", "snakebridge.call", %{"a" => 1}, 5_000, [timeout: 1]}}

    callback = fn _ -> :ok end

    assert @adapter.grpc_execute_stream(%{}, "s", "snakebridge.stream", %{}, callback, 5_000, []) ==
             {%{}, "s", "snakebridge.stream", %{}, callback, 5_000, []}
  end

  test "a Python without bridge_adapter is named, with what to do" do
    directory = tmp_dir()
    bare = Path.join(directory, "bare-python")
    # -I -S: the standard library and nothing else.
    File.write!(bare, "#!/bin/sh\nexec #{@python} -I -S \"$@\"\n")
    File.chmod!(bare, 0o755)
    Application.put_env(:snakebridge, :python, bare)
    error = assert_raise RuntimeError, fn -> @adapter.script_path() end
    assert error.message =~ "#{bare} has no package bridge_adapter"
    assert error.message =~ "#{bare} -m pip install bridge-adapter"
    assert error.message =~ "config :snakebridge, python:"
  end

  test "a Python that is not there, one that fails and a script that is not there are named too" do
    Application.put_env(:snakebridge, :python, "/nowhere/python")

    assert_raise RuntimeError, ~r{no executable /nowhere/python; set config}, fn ->
      @adapter.executable_path()
    end

    Application.put_env(:snakebridge, :python, System.find_executable("false"))
    assert_raise RuntimeError, ~r/false ended with status 1/, fn -> @adapter.script_path() end
    Application.put_env(:snakebridge, :snakepit_script, "/nowhere/grpc_server.py")

    assert_raise RuntimeError, ~r{no file /nowhere/grpc_server.py; correct config}, fn ->
      @adapter.script_path()
    end
  end

  test "the script starts with it, says its port in the ready file, and ends when its stdin does" do
    directory = tmp_dir()
    ready = Path.join(directory, "snakepit_ready")

    flags = [
      "--port",
      "0",
      "--elixir-address",
      "127.0.0.1:#{unused_port()}",
      "--snakepit-run-id",
      "abc1234"
    ]

    port =
      Port.open({:spawn_executable, @adapter.executable_path()}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        {:args, [@adapter.script_path() | @adapter.script_args()] ++ flags},
        {:cd, Path.dirname(@adapter.script_path())},
        {:env, [{'SNAKEPIT_READY_FILE', to_charlist(ready)}, {'SNAKEPIT_PROCESS_GROUP', '1'}]}
      ])

    {:os_pid, pid} = Port.info(port, :os_pid)
    on_exit(fn -> kill(pid) end)
    assert eventually(fn -> File.exists?(ready) or Port.info(port) == nil end)
    {number, ""} = ready |> File.read!() |> Integer.parse()
    assert {:ok, socket} = :gen_tcp.connect('127.0.0.1', number, [])
    :gen_tcp.close(socket)
    [executor] = File.read!("/proc/#{pid}/task/#{pid}/children") |> String.split()
    Port.close(port)
    assert eventually(fn -> not running?(pid) and not running?(executor) end)
  end

  defp tmp_dir do
    path = Path.join(System.tmp_dir!(), "snakepit-adapter-#{System.unique_integer([:positive])}")
    File.mkdir_p!(path)
    on_exit(fn -> File.rm_rf!(path) end)
    path
  end

  defp unused_port do
    {:ok, socket} = :gen_tcp.listen(0, [])
    {:ok, port} = :inet.port(socket)
    :gen_tcp.close(socket)
    port
  end
end
