defmodule SnakeBridge.Output do
  @moduledoc """
  What Python code says on behalf of a call, said by the process that made the call: printed text goes to its group leader and to `:standard_error`,
  records of `logging` and warnings go to `Logger`, with the level they had and the place they came from.

  Where it goes is `config :snakebridge, output: :caller` (the default), `:logger` (all of it to `Logger`) or `:worker` (Python prints by itself, and
  the pool logs the lines), or the option `:output` of a pool. What threads say after their call has ended is said by a process of its own
  (`SnakeBridge.Output.Late`).
  """
  require Logger

  alias SnakeBridge.Output.Voice
  alias SnakeBridge.SessionManager

  # Bytes; Logger cuts messages at 8192 unless it is told otherwise.
  @longest_line 8000

  @typedoc "Whose words these are: the process that made the call, its group leader, and the call."
  @type speaker :: %{pid: pid(), leader: pid(), mode: :caller | :logger, call: list(), session: String.t()}

  @doc "Where the output of a pool's calls goes."
  @spec mode(keyword()) :: :caller | :logger | :worker
  def mode(options) do
    case Keyword.get(options, :output) || Application.get_env(:snakebridge, :output, :caller) do
      mode when mode in [:caller, :logger, :worker] ->
        mode

      other ->
        raise ArgumentError,
              "output: must be :caller, :logger or :worker, not #{inspect(other)}; correct the option of the pool or config :snakebridge, output:"
    end
  end

  @doc "What a client in this mode tells the worker that it understands (docs/wire.md, hello)."
  @spec features(atom()) :: [String.t()]
  def features(:worker), do: ["messages"]
  def features(:logger), do: ["messages", "output", "lines"]
  def features(:caller), do: ["messages", "output"]

  @doc "Says what an `output` notification brings, on the connection of a call of the calling process."
  @spec deliver(list(), atom()) :: :ok
  def deliver([_number, call, session, entries], mode) do
    say(entries, %{pid: self(), leader: Process.group_leader(), mode: mode, call: call, session: session})
  end

  @doc "Gives the calling process the group leader of the process that made a call, if that still lives."
  @spec as_caller(term()) :: :ok
  def as_caller(number) do
    with pid when is_pid(pid) <- SessionManager.process(number),
         {:group_leader, leader} <- Process.info(pid, :group_leader),
         do: Process.group_leader(self(), leader)

    :ok
  end

  @doc "Says the entries, in order. Whatever becomes of the process that should hear them, this returns."
  @spec say([list()], speaker()) :: :ok
  def say(entries, speaker), do: entries |> joined() |> Enum.each(&said(&1, speaker))

  # Texts that follow each other are said at once: a group leader may be far away, or slow.
  defp joined([[kind, _] | _] = entries) when kind in ["out", "err"] do
    {same, rest} = Enum.split_while(entries, &match?([^kind, _], &1))
    [[kind, Enum.map_join(same, fn [_, text] -> plain(text) end)] | joined(rest)]
  end

  defp joined([entry | rest]), do: [entry | joined(rest)]
  defp joined([]), do: []

  defp said(entry, speaker) do
    say_one(entry, speaker)
  rescue
    # The group leader has ended, or has no such characters.
    ErlangError -> :ok
  catch
    :exit, _ -> :ok
  end

  defp say_one(["out", text], %{mode: :caller} = speaker),
    do: Voice.write(speaker.leader, plain(text), speaker.pid)

  defp say_one(["err", text], %{mode: :caller} = speaker),
    do: Voice.write(:standard_error, plain(text), speaker.pid)

  defp say_one(["out", text], speaker), do: log_lines(:info, text, speaker)
  defp say_one(["err", text], speaker), do: log_lines(:warning, text, speaker)

  defp say_one(["log", level, message, logger, module, function, path, line], speaker) do
    metadata = [python_logger: logger, python_module: module, python_function: function]
    log(level(level), plain(message), metadata ++ place(path, line), speaker)
  end

  defp say_one(["warning", message, category, path, line], speaker),
    do:
      log(
        :warning,
        "#{category}: #{plain(message)}",
        [python_warning: category] ++ place(path, line),
        speaker
      )

  defp say_one(["dropped", count], speaker) do
    text =
      "#{count} characters that a Python call printed were dropped: they were not read as fast as they came"

    log(:warning, text, [], speaker)
  end

  # A newer worker says something that this version does not know.
  defp say_one(_, _), do: :ok

  # A record per line, none so long that Logger would cut it.
  defp log_lines(level, text, speaker) do
    for line <- text |> plain() |> String.trim_trailing("\n") |> String.split("\n"),
        part <- parts(line),
        do: log(level, part, [], speaker)
  end

  defp parts(line) when byte_size(line) <= @longest_line, do: [line]

  defp parts(line) do
    # Characters have up to four bytes.
    {part, rest} = String.split_at(line, div(@longest_line, 4))
    [part | parts(rest)]
  end

  defp log(level, message, metadata, speaker) do
    ours = [pid: speaker.pid, gl: speaker.leader, session_id: speaker.session, python_call: speaker.call]
    Logger.bare_log(level, message, metadata ++ ours)
  end

  defp place("", _), do: []
  defp place(path, line), do: [file: path, line: line]

  # Python's levels are numbers, and programs may have some of their own in between.
  defp level(level) when level >= 50, do: :critical
  defp level(level) when level >= 40, do: :error
  defp level(level) when level >= 30, do: :warning
  defp level(level) when level > 20, do: :notice
  defp level(level) when level == 20, do: :info
  defp level(_), do: :debug

  defp plain(text) when is_binary(text), do: text
  defp plain(other), do: to_string(other)
end
