defmodule SnakeBridge.Messages do
  @moduledoc "Messages that Python sends to processes of this node: `bridge_adapter.elixir.send(pid, message)` (docs/talking.md)."

  require Logger

  @doc """
  Sends a message from Python: to a pid, an alias, the name of a registered process (an atom, or its text: "my_server", "MyApp.Server"), or
  whatever tuple `GenServer.whereis/1` knows.
  """
  @spec deliver(term(), term()) :: :ok
  def deliver(to, message), do: deliver(to, message, &send/2)

  # What waits until this process can read it, latest first.
  @held :snakebridge_held

  @doc """
  The same, in a process that waits for the call which sends: it reads none of its own messages before it goes on, and every look at the socket
  passes over all that are in its mailbox. So these come together, by `hand_over/0`.
  """
  @spec deliver_in_call(term(), term()) :: :ok
  def deliver_in_call(to, message), do: deliver(to, message, &hold_or_send/2)

  defp hold_or_send(receiver, message) when receiver == self(),
    do: Process.put(@held, [message | Process.get(@held, [])])

  defp hold_or_send(receiver, message) do
    # An alias may be this process, too.
    if is_reference(receiver), do: hand_over()
    send(receiver, message)
  end

  @doc "Puts what the calling process was sent by its own call into its mailbox: before it goes on with code of its own."
  @spec hand_over() :: :ok
  def hand_over do
    case Process.delete(@held) do
      nil -> :ok
      held -> held |> Enum.reverse() |> Enum.each(&send(self(), &1))
    end
  end

  defp deliver(to, message, deliver) do
    case receiver(to) do
      nil -> Logger.warning("Python sent a message to #{inspect(to)}, and no process has that name")
      receiver -> deliver.(receiver, message)
    end

    :ok
  rescue
    error -> failed(to, Exception.message(error))
  catch
    # A registry that is asked for the name may be no more.
    kind, reason -> failed(to, Exception.format_banner(kind, reason))
  end

  defp failed(to, why),
    do: Logger.warning("Python sent a message to #{inspect(to)}, which failed: #{why}")

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
