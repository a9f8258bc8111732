defmodule SnakeBridge.Pool.Settings do
  @moduledoc "The options of a pool that say how it lives, checked where it starts: whoever is wrong hears of it there, not in a worker."

  alias SnakeBridge.Pool.{Admission, Heartbeat, Recycling}

  @doc "The options with their defaults. Raises ArgumentError."
  @spec check!(keyword()) :: keyword()
  def check!(options) do
    options = Keyword.put_new_lazy(options, :size, fn -> size(options[:workers]) end)

    unless is_integer(options[:size]) and options[:size] > 0,
      do:
        raise(ArgumentError, "the size of a pool must be a positive integer, not #{inspect(options[:size])}")

    if options[:workers], do: remote!(options)
    Admission.new(options)
    Heartbeat.settings(options)
    Recycling.check!(options[:recycle])
    number!(options, :spares, 0)
    number!(options, :shutdown, 0)
    number!(options, :max_connections, 1)
    number!(options, :start_timeout, 0)
    number!(options, :kill_after, 0)
    number!(options, :max_session_queue, 0)
    modules!(Keyword.get(options, :preload, []))
    options
  end

  defp size(nil), do: min(4, System.schedulers_online())
  defp size(workers), do: length(workers)

  # Nobody here can start or end workers that somebody else has started.
  defp remote!(options) do
    for {name, none} <- [spares: 0, preload: [], recycle: nil], Keyword.get(options, name, none) != none do
      raise ArgumentError,
            "#{name}: is for processes that the pool starts itself, and those that workers: names it does not; remove one of the two"
    end
  end

  defp number!(options, name, least) do
    case Keyword.fetch(options, name) do
      {:ok, value} when not (is_integer(value) and value >= least) ->
        raise ArgumentError, "#{name}: is #{inspect(value)}; it must be an integer of at least #{least}"

      _ ->
        :ok
    end
  end

  defp modules!(names) do
    unless is_list(names) and
             Enum.all?(names, &(is_binary(&1) and &1 =~ ~r/^[\p{L}_][\p{L}\d_]*(\.[\p{L}_][\p{L}\d_]*)*$/u)),
           do:
             raise(
               ArgumentError,
               "preload: is #{inspect(names)}; it must be a list of the names of Python modules"
             )
  end
end
