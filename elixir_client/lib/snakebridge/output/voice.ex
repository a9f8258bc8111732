defmodule SnakeBridge.Output.Voice do
  @moduledoc """
  Writes to group leaders without waiting for ever: one that does not answer must hold up neither a call beyond its timeout nor the threads of
  other callers. It is left alone for a while then, by the process that has tried; what it would have heard is dropped, and a warning says so.
  """
  require Logger

  # How long it may take for one text (of about 32 KiB at most), and how long it is left alone after that (ms).
  @patience 2_000
  @left_alone 30_000
  @deaf :snakebridge_deaf

  @doc "Writes text to a group leader or a registered device, on behalf of a process. Returns whatever becomes of it."
  @spec write(pid() | atom(), String.t(), pid()) :: :ok
  # It waits for the call, and cannot answer.
  def write(device, _, _) when device == self(), do: :ok

  def write(device, text, speaker) do
    if alone?(device), do: :ok, else: try_to_write(device, text, speaker)
  end

  defp try_to_write(device, text, speaker) do
    # In a process of its own, to which a late answer may come.
    {writer, monitor} = spawn_monitor(fn -> ask(device, text) end)

    receive do
      {:DOWN, ^monitor, :process, ^writer, {:shutdown, :deaf}} ->
        Process.put(@deaf, Map.put(Process.get(@deaf, %{}), device, now() + @left_alone))

        Logger.warning(
          "what Python prints for #{inspect(speaker)} is dropped (#{String.length(text)} characters, and what comes in the next " <>
            "#{div(@left_alone, 1000)} s): #{inspect(device)} does not answer"
        )

      {:DOWN, ^monitor, :process, ^writer, _} ->
        :ok
    end

    :ok
  end

  # As IO.write/2 does. What cannot be written, because the device has ended or has no such characters, fails nobody.
  defp ask(device, text) do
    monitor = Process.monitor(device)
    send(device, {:io_request, self(), monitor, {:put_chars, :unicode, text}})

    receive do
      {:io_reply, ^monitor, _} -> :ok
      {:DOWN, ^monitor, _, _, _} -> :ok
    after
      @patience -> exit({:shutdown, :deaf})
    end
  rescue
    # No process has that name.
    ArgumentError -> :ok
  end

  defp alone?(device) do
    case Process.get(@deaf) do
      nil ->
        false

      deaf ->
        deaf = Map.filter(deaf, fn {_, until} -> until > now() end)
        if deaf == %{}, do: Process.delete(@deaf), else: Process.put(@deaf, deaf)
        is_map_key(deaf, device)
    end
  end

  defp now, do: System.monotonic_time(:millisecond)
end
