defmodule SnakeBridge.Telemetry do
  @moduledoc """
  Events: `[:snakebridge, :call, :start | :stop | :exception]`, with measurements in microseconds (`duration`, `encode_time`, `decode_time`) and
  metadata `library`, `module`, `function`, `arity`; of an answered call that is idempotent or was made more than once also `attempts` and `replayed`.
  Further ones, of attempts, breakers, sessions and batches, are in docs/telemetry.md.

  They go through `:telemetry` when that is loaded; otherwise attach with the functions here, which work alike. Nothing attached costs one lookup.
  """
  require Logger

  alias SnakeBridge.Lane

  @table :snakebridge_telemetry
  @encode :snakebridge_encode_time
  @decode :snakebridge_decode_time
  @outcome :snakebridge_measured_outcome

  @type handler :: ([atom()], map(), map(), term() -> any())

  @doc false
  def create_table do
    :ets.new(@table, [:named_table, :public, :bag, read_concurrency: true])
    :ok
  end

  @doc "Calls `handler.(event, measurements, metadata, config)` at every such event."
  @spec attach(term(), [atom()], handler(), term()) :: :ok | {:error, :already_exists}
  def attach(id, event, handler, config), do: attach_many(id, [event], handler, config)

  @spec attach_many(term(), [[atom()]], handler(), term()) :: :ok | {:error, :already_exists}
  def attach_many(id, events, handler, config) when is_list(events) and is_function(handler, 4) do
    cond do
      external?() -> apply(:telemetry, :attach_many, [id, events, handler, config])
      :ets.match(@table, {:_, id, :_, :_}) != [] -> {:error, :already_exists}
      true -> Enum.each(events, &:ets.insert(@table, {&1, id, handler, config}))
    end
  end

  @spec detach(term()) :: :ok | {:error, :not_found}
  def detach(id) do
    cond do
      external?() -> apply(:telemetry, :detach, [id])
      :ets.match(@table, {:_, id, :_, :_}) == [] -> {:error, :not_found}
      true -> :ets.match_delete(@table, {:_, id, :_, :_}) && :ok
    end
  end

  @doc "Emits an event. A handler that raises is detached, as `:telemetry` does."
  @spec execute([atom()], map(), map()) :: :ok
  def execute(event, measurements, metadata) do
    if external?() do
      apply(:telemetry, :execute, [event, measurements, metadata])
    else
      for {_, id, handler, config} <- attached(event) do
        try do
          handler.(event, measurements, metadata, config)
        catch
          kind, reason ->
            Logger.error(
              "SnakeBridge: the telemetry handler #{inspect(id)} failed and is detached: #{Exception.format(kind, reason, __STACKTRACE__)}"
            )

            detach(id)
        end
      end

      :ok
    end
  end

  defp attached(event) do
    :ets.lookup(@table, event)
  rescue
    # The application is stopped; sessions tell of their ends all the same.
    ArgumentError -> []
  end

  @doc false
  # A worker has made anew what a session held in one that died.
  def rebuilt(told, pool) do
    %{"session" => session, "calls" => calls, "microseconds" => duration, "lost" => lost} = Lane.plain(told)

    for [_, reason] <- Enum.take(lost, 1),
        do:
          Logger.warning(
            "SnakeBridge: #{length(lost)} objects of the session #{session} were not rebuilt: #{reason}"
          )

    execute([:snakebridge, :session, :rebuilt], %{duration: duration, calls: calls, lost: length(lost)}, %{
      session: session,
      pool: pool
    })
  end

  @doc "Runs a call between its events. Without anybody attached it only runs it."
  @spec span(map(), (() -> {:ok, term()} | {:error, term()} | :ok)) :: term()
  def span(metadata, call) do
    if external?() or :ets.info(@table, :size) > 0, do: measured(metadata, call), else: call.()
  end

  defp measured(metadata, call) do
    execute([:snakebridge, :call, :start], %{system_time: System.system_time()}, metadata)
    started = System.monotonic_time()
    # A call from inside a callback measures itself: the enclosing call's times are put aside meanwhile.
    outer = {Process.put(@encode, 0), Process.put(@decode, 0)}
    outer_outcome = Process.put(@outcome, %{})

    try do
      result = call.()
      finished(result, started, Map.merge(metadata, Process.get(@outcome)))
      result
    after
      if outer_outcome, do: Process.put(@outcome, outer_outcome), else: Process.delete(@outcome)
      restore(outer)
    end
  end

  defp restore({nil, _}), do: {Process.delete(@encode), Process.delete(@decode)}
  defp restore({encode, decode}), do: {Process.put(@encode, encode), Process.put(@decode, decode)}

  defp finished(result, started, metadata) do
    measurements = %{
      duration: microseconds(System.monotonic_time() - started),
      encode_time: microseconds(Process.get(@encode)),
      decode_time: microseconds(Process.get(@decode))
    }

    case result do
      {:error, error} ->
        execute(
          [:snakebridge, :call, :exception],
          measurements,
          Map.merge(metadata, %{kind: :error, reason: error})
        )

      _ ->
        execute([:snakebridge, :call, :stop], measurements, metadata)
    end
  end

  @doc false
  # How an idempotent call came about, which belongs to the metadata of the call that is measured, if one is.
  def note_outcome(outcome), do: if(Process.get(@outcome), do: Process.put(@outcome, outcome))

  @doc false
  def note_encode(native), do: note(@encode, native)

  @doc false
  def note_decode(native), do: note(@decode, native)

  defp note(key, native) do
    # Only inside a measured call is there anything to add to.
    case Process.get(key) do
      nil -> :ok
      sum -> Process.put(key, sum + native)
    end

    :ok
  end

  defp microseconds(native), do: System.convert_time_unit(native, :native, :microsecond)

  defp external?, do: :erlang.function_exported(:telemetry, :execute, 3)
end
