defmodule SnakeBridge.Pool.Resident do
  @moduledoc "The memory that a process of the operating system has in use."

  @doc "Its resident set in bytes; nil where that cannot be seen."
  @spec bytes(pos_integer() | nil) :: non_neg_integer() | nil
  def bytes(nil), do: nil

  def bytes(os_pid) do
    with {:ok, status} <- File.read("/proc/#{os_pid}/status"),
         [_, kilobytes] <- Regex.run(~r/^VmRSS:\s+(\d+) kB/m, status) do
      String.to_integer(kilobytes) * 1024
    else
      _ -> nil
    end
  end
end
