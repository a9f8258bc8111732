defmodule SnakeBridge.Pool.LastWords do
  @moduledoc "What a Python process printed last, and how it ended, as text for logs and errors."

  alias SnakeBridge.Redaction

  @lines 40
  @characters 4_096

  @opaque t :: :queue.queue(String.t())

  @spec new() :: t()
  def new, do: :queue.new()

  @doc "A line as text: user code prints what it likes."
  @spec printable(binary()) :: String.t()
  def printable(line) do
    for part <- String.chunk(line, :valid), into: "", do: if(String.valid?(part), do: part, else: "\uFFFD")
  end

  @spec add(t(), String.t()) :: t()
  def add(words, line) do
    words = :queue.in(line, words)
    if :queue.len(words) > @lines, do: :queue.drop(words), else: words
  end

  @doc "Whether one of them matches."
  @spec any?(t(), Regex.t()) :: boolean()
  def any?(words, pattern), do: Enum.any?(:queue.to_list(words), &(&1 =~ pattern))

  @doc "A sentence with them, if there are any."
  @spec quoted(t()) :: String.t()
  def quoted(words) do
    case :queue.to_list(words) do
      [] ->
        ""

      lines ->
        " Its last words: #{lines |> Enum.join("\n") |> String.slice(-@characters..-1) |> Redaction.text()}"
    end
  end

  @doc "What to do, if they tell why it could not start."
  @spec advice(t()) :: String.t()
  def advice(words) do
    if any?(words, ~r/No module named '?bridge_adapter/) do
      " Install the Python half with: pip install bridge-adapter (or set config :snakebridge, pools: [default: [python: ...]])"
    else
      ""
    end
  end

  @doc "What an exit status means."
  @spec describe(non_neg_integer()) :: String.t()
  def describe(status) when status > 128,
    do: "it was killed by signal #{status - 128}#{signal(status - 128)}"

  def describe(status), do: "it exited with status #{status}"

  defp signal(9), do: " (SIGKILL: out of memory, or killed by hand)"
  defp signal(11), do: " (SIGSEGV: a crash in native code)"
  defp signal(6), do: " (SIGABRT)"
  defp signal(15), do: " (SIGTERM)"
  defp signal(_), do: ""
end
