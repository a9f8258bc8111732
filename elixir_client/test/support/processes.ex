defmodule SnakeBridge.Test.Processes do
  @moduledoc "Processes of the operating system, by their pids."

  @spec kill(pos_integer()) :: :ok
  @doc "Ends a process with SIGKILL; it may have ended already."
  def kill(pid) when is_integer(pid) and pid > 1 do
    {_, 0} = System.cmd("/bin/sh", ["-c", "kill -s KILL #{pid} 2>/dev/null; true"])
    :ok
  end

  @spec running?(pos_integer()) :: boolean()
  @doc "False once it has ended with all its threads, which keep its sockets open; also while it is a zombie for which nobody has waited yet."
  def running?(pid) do
    with {:ok, stat} <- File.read("/proc/#{pid}/stat"), {:ok, threads} <- File.ls("/proc/#{pid}/task") do
      not (stat =~ ~r/\) Z /) or length(threads) > 1
    else
      {:error, _} -> false
    end
  end
end
