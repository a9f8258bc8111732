defmodule SnakeBridge.Lane.Connection do
  @moduledoc """
  One socket to an executor: a struct, no process. Any process may use it, one at a time; whoever opened it hands the socket to a process
  that lives as long as the connection should (`give/2`).
  """
  alias SnakeBridge.{Error, Lane}
  alias SnakeBridge.Lane.Transport

  @enforce_keys [:socket, :id]
  # `lease`: where and for whom a call connection of a pool is taken (`SnakeBridge.Pool.Slots`).
  # `instance`: which process answers there; another one knows nothing of what this one holds.
  defstruct [:socket, :id, :pid, :instance, :lease, transport: :gen_tcp, features: [], max_frame: 0]

  @type t :: %__MODULE__{
          socket: Transport.socket(),
          transport: Transport.t(),
          id: pos_integer(),
          pid: pos_integer() | nil,
          instance: String.t() | nil,
          features: [String.t()],
          max_frame: non_neg_integer(),
          lease: SnakeBridge.Pool.Slots.lease() | nil
        }

  @typedoc "The token itself, or a function that fetches it for each connection: what is not in a struct is in no log."
  @type token :: String.t() | (() -> String.t() | {:ok, String.t()} | {:error, String.t()})

  @hello_timeout 5_000

  @doc """
  Connects to an address and says hello as a `:call` or `:control` connection. `features`: what this side understands besides calls
  (docs/wire.md). Options: `:shared` (`false`: no shared memory), `:instance` (the process that must answer), and those of
  `SnakeBridge.Lane.Transport.connect/2`.
  """
  @spec open(String.t(), token(), :call | :control, [String.t()], keyword()) ::
          {:ok, t()} | {:error, Error.t()}
  def open(address, token, role, features \\ [], options \\ []) do
    with {:ok, token} <- fetch(token),
         {:ok, transport, socket} <- Transport.connect(address, options) do
      connection = %__MODULE__{socket: socket, transport: transport, id: 0}

      with {:ok, welcome} <- hello(connection, token, role, features, Keyword.get(options, :shared, true)),
           :ok <- expected(options[:instance], welcome["instance"], address) do
        {:ok,
         %{
           connection
           | id: welcome["conn"],
             pid: welcome["pid"],
             instance: welcome["instance"],
             features: welcome["features"],
             max_frame: welcome["max_frame"]
         }}
      else
        {:error, error} ->
          close(connection)
          {:error, error}
      end
    end
  end

  defp fetch(token) when is_binary(token), do: {:ok, token}

  defp fetch(token) do
    case token.() do
      token when is_binary(token) -> {:ok, token}
      {:ok, token} when is_binary(token) -> {:ok, token}
      {:error, text} -> {:error, Error.new(:unauthorized, "no token: #{text}", %{outcome: :not_started})}
    end
  end

  defp expected(nil, _, _), do: :ok
  defp expected(instance, instance, _), do: :ok

  defp expected(_, _, address),
    do: {:error, Error.new(:unavailable, "another process answers at #{address}", %{outcome: :not_started})}

  defp hello(connection, token, role, features, shared) do
    params = %{
      "versions" => [Lane.version()],
      "token" => token,
      "role" => Atom.to_string(role),
      "client" => "elixir",
      "shared" => shared,
      "features" => features
    }

    options = Lane.options([])
    {:ok, body} = Lane.request(0, "hello", params, options)

    with :ok <- connection.transport.send(connection.socket, body),
         {:ok, answer} <- receive(connection, @hello_timeout),
         {:ok, message} <- Lane.parse(answer, options) do
      case message do
        {:response, 0, nil, welcome} -> {:ok, welcome}
        {:response, 0, error, _} -> {:error, Error.from_wire(error)}
        _ -> {:error, Error.new(:protocol_error, "the worker answered hello with something else")}
      end
    else
      {:error, %Error{} = error} ->
        {:error, error}

      # With TLS 1.3 a client whose certificate is not accepted hears of it only now.
      {:error, {:tls_alert, _} = reason} ->
        {:error,
         Error.new(:unauthorized, "the worker does not trust this node: #{Transport.describe(reason)}", %{
           outcome: :not_started
         })}

      {:error, reason} ->
        {:error,
         Error.new(:unavailable, "the worker did not answer hello: #{Transport.describe(reason)}", %{
           outcome: :not_started
         })}
    end
  end

  @doc "Sends one frame."
  @spec send(t(), iodata()) :: :ok | {:error, term()}
  def send(%{max_frame: max} = connection, body) do
    # Small bodies are the rule; only large ones are worth measuring.
    size = IO.iodata_length(body)

    if size > max do
      {:error,
       Error.new(
         :limit_exceeded,
         "the message has #{size} bytes, more than max_frame = #{max}; send it in parts"
       )}
    else
      connection.transport.send(connection.socket, body)
    end
  end

  @doc "The next frame's body, after at most `timeout` milliseconds."
  @spec receive(t(), timeout()) :: {:ok, binary()} | {:error, :timeout | term()}
  def receive(connection, timeout), do: connection.transport.recv(connection.socket, 0, timeout)

  @doc "Makes `owner` the process with whose end the socket closes."
  @spec give(t(), pid()) :: :ok | {:error, term()}
  def give(connection, owner), do: connection.transport.controlling_process(connection.socket, owner)

  @spec close(t()) :: :ok
  def close(%{transport: :gen_tcp, socket: socket}), do: :gen_tcp.close(socket)

  # TLS says farewell, which a peer that has stopped reading would make us wait for.
  def close(%{transport: :ssl, socket: socket}) do
    spawn(fn -> :ssl.close(socket) end)
    :ok
  end

  @doc """
  Has frames sent to the process that owns the socket: as `{:tcp, socket, body}` or `{:ssl, socket, body}`, its end as `:tcp_closed` or
  `:ssl_closed`.
  """
  @spec activate(t()) :: :ok | {:error, term()}
  def activate(%{transport: :gen_tcp, socket: socket}), do: :inet.setopts(socket, active: true)
  def activate(%{transport: :ssl, socket: socket}), do: :ssl.setopts(socket, active: true)
end
