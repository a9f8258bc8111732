if Code.ensure_loaded?(Snakepit.Adapter) do
  defmodule SnakeBridge.SnakepitAdapter do
    @moduledoc """
    Lets Snakepit start the gateway of `bridge_adapter` instead of its own Python worker (docs/snakepit.md):

        config :snakepit, adapter_module: SnakeBridge.SnakepitAdapter

    Snakepit's gRPC adapter still speaks to the worker: the gateway serves the same contract. Only which program is started is decided here.
    This file needs nothing but Snakepit: a project that has another package named `:snakebridge` copies it into its `lib/`.

    ## Settings, all optional

        config :snakebridge,
          python: "/opt/venv/bin/python",             # else SNAKEBRIDGE_PYTHON, .venv/bin/python, python3
          snakepit_script: "/opt/x/grpc_server.py",   # else that Python is asked where its bridge_adapter lies
          snakepit_args: ["--max-connections", "8"]   # further flags of the gateway (docs/gateway.md)
    """

    # Without @impl: which of these functions are callbacks differs between versions of Snakepit.
    @behaviour Snakepit.Adapter

    alias Snakepit.Adapters.GRPCPython

    # Does not import the package: Snakepit asks often, and starting Python is all that this may cost.
    @locate """
    import importlib.util, os
    spec = importlib.util.find_spec("bridge_adapter")
    print(os.path.join(list(spec.submodule_search_locations)[0], "gateway", "grpc_server.py") if spec else "")
    """

    @doc "The Python that runs the gateway, as an absolute path. Raises when there is none."
    def executable_path do
      named = Application.get_env(:snakebridge, :python) || System.get_env("SNAKEBRIDGE_PYTHON")
      venv = Path.expand(".venv/bin/python")

      cond do
        named ->
          # A path is meant from here, as a shell reads it; a bare name is looked for in PATH.
          System.find_executable(if(named =~ "/", do: Path.expand(named), else: named)) ||
            raise("there is no executable #{named}; #{correct_python()}")

        File.exists?(venv) ->
          venv

        true ->
          System.find_executable("python3") || raise("no Python was found; #{correct_python()}")
      end
    end

    @doc "The script of the gateway. The answer of each Python is kept; raises when it has no `bridge_adapter`."
    def script_path do
      case Application.get_env(:snakebridge, :snakepit_script) do
        nil -> executable_path() |> remembered_script()
        script -> existing(script)
      end
    end

    def script_args,
      do: [
        "--adapter",
        "bridge_adapter.SnakeBridgeAdapter"
        | Application.get_env(:snakebridge, :snakepit_args, [])
      ]

    @doc "Snakepit's own default: how long a call may take is its setting, whatever runs it."
    def command_timeout(_command, _args), do: Application.get_env(:snakepit, :default_timeout, 300_000)

    @doc "0: every gateway takes a free port and tells it in the ready file."
    def get_port, do: 0

    def uses_grpc?, do: true

    defdelegate init_grpc_connection(port), to: GRPCPython

    defdelegate grpc_execute(connection, session_id, command, args, timeout, opts), to: GRPCPython

    defdelegate grpc_execute_stream(connection, session_id, command, args, callback, timeout, opts),
      to: GRPCPython

    defp remembered_script(python) do
      key = {__MODULE__, python}

      case :persistent_term.get(key, nil) do
        nil ->
          script = find_script(python)
          :persistent_term.put(key, script)
          script

        script ->
          script
      end
    end

    defp find_script(python) do
      # What Python prints by itself (warnings, .pth files) comes first; the path is the last line.
      {output, status} = System.cmd(python, ["-c", @locate], stderr_to_stdout: true)
      script = output |> String.split("\n", trim: true) |> List.last("")

      cond do
        status != 0 -> raise "#{python} ended with status #{status} and said: #{output}; #{correct_python()}"
        File.regular?(script) -> script
        true -> raise no_package(python)
      end
    end

    defp no_package(python) do
      "#{python} has no package bridge_adapter, and SnakeBridge.SnakepitAdapter starts the script that lies in it; " <>
        "run #{python} -m pip install bridge-adapter, or name a Python that has it: " <>
        ~s(config :snakebridge, python: "/path/to/venv/bin/python")
    end

    defp existing(script) do
      if File.regular?(script),
        do: script,
        else: raise("there is no file #{script}; correct config :snakebridge, snakepit_script: ...")
    end

    defp correct_python,
      do:
        ~s(set config :snakebridge, python: "/path/to/venv/bin/python" or SNAKEBRIDGE_PYTHON to one that works)
  end
end
