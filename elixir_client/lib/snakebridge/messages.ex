defmodule SnakeBridge.Messages do
  @moduledoc "Messages that Python sends to processes of this node: `bridge_adapter.elixir.send(pid, message)` (docs/talking.md)."

  require Logger

  @doc """
  Sends a message from Python: to a pid, an alias, the name of a registered process (an atom, or its text: "my_server", "MyApp.Server"), or
  whatever tuple `GenServer.whereis/1` knows.
  """
  @spec deliver(term(), term()) :: :ok
  def deliver(to, message) do
    case receiver(to) do
      nil -> Logger.warning("Python sent a message to #{inspect(to)}, and no process has that name")
      receiver -> send(receiver, message)
    end

    :ok
  rescue
    error ->
      Logger.warning("Python sent a message to #{inspect(to)}, which failed: #{Exception.message(error)}")
      :ok
  end

  @doc "Says that a notification came which cannot be read."
  @spec unreadable(Exception.t()) :: :ok
  def unreadable(error),
    do: Logger.warning("Python sent something that cannot be read here: #{Exception.message(error)}")

  defp receiver(to) when is_pid(to) or is_reference(to), do: to
  defp receiver(name) when is_atom(name), do: Process.whereis(name)
  defp receiver(to) when is_tuple(to), do: GenServer.whereis(to)
  defp receiver(name) when is_binary(name), do: named(name) || named("Elixir." <> name)
  defp receiver(_), do: nil

  # No atom is made: a process that is registered has one.
  defp named(name) do
    name |> String.to_existing_atom() |> Process.whereis()
  rescue
    ArgumentError -> nil
  end
end
