defmodule SnakeBridge.Pool.Python do
  @moduledoc "Finds Python and starts an executor: a Port, a private directory with its socket, a token that only it and we know."

  import Bitwise

  alias SnakeBridge.Lane.Connection
  alias SnakeBridge.Pool.{Journal, Policy}
  alias SnakeBridge.{Lane, Reload, Shared}

  @warm_up 5_000

  @doc "The options with the environment in a function: supervisors and crash reports print what they start processes with."
  @spec out_of_sight(keyword()) :: keyword()
  def out_of_sight(options) do
    case options[:env] do
      [_ | _] = env -> Keyword.put(options, :env, fn -> env end)
      _ -> options
    end
  end

  @doc "The option `:env`, out of its function."
  @spec environment(keyword()) :: [{String.t() | charlist(), String.t() | charlist() | false}]
  def environment(options) do
    case Keyword.get(options, :env, []) do
      env when is_function(env, 0) -> env.()
      env -> env
    end
  end

  @doc "Starts an executor; it is ready when it has said so."
  @spec open(keyword()) :: {:ok, map()} | {:error, String.t()}
  def open(options) do
    with {:ok, python} <- executable(options),
         {:ok, place} <- place(options),
         # Before there is a directory that nobody would remove: what is wrong in them raises.
         arguments = arguments(options),
         {:ok, directory} <- private_directory() do
      token = Base.url_encode64(:crypto.strong_rand_bytes(24))
      address = "unix:" <> Path.join(directory, "w.sock")

      env =
        for {name, value} <- [{"SNAKEBRIDGE_TOKEN", token} | room(options)] ++ environment(options),
            do: variable(name, value)

      port =
        Port.open({:spawn_executable, python}, [
          :binary,
          :exit_status,
          :stderr_to_stdout,
          :hide,
          {:line, 8192},
          {:args, ["-m", "bridge_adapter.executor", "--private-directory", "--listen", address | arguments]},
          {:env, env},
          {:cd, place}
        ])

      os_pid =
        case Port.info(port, :os_pid) do
          {:os_pid, pid} -> pid
          nil -> nil
        end

      # In a function: crash reports print the state of processes, and not what a function has seen.
      {:ok, %{port: port, os_pid: os_pid, directory: directory, address: address, token: fn -> token end}}
    end
  rescue
    error -> {:error, "Python cannot be started: #{Exception.message(error)}"}
  end

  # What an executor admits by itself (512) has to hold the calls, control, and a few that are closing.
  defp room(options) do
    case Keyword.get(options, :max_connections, 64) + 64 do
      most when most > 512 -> [{"BRIDGE_ADAPTER_MAX_CONNECTIONS", most}]
      _ -> []
    end
  end

  defp place(options) do
    place = Keyword.get_lazy(options, :cd, &File.cwd!/0)

    if File.dir?(place),
      do: {:ok, place},
      else: {:error, "there is no directory #{place}; correct cd: of the pool"}
  end

  defp arguments(options) do
    shared(options) ++
      Enum.flat_map(Keyword.get(options, :preload, []), &["--preload", &1]) ++
      Policy.arguments(options) ++
      Journal.arguments(options) ++ Enum.flat_map(Reload.watched(options), &["--watch", &1])
  end

  @doc """
  Makes an executor that has just started import now what it would import for its first call: whoever waits for a spare, or for the process that
  replaces another, does not wait for that. Whether it went well is seen when the worker is used.
  """
  @spec warm_up(map()) :: :ok
  def warm_up(%{address: address, token: token}) do
    with {:ok, connection} <- Connection.open(address, token, :call) do
      payload = SnakeBridge.Payload.release_session("warm-up")
      params = %{"tool" => "snakebridge.release_session", "payload" => payload, "timeout_ms" => @warm_up}

      with {:ok, body} <- Lane.request(1, "call", params, Lane.options([])),
           :ok <- Connection.send(connection, body),
           do: Connection.receive(connection, @warm_up)

      Connection.close(connection)
    end

    :ok
  end

  defp shared(options) do
    directory = Shared.directory()
    if directory && Keyword.get(options, :shared, true), do: ["--shared", directory], else: []
  end

  defp variable(name, nil), do: {to_charlist(to_string(name)), false}
  defp variable(name, value), do: {to_charlist(to_string(name)), to_charlist(to_string(value))}

  @doc "The Python to use: option, SNAKEBRIDGE_PYTHON, .venv of the current directory, python3."
  @spec executable(keyword()) :: {:ok, String.t()} | {:error, String.t()}
  def executable(options) do
    named = Keyword.get(options, :python) || System.get_env("SNAKEBRIDGE_PYTHON")
    named = named && whole(named)
    venv = Path.expand(".venv/bin/python")

    cond do
      named && System.find_executable(named) ->
        {:ok, System.find_executable(named)}

      named ->
        {:error,
         "there is no executable #{named}; correct config :snakebridge, pools: [default: [python: ...]] or SNAKEBRIDGE_PYTHON"}

      File.exists?(venv) ->
        {:ok, venv}

      python = System.find_executable("python3") ->
        {:ok, python}

      true ->
        {:error,
         "no Python found; install Python 3.11 or newer, or set config :snakebridge, pools: [default: [python: ...]]"}
    end
  end

  # A path is meant from here, as a shell reads it; a bare name is looked for in PATH.
  defp whole(name), do: if(name =~ "/", do: Path.expand(name), else: name)

  defp private_directory do
    path =
      Path.join(
        System.tmp_dir!(),
        "snakebridge-pool-" <> Base.encode16(:crypto.strong_rand_bytes(8), case: :lower)
      )

    with :ok <- File.mkdir(path),
         :ok <- File.chmod(path, 0o700),
         {:ok, stat} <- File.stat(path),
         0o700 <- stat.mode &&& 0o777 do
      {:ok, path}
    else
      other ->
        {:error,
         "cannot make the private directory #{path}: #{inspect(other)}; set TMPDIR to a directory you may write to"}
    end
  end

  @doc "Removes the directories of executors that were killed together with their BEAM, so that nobody was left to do it."
  @spec sweep() :: :ok
  def sweep do
    with {:ok, own} <- private_directory(), {:ok, %{uid: me}} <- File.lstat(own) do
      for directory <- Path.wildcard(Path.join(System.tmp_dir!(), "snakebridge-pool-*")),
          directory != own,
          # What somebody else has put there is not ours to follow or to remove.
          match?({:ok, %{type: :directory, uid: ^me}}, File.lstat(directory)),
          abandoned?(directory),
          do: File.rm_rf(directory)

      File.rmdir(own)
    end

    :ok
  end

  # Nobody listens; or there is no socket yet, and the executor that should have made one is long overdue.
  defp abandoned?(directory) do
    socket = Path.join(directory, "w.sock")

    cond do
      older?(socket, 10) -> refused?(socket)
      File.exists?(socket) -> false
      true -> older?(directory, 120)
    end
  end

  defp refused?(socket) do
    case :gen_tcp.connect({:local, socket}, 0, [active: false], 100) do
      {:ok, connection} -> :gen_tcp.close(connection) != :ok
      {:error, reason} -> reason == :econnrefused
    end
  end

  defp older?(path, seconds) do
    case File.stat(path, time: :posix) do
      {:ok, stat} -> System.os_time(:second) - stat.mtime > seconds
      {:error, _} -> false
    end
  end

  @doc "Whether an executor's socket is where it was made: who removes old files from where temporary ones are may have removed it."
  @spec reachable?(map()) :: boolean()
  def reachable?(%{address: "unix:" <> socket}), do: match?({:ok, _}, File.lstat(socket))

  @doc "Removes an executor's directory."
  @spec cleanup(String.t() | nil) :: :ok
  def cleanup(nil), do: :ok

  def cleanup(directory) do
    File.rm_rf(directory)
    :ok
  end

  @doc "Kills a Python process, and what user code started: it lives in its process group."
  @spec kill(pos_integer() | nil) :: :ok
  def kill(nil), do: :ok

  # The shell's own kill, on purpose: the kill program of procps-ng 4.0.2 (Debian 12) reads "-1234" as "-1", every process there is.
  def kill(os_pid) when is_integer(os_pid) and os_pid > 1 do
    System.cmd("/bin/sh", ["-c", "kill -s KILL -- -#{os_pid} #{os_pid} 2>/dev/null; true"])
    :ok
  end
end
