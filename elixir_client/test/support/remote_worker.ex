defmodule SnakeBridge.Test.RemoteWorker do
  @moduledoc "Executors that nobody's pool has started, certificates for both sides, and a network between them that can be cut."

  alias SnakeBridge.Test.Processes

  @token "the token of a remote worker"
  @key [key: {:namedCurve, :secp256r1}, digest: :sha256]

  @doc "A token that is long enough."
  def token, do: @token

  @doc """
  Certificates in a directory of their own: of the server (for 127.0.0.1 and localhost, or expired), of a client, and of their two authorities,
  as paths.
  """
  @spec certificates(keyword()) :: map()
  def certificates(options \\ []) do
    directory = Path.join(System.tmp_dir!(), "remote-#{System.pid()}-#{System.unique_integer([:positive])}")

    File.mkdir_p!(directory)
    File.chmod!(directory, 0o700)
    {:ok, address} = :inet.parse_address('127.0.0.1')

    names =
      {:Extension, {2, 5, 29, 17}, false,
       [{:iPAddress, address |> Tuple.to_list() |> :binary.list_to_bin()}, {:dNSName, 'localhost'}]}

    today = Date.utc_today()
    until = if options[:expired], do: -1, else: 2
    validity = {:validity, {Date.to_erl(Date.add(today, -3)), Date.to_erl(Date.add(today, until))}}
    plain = %{root: @key, intermediates: [], peer: @key}

    made =
      :public_key.pkix_test_data(%{
        server_chain: %{plain | peer: @key ++ [{:extensions, [names]}, validity]},
        client_chain: plain
      })

    %{directory: directory}
    |> Map.merge(written(directory, "server", made.server_config))
    |> Map.merge(written(directory, "client", made.client_config))
  end

  # Each side's `cacerts` are whom it trusts.
  defp written(directory, side, config) do
    {kind, key} = key(config[:key])

    for {name, entries} <- [
          cert: [{:Certificate, config[:cert], :not_encrypted}],
          key: [{kind, key, :not_encrypted}],
          ca: for(der <- config[:cacerts], do: {:Certificate, der, :not_encrypted})
        ],
        into: %{} do
      path = Path.join(directory, "#{side}-#{name}.pem")
      File.write!(path, :public_key.pem_encode(entries))
      File.chmod!(path, 0o600)
      {:"#{side}_#{name}", path}
    end
  end

  defp key({kind, der}) when is_binary(der), do: {kind, der}
  defp key(record), do: {elem(record, 0), :public_key.der_encode(elem(record, 0), record)}

  @doc "Starts an executor that listens there; `%{pid:, port:, address:}` when it is ready. It ends with this BEAM, or with its Port."
  @spec start(String.t(), [String.t()], [{String.t(), String.t()}]) :: map()
  def start(listen, arguments, env \\ [{"SNAKEBRIDGE_TOKEN", @token}]) do
    python = System.get_env("SNAKEBRIDGE_PYTHON") || Path.expand(".venv/bin/python")
    env = [{"PYTHONPATH", Path.expand("tests/python")} | env]

    port =
      Port.open({:spawn_executable, python}, [
        :binary,
        :exit_status,
        :stderr_to_stdout,
        {:line, 8192},
        {:args, ["-m", "bridge_adapter.executor", "--listen", listen | arguments]},
        {:env, for({name, value} <- env, do: {to_charlist(name), to_charlist(value)})}
      ])

    ready(port, [])
  end

  defp ready(port, said) do
    receive do
      {^port, {:data, {:eol, "snakebridge-ready " <> ready}}} ->
        [_, address] = Regex.run(~r/"address": "([^"]+)"/, ready)
        [_, pid] = Regex.run(~r/"pid": (\d+)/, ready)
        %{port: port, pid: String.to_integer(pid), address: address}

      {^port, {:data, {_, line}}} ->
        ready(port, [line | said])

      {^port, {:exit_status, status}} ->
        raise "the executor ended with #{status}: #{said |> Enum.reverse() |> Enum.join("\n")}"
    after
      60_000 -> raise "the executor was not ready in time: #{inspect(said)}"
    end
  end

  @doc "Kills an executor, and waits until it is gone."
  @spec kill(map()) :: :ok
  def kill(%{pid: pid, port: port}) do
    Processes.kill(pid)
    receive(do: ({^port, {:exit_status, _}} -> :ok))
  end

  # --- a network that can be cut ---

  @doc "Passes connections on to an address; returns its own."
  @spec network(String.t()) :: {pid(), String.t()}
  def network(address) do
    [kind, host, port] = String.split(address, ":")

    {:ok, listener} =
      :gen_tcp.listen(0, [:binary, active: false, ip: {127, 0, 0, 1}, backlog: 64, reuseaddr: true])

    {:ok, own} = :inet.port(listener)
    there = {to_charlist(host), String.to_integer(port)}
    network = spawn_link(fn -> pass(listener, there, []) end)
    :ok = :gen_tcp.controlling_process(listener, network)
    {network, "#{kind}:#{host}:#{own}"}
  end

  @doc "Breaks every connection that is open."
  @spec cut(pid()) :: :ok
  def cut(network) do
    send(network, {:cut, self()})
    receive(do: (:cut -> :ok))
  end

  defp pass(listener, {host, port} = there, open) do
    receive do
      {:cut, from} ->
        for socket <- open, do: :gen_tcp.close(socket)
        send(from, :cut)
        pass(listener, there, [])
    after
      0 -> :ok
    end

    case :gen_tcp.accept(listener, 10) do
      {:ok, here} ->
        case :gen_tcp.connect(host, port, [:binary, active: false]) do
          {:ok, far} ->
            for {from, to} <- [{here, far}, {far, here}], do: spawn_link(fn -> copy(from, to) end)
            pass(listener, there, [here, far | open])

          {:error, _} ->
            :gen_tcp.close(here)
            pass(listener, there, open)
        end

      {:error, :timeout} ->
        pass(listener, there, open)
    end
  end

  defp copy(from, to) do
    with {:ok, bytes} <- :gen_tcp.recv(from, 0), :ok <- :gen_tcp.send(to, bytes) do
      copy(from, to)
    else
      _ -> for socket <- [from, to], do: :gen_tcp.close(socket)
    end
  end
end
