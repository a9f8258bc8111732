defmodule SnakeBridge.Lane.Transport do
  @moduledoc """
  How the bytes of a lane travel: over a unix socket, TCP, or TLS. A transport is a module with the functions of `:gen_tcp` (`:gen_tcp` and
  `:ssl` are); this one makes the connection, with the certificate of the other side verified unless somebody has said otherwise.
  """
  alias SnakeBridge.Error

  @connect_timeout 5_000
  # Closing waits for nothing: a worker that has stopped reading must not hold up who looks after a dead caller.
  @options [
    :binary,
    packet: 4,
    active: false,
    send_timeout: 60_000,
    send_timeout_close: true,
    linger: {true, 0}
  ]
  # A machine that has vanished is noticed after 15 + 3 * 5 s of silence, or when it has acknowledged nothing for as long as a send may take
  # (Linux: TCP_KEEPIDLE, _KEEPINTVL, _KEEPCNT, _USER_TIMEOUT).
  @keepalive [{4, 15}, {5, 5}, {6, 3}, {18, 60_000}]

  @type t :: :gen_tcp | :ssl
  @type socket :: :gen_tcp.socket() | :ssl.sslsocket()

  @doc """
  Connects to `unix:/path`, `tcp:host:port` or `tls:host:port`. Options, all of TLS: `:cacertfile` (default: the authorities of the system),
  `:certfile` and `:keyfile` (for a worker that asks for a certificate), `:server_name` (what its certificate must say; default: the host),
  `:verify`, and `:tls`, further options of `:ssl`.
  """
  @spec connect(String.t(), keyword()) :: {:ok, t(), socket()} | {:error, Error.t()}
  def connect(address, options \\ [])

  def connect("unix:" <> path = address, _),
    do: {:local, path} |> :gen_tcp.connect(0, @options, @connect_timeout) |> tagged(:gen_tcp, address)

  def connect("tcp:" <> _ = address, _) do
    {host, port} = place(address)
    host |> :gen_tcp.connect(port, network(host), @connect_timeout) |> tagged(:gen_tcp, address)
  end

  def connect("tls:" <> _ = address, options) do
    {host, port} = place(address)
    {:ok, _} = Application.ensure_all_started(:ssl)

    with {:ok, security} <- security(host, options) do
      host |> :ssl.connect(port, network(host) ++ security, @connect_timeout) |> tagged(:ssl, address)
    else
      {:error, why} -> {:error, untrusted(address, why)}
    end
  end

  defp tagged({:ok, socket}, transport, _), do: {:ok, transport, socket}

  defp tagged({:error, {kind, _} = reason}, _, address) when kind in [:tls_alert, :options],
    do: {:error, untrusted(address, describe(reason))}

  defp tagged({:error, reason}, _, address),
    do:
      {:error,
       Error.new(:unavailable, "cannot connect to the worker at #{address}: #{describe(reason)}", %{
         outcome: :not_started
       })}

  defp untrusted(address, why),
    do:
      Error.new(
        :unauthorized,
        "no trust between this node and the worker at #{address}: #{why} (docs/security.md says which certificates both sides need)",
        %{outcome: :not_started}
      )

  # --- addresses ---

  @doc "The host, as `:gen_tcp` takes it, and the port of an address of a network. Raises ArgumentError for anything else."
  @spec place(String.t()) :: {:inet.ip_address() | charlist(), :inet.port_number()}
  def place(<<kind::binary-size(3), ?:, rest::binary>> = address) when kind in ["tcp", "tls"] do
    with [_, host, port] <- Regex.run(~r/\A(\[[^\]]+\]|[^:\[\]]+):(\d{1,5})\z/, rest),
         port when port in 1..65_535 <- String.to_integer(port) do
      host = host |> String.trim_leading("[") |> String.trim_trailing("]") |> String.to_charlist()

      case :inet.parse_address(host) do
        {:ok, ip} -> {ip, port}
        {:error, _} -> {host, port}
      end
    else
      _ -> wrong(address)
    end
  end

  def place(address), do: wrong(address)

  defp wrong(address) do
    raise ArgumentError,
          "#{inspect(address)} is no address of a worker; one is tls:HOST:PORT, or tcp:HOST:PORT on this machine"
  end

  @doc "Whether an address stays on this machine, as far as it tells without asking a name server."
  @spec local?(String.t()) :: boolean()
  def local?(address) do
    case place(address) do
      {{127, _, _, _}, _} -> true
      {{0, 0, 0, 0, 0, 0, 0, 1}, _} -> true
      {host, _} -> host == 'localhost'
    end
  end

  # --- options ---

  defp network(host), do: family(host) ++ [{:nodelay, true}, {:keepalive, true} | keepalive()] ++ @options

  # A name that stands for addresses of IPv6 only.
  defp family(host) when is_list(host) do
    with {:error, _} <- :inet.getaddr(host, :inet), {:ok, _} <- :inet.getaddr(host, :inet6) do
      [:inet6]
    else
      _ -> []
    end
  end

  defp family(_), do: []

  defp keepalive do
    if :os.type() == {:unix, :linux},
      do: for({option, value} <- @keepalive, do: {:raw, 6, option, <<value::native-32>>}),
      else: []
  end

  defp security(host, options) do
    with :ok <- readable(options), {:ok, trust} <- trust(options) do
      name = if given = options[:server_name], do: String.to_charlist(given), else: host
      # An address is verified by itself; a name is also told to the server.
      named = if is_list(name), do: [server_name_indication: name], else: []

      defaults = [
        verify: Keyword.get(options, :verify, :verify_peer),
        depth: 4,
        versions: [:"tlsv1.3", :"tlsv1.2"],
        customize_hostname_check: [match_fun: :public_key.pkix_verify_hostname_match_fun(:https)],
        # What fails is told by whoever asked for the connection.
        log_level: :error
      ]

      own = for key <- [:certfile, :keyfile], path = options[key], do: {key, String.to_charlist(path)}
      {:ok, Keyword.merge(defaults ++ named ++ trust ++ own, Keyword.get(options, :tls, []))}
    end
  end

  # `:ssl` takes a file that is not there for one that was not named.
  defp readable(options) do
    Enum.find_value([:cacertfile, :certfile, :keyfile], :ok, fn key ->
      with path when is_binary(path) <- options[key],
           {:error, reason} <- File.open(path, [:read], fn _ -> :ok end) do
        {:error, "the file #{path}, its #{key}:, cannot be read: #{:file.format_error(reason)}"}
      else
        _ -> nil
      end
    end)
  end

  defp trust(options) do
    cond do
      options[:verify] == :verify_none or Keyword.has_key?(Keyword.get(options, :tls, []), :cacerts) ->
        {:ok, []}

      path = options[:cacertfile] ->
        {:ok, [cacertfile: String.to_charlist(path)]}

      true ->
        {:ok, [cacerts: :public_key.cacerts_get()]}
    end
  rescue
    _ -> {:error, "this system has no certificates of authorities; name the file of yours as cacertfile:"}
  end

  @doc "An error of either transport in words."
  @spec describe(term()) :: String.t()
  def describe({:tls_alert, {_, text}}) do
    text = to_string(text)

    if text =~ "hostname_check_failed",
      do:
        "its certificate is for another host (hostname_check_failed); server_name: names the host that it is for",
      # Behind the states and source lines of OTP.
      else: text |> String.split("Fatal - ") |> List.last() |> String.trim()
  end

  def describe({:options, reason}), do: "options that cannot be used: #{inspect(reason)}"
  def describe(:closed), do: "it closed the connection"
  def describe(:timeout), do: "nothing came in time"
  def describe(reason) when is_atom(reason), do: reason |> :inet.format_error() |> to_string()
  def describe(reason), do: reason |> :ssl.format_error() |> to_string()
end
