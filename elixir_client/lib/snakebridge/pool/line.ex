defmodule SnakeBridge.Pool.Line do
  @moduledoc """
  The way to a worker on another machine: a process that finds out who answers there and opens the control connection, so that a machine that does not
  answer holds up nobody else.

  The process that started it hears `{:reached, line, facts}`, which it answers with `{:begin, worker}`, then `{:controlled, line, control}`, and the
  end of the line when the connection ends; or `{:unreachable, line, error}`.
  """
  alias SnakeBridge.Lane.Connection
  alias SnakeBridge.Pool.{Control, Heartbeat, Places}

  @doc "Starts a line to a place, linked to the calling process."
  @spec start_link(Places.t(), Heartbeat.t() | nil) :: pid()
  def start_link(place, heartbeat) do
    remote = self()
    spawn_link(fn -> line(remote, place, heartbeat) end)
  end

  defp line(remote, place, heartbeat) do
    with {:ok, facts} <- ask(place),
         :ok <- tell(remote, {:reached, self(), facts}),
         worker = receive(do: ({:begin, worker} -> worker)),
         {:ok, control} <- Control.start_link(worker, heartbeat) do
      # Control ends normally when its connection does, which a link alone does not tell.
      monitor = Process.monitor(control)
      tell(remote, {:controlled, self(), control})
      receive(do: ({:DOWN, ^monitor, _, _, reason} -> exit({:shutdown, reason})))
    else
      {:error, error} -> tell(remote, {:unreachable, self(), error})
    end
  end

  # Which process answers there, and what it can do. Not as control connection: Python would call functions over that.
  defp ask(place) do
    with {:ok, connection} <- Connection.open(place.address, place.token, :call, [], place.connect) do
      Connection.close(connection)
      {:ok, Map.take(connection, [:instance, :features])}
    end
  end

  defp tell(pid, message) do
    send(pid, message)
    :ok
  end
end
