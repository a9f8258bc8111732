defmodule SnakeBridge.Pool.Heartbeat do
  @moduledoc """
  Whether a Python process still lives that says nothing: asked at every beat, it counts those in which nothing has come from the process, and in
  which it has not computed either. A call that holds Python's interpreter lock keeps the process from answering, for minutes perhaps; as long
  as it uses the processor, it is no reason to kill anybody, and its own deadline ends it.

  The pool option is `heartbeat: [interval: 5_000, timeout: 30_000]` (milliseconds), or `false`.
  """

  @default [interval: 5_000, timeout: 30_000]

  @enforce_keys [:interval, :allowed]
  defstruct [:interval, :allowed, :ticks, missed: 0]

  @type t :: %__MODULE__{
          interval: pos_integer(),
          allowed: pos_integer(),
          ticks: non_neg_integer() | nil,
          missed: non_neg_integer()
        }

  @doc "The heartbeat of the workers of a pool with these options; nil: none. Raises ArgumentError."
  @spec settings(keyword()) :: t() | nil
  def settings(options) do
    case Keyword.get(options, :heartbeat, []) do
      false -> nil
      given -> if Keyword.keyword?(given), do: checked(given), else: wrong(given)
    end
  end

  defp checked(given) do
    %{interval: interval, timeout: timeout} = all = Map.new(Keyword.merge(@default, given))

    unless map_size(all) == 2 and is_integer(interval) and interval > 0 and is_integer(timeout) and
             timeout >= interval,
           do: wrong(given)

    %__MODULE__{interval: interval, allowed: ceil(timeout / interval)}
  end

  @spec wrong(term()) :: no_return()
  defp wrong(given) do
    raise ArgumentError,
          "heartbeat: is #{inspect(given, limit: 5)}; it must be false or [interval: ms, timeout: ms], with a timeout not below the interval"
  end

  @doc "The next beat: whether anything was heard since the last one, and how much the process has computed in its life (nil: not known)."
  @spec beat(t(), heard? :: boolean(), non_neg_integer() | nil) :: {:alive | :silent | :dead, t()}
  def beat(heartbeat, true, ticks), do: {:alive, %{heartbeat | missed: 0, ticks: ticks}}

  def beat(%{ticks: before} = heartbeat, false, ticks)
      when is_integer(before) and is_integer(ticks) and ticks > before,
      do: {:silent, %{heartbeat | missed: 0, ticks: ticks}}

  # Beats are counted, not time: of the time in which this side itself was stopped, the other side knows nothing.
  def beat(heartbeat, false, ticks) do
    missed = heartbeat.missed + 1
    {if(missed >= heartbeat.allowed, do: :dead, else: :silent), %{heartbeat | missed: missed, ticks: ticks}}
  end

  @doc "How much processor time a process has used, in ticks of the kernel; nil where /proc does not tell."
  @spec ticks(pos_integer() | nil) :: non_neg_integer() | nil
  def ticks(os_pid) do
    with true <- is_integer(os_pid),
         {:ok, stat} <- File.read("/proc/#{os_pid}/stat"),
         # The name of the program, in parentheses, may hold anything.
         fields = stat |> String.split(")") |> List.last() |> String.split(),
         [user, system] <- Enum.slice(fields, 11, 2),
         {user, ""} <- Integer.parse(user),
         {system, ""} <- Integer.parse(system) do
      user + system
    else
      _ -> nil
    end
  end
end
