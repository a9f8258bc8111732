defmodule SnakeBridge.PulledStream do
  @moduledoc """
  A lazy stream over a runtime client that knows only callbacks: a process of its own runs the stream and is held up after each item until the
  reader asks for the next. It ends with the reader.
  """

  @halt_timeout 2_000

  @enforce_keys [:process, :monitor, :tag]
  defstruct [:process, :monitor, :tag, asked: true]

  @type t :: %__MODULE__{process: pid(), monitor: reference(), tag: reference(), asked: boolean()}

  @doc "Starts it. `run` gets the callback for the items and returns what the whole stream comes to."
  @spec open(((term() -> term()) -> :ok | {:ok, term()} | {:error, term()})) :: t()
  def open(run) do
    {reader, tag} = {self(), make_ref()}
    callers = [reader | Process.get(:"$callers", [])]

    {process, monitor} =
      spawn_monitor(fn ->
        watch = Process.monitor(reader)
        # As tasks do it: a client that is a mock of the reader's knows it by them.
        Process.put(:"$callers", callers)
        result = run.(&hand_over(&1, reader, tag, watch))
        send(reader, {tag, :ended, result})
      end)

    %__MODULE__{process: process, monitor: monitor, tag: tag}
  end

  defp hand_over(item, reader, tag, watch) do
    send(reader, {tag, :item, item})

    receive do
      {^tag, :more} -> :ok
      {^tag, :halt} -> :halt
      {:DOWN, ^watch, :process, _, _} -> :halt
    end
  end

  @doc "The next items, in the form of `SnakeBridge.Exchange.Stream.next/1`."
  @spec next(t()) :: {:items, [term()], t()} | {:done, t()} | {:error, term(), t()}
  def next(%__MODULE__{process: process, monitor: monitor, tag: tag} = stream) do
    unless stream.asked, do: send(process, {tag, :more})

    receive do
      {^tag, :item, item} -> {:items, [item], %{stream | asked: false}}
      {^tag, :ended, {:error, error}} -> {:error, error, stream}
      {^tag, :ended, _} -> {:done, stream}
      {:DOWN, ^monitor, :process, _, reason} -> exit(reason)
    end
  end

  @doc "Ends it, wherever it is."
  @spec halt(t()) :: :ok
  def halt(%__MODULE__{process: process, monitor: monitor, tag: tag}) do
    # `next/1` may have read what this one had to tell.
    Process.demonitor(monitor, [:flush])
    end_of_process = Process.monitor(process)
    send(process, {tag, :halt})

    receive do
      {:DOWN, ^end_of_process, :process, _, _} -> :ok
    after
      # It waits for an item that does not come.
      @halt_timeout ->
        Process.exit(process, :kill)
        receive do: ({:DOWN, ^end_of_process, :process, _, _} -> :ok)
    end

    drop(tag)
  end

  defp drop(tag) do
    receive do
      {^tag, _, _} -> drop(tag)
    after
      0 -> :ok
    end
  end
end
