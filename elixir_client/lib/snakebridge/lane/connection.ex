defmodule SnakeBridge.Lane.Connection do
  @moduledoc """
  One socket to an executor: a struct, no process. Any process may use it, one at a time; whoever opened it hands the socket to a process
  that lives as long as the connection should (`give/2`).
  """
  alias SnakeBridge.{Error, Lane}

  @enforce_keys [:socket, :id]
  # `lease`: where and for whom a call connection of a pool is taken (`SnakeBridge.Pool.Slots`).
  defstruct [:socket, :id, :pid, :lease, max_frame: 0]

  @type t :: %__MODULE__{
          socket: :gen_tcp.socket(),
          id: pos_integer(),
          pid: pos_integer() | nil,
          max_frame: non_neg_integer(),
          lease: SnakeBridge.Pool.Slots.lease() | nil
        }

  @connect_timeout 5_000

  @doc """
  Connects to `unix:/path` or `tcp:host:port` and says hello as a `:call` or `:control` connection. `features`: what this side understands
  besides calls (docs/wire.md).
  """
  @spec open(String.t(), String.t(), :call | :control, [String.t()]) :: {:ok, t()} | {:error, Error.t()}
  def open(address, token, role, features \\ []) do
    with {:ok, socket} <- connect(address) do
      case hello(socket, token, role, features) do
        {:ok, welcome} ->
          {:ok,
           %__MODULE__{
             socket: socket,
             id: welcome["conn"],
             pid: welcome["pid"],
             max_frame: welcome["max_frame"]
           }}

        {:error, error} ->
          :gen_tcp.close(socket)
          {:error, error}
      end
    end
  end

  defp connect(address) do
    # Closing waits for nothing: a worker that has stopped reading must not hold up who looks after a dead caller.
    options = [
      :binary,
      packet: 4,
      active: false,
      send_timeout: 60_000,
      send_timeout_close: true,
      linger: {true, 0}
    ]

    result =
      case address do
        "unix:" <> path ->
          :gen_tcp.connect({:local, path}, 0, options, @connect_timeout)

        "tcp:" <> place ->
          [host, port] = String.split(place, ":")

          :gen_tcp.connect(
            String.to_charlist(host),
            String.to_integer(port),
            [{:nodelay, true} | options],
            @connect_timeout
          )
      end

    with {:error, reason} <- result do
      {:error, Error.new(:unavailable, "cannot connect to the worker at #{address}: #{describe(reason)}")}
    end
  end

  defp hello(socket, token, role, features) do
    params = %{
      "versions" => [Lane.version()],
      "token" => token,
      "role" => Atom.to_string(role),
      "client" => "elixir",
      "shared" => true,
      "features" => features
    }

    options = Lane.options([])
    {:ok, body} = Lane.request(0, "hello", params, options)

    with :ok <- :gen_tcp.send(socket, body),
         {:ok, answer} <- :gen_tcp.recv(socket, 0, @connect_timeout),
         {:ok, message} <- Lane.parse(answer, options) do
      case message do
        {:response, 0, nil, welcome} -> {:ok, welcome}
        {:response, 0, error, _} -> {:error, Error.from_wire(error)}
        _ -> {:error, Error.new(:protocol_error, "the worker answered hello with something else")}
      end
    else
      {:error, %Error{} = error} ->
        {:error, error}

      {:error, reason} ->
        {:error, Error.new(:unavailable, "the worker did not answer hello: #{describe(reason)}")}
    end
  end

  @doc "Sends one frame."
  @spec send(t(), iodata()) :: :ok | {:error, :closed | :inet.posix() | Error.t()}
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
      :gen_tcp.send(connection.socket, body)
    end
  end

  @doc "The next frame's body, after at most `timeout` milliseconds."
  @spec receive(t(), timeout()) :: {:ok, binary()} | {:error, :closed | :timeout | :inet.posix()}
  def receive(connection, timeout), do: :gen_tcp.recv(connection.socket, 0, timeout)

  @doc "Makes `owner` the process with whose end the socket closes."
  @spec give(t(), pid()) :: :ok | {:error, term()}
  def give(connection, owner), do: :gen_tcp.controlling_process(connection.socket, owner)

  @spec close(t()) :: :ok
  def close(connection), do: :gen_tcp.close(connection.socket)

  defp describe(:closed), do: "it closed the connection"
  defp describe(reason), do: reason |> :inet.format_error() |> to_string()
end
