defmodule SnakeBridge.Exchange.Stream do
  @moduledoc """
  An open stream: a connection that is busy with it until it ends or is halted. Python sends as many items as it has credit for, and the
  process that reads them serves what the generator asks for meanwhile.
  """
  alias SnakeBridge.{Error, Exchange, Lane, Pool, SessionManager}
  alias SnakeBridge.Exchange.{Nesting, Request, Serving}
  alias SnakeBridge.Lane.Connection
  alias SnakeBridge.Pool.{Attempts, Connections, Placement, WorkerClient}

  @halt_timeout 2_000

  # value: what the generator returned, once it has ended; owed: items that were read and for which no credit was given yet; taken: items that
  # were read; moved: opens it anew where its session has moved meanwhile; again: the same behind as many items, when its worker has died;
  # deaths: of its workers, since the last item; circuit: the breaker that is told of them
  defstruct [
    :worker,
    :connection,
    :id,
    :deadline,
    :options,
    :circuit,
    :value,
    :moved,
    :again,
    functions: [],
    owed: 0,
    taken: 0,
    deaths: 0,
    open: true
  ]

  # A worker may have died of something else; one that dies of the stream does so again.
  @most_deaths 2

  @type t :: %__MODULE__{}

  @doc "Opens a stream. It must be read to its end, or halted."
  @spec open(map(), String.t(), String.t(), map(), map()) :: {:ok, t()} | {:error, Error.t()}
  def open(worker, session, tool, payload, context) do
    holder = SessionManager.track()
    options = Request.options(context.pool, Request.form(context.opts))
    id = Request.id()
    {_, parent} = from = {worker, Nesting.parent(worker)}
    claim = Request.claim(holder, id, session, parent, context)

    with {:ok, body, functions, _} <- Request.encode(id, "stream", tool, payload, context, from, options),
         {:ok, connection} <- Request.checkout(worker, claim, context, functions) do
      case Request.send_with(functions, connection, body) do
        :ok ->
          {:ok,
           %__MODULE__{
             worker: worker,
             connection: connection,
             id: id,
             deadline: context.deadline,
             functions: functions,
             options: options,
             circuit: context[:circuit]
           }}

        unsent ->
          Exchange.settle(unsent, worker, connection, id, context[:circuit])
      end
    end
  end

  @doc "The next items of a stream, as many as have come."
  @spec next(t()) :: {:items, [term()], t()} | {:done, t()} | {:error, Error.t(), t()}
  def next(%__MODULE__{open: false} = stream), do: {:done, stream}

  def next(%__MODULE__{connection: connection, id: id} = stream) do
    stream = give_credit(stream)

    case Connection.receive(connection, Request.patience(stream.deadline)) do
      {:ok, body} ->
        case parse(body, stream) do
          {:ok, {:notification, "items", [^id, items]}} ->
            count = length(items)
            {:items, items, %{stream | owed: stream.owed + count, taken: stream.taken + count, deaths: 0}}

          {:ok, {:response, ^id, nil, result}} ->
            Attempts.ended(stream.circuit, {:ok, nil})
            {:done, %{finish(stream) | value: result["value"]}}

          {:ok, {:response, ^id, error, _}} ->
            error = error |> Error.from_wire() |> Attempts.begun()
            Attempts.ended(stream.circuit, {:error, error})
            refused(error, finish(stream))

          {:ok, other} ->
            serve(stream, other)
            next(stream)

          {:error, error} ->
            unread(Lane.peek(body), error, stream)
        end

      {:error, :timeout} ->
        WorkerClient.cancel(stream.worker, connection.id, id, "deadline", stream.circuit)
        {:error, Request.timeout_error(), drop(stream)}

      {:error, reason} ->
        stream = drop(stream)
        Request.forget_with(stream.worker, stream.functions)
        why = "the connection to it broke: #{inspect(reason)}"
        error = WorkerClient.crash(stream.worker, :unknown, why, stream.circuit)
        Attempts.ended(stream.circuit, {:error, error})
        died(stream, error)
    end
  end

  # Nothing of it has begun: it begins in the process to which its session has moved.
  defp refused(error, stream) do
    with true <- Placement.moved?(error) and stream.moved != nil, {:ok, anew} <- stream.moved.() do
      next(%{anew | deaths: stream.deaths})
    else
      {:error, later} -> {:error, later, stream}
      false -> {:error, error, stream}
    end
  end

  defp died(%__MODULE__{again: again, deaths: deaths} = stream, _)
       when is_function(again) and deaths < @most_deaths do
    with {:ok, anew} <- again.(stream.taken),
         do: next(%{anew | deaths: deaths + 1}),
         # Items have come, whatever the new attempt says of itself.
         else: ({:error, error} -> {:error, %{error | outcome: :unknown}, stream})
  end

  defp died(stream, error), do: {:error, error, stream}

  # Whatever makes this raise, whoever catches it has no stream to halt.
  defp parse(body, stream) do
    Lane.parse(body, stream.options)
  catch
    kind, reason ->
      WorkerClient.cancel(stream.worker, stream.connection.id, stream.id, "cancelled")
      drop(stream)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp unread({:notification, "items"}, error, stream), do: {:error, error, halt(stream)}
  defp unread({:response, id}, error, %__MODULE__{id: id} = stream), do: {:error, error, finish(stream)}

  defp unread(:garbage, error, stream) do
    WorkerClient.cancel(stream.worker, stream.connection.id, stream.id, "cancelled")
    {:error, error, drop(stream)}
  end

  defp unread(other, error, stream) do
    Serving.unreadable(other, error, stream.connection)
    next(stream)
  end

  # A function that the generator calls runs here, and may call on over this connection.
  defp serve(%__MODULE__{worker: worker, connection: connection, id: id}, message),
    do: Nesting.within(worker, connection, id, fn -> Serving.serve(message, connection, worker) end)

  # Half of the credit is left when the other half is given: the generator need not wait.
  defp give_credit(%__MODULE__{owed: owed} = stream) do
    if owed * 2 < Request.credit() do
      stream
    else
      Connection.send(stream.connection, Lane.notification("credit", [stream.id, owed]))
      %{stream | owed: 0}
    end
  end

  @doc "Ends a stream early: the generator is closed, and its `finally` has run when this returns."
  @spec halt(t()) :: t()
  def halt(%__MODULE__{open: false} = stream), do: stream

  def halt(%__MODULE__{connection: connection, id: id, worker: worker} = stream) do
    # Whichever the executor sees first: it may be waiting for credit, or running the generator.
    Connection.send(connection, Lane.notification("cancel", [id, "halted"]))
    WorkerClient.cancel(worker, connection.id, id, "halted")
    drain(stream, System.monotonic_time(:millisecond) + @halt_timeout)
  end

  defp drain(%__MODULE__{connection: connection, id: id} = stream, until) do
    with {:ok, body} <- Connection.receive(connection, Pool.left(until)) do
      case parse(body, stream) do
        # It was halted, and lives: that is all that was asked of it.
        {:ok, {:response, ^id, _, _}} ->
          Attempts.ended(stream.circuit, {:ok, nil})
          finish(stream)

        {:ok, other} ->
          serve(stream, other)
          drain(stream, until)

        {:error, error} ->
          drain_unread(Lane.peek(body), error, stream, until)
      end
    else
      _ -> drop(stream)
    end
  end

  defp drain_unread({:response, id}, _, %__MODULE__{id: id} = stream, _), do: finish(stream)
  defp drain_unread(:garbage, _, stream, _), do: drop(stream)

  # Nobody wants the items any more.
  defp drain_unread(other, error, stream, until) do
    unless other == {:notification, "items"}, do: Serving.unreadable(other, error, stream.connection)
    drain(stream, until)
  end

  @doc """
  Hands the items of a stream to a function: `{:ok, what the generator returned}`, or `:ok` when it was halted. `:halt` or `{:halt, reason}` from the
  function ends it.
  """
  @spec each(t(), (term() -> term())) :: :ok | {:ok, term()} | {:error, term()}
  def each(stream, callback) do
    case next(stream) do
      {:items, items, stream} ->
        case hand_over(items, callback, stream) do
          :cont -> each(stream, callback)
          result -> result
        end

      {:done, stream} ->
        {:ok, stream.value}

      {:error, error, _} ->
        {:error, error}
    end
  end

  defp hand_over(items, callback, stream) do
    Enum.reduce_while(items, :cont, fn item, :cont ->
      case callback.(item) do
        :halt -> {:halt, halted(stream, :ok)}
        {:halt, reason} -> {:halt, halted(stream, {:error, reason})}
        _ -> {:cont, :cont}
      end
    end)
  rescue
    error ->
      halt(stream)
      reraise error, __STACKTRACE__
  catch
    kind, reason ->
      halt(stream)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  defp halted(stream, result) do
    halt(stream)
    result
  end

  defp finish(stream) do
    Connections.checkin(stream.worker, stream.connection)
    %{stream | open: false}
  end

  defp drop(stream) do
    Connections.discard(stream.worker, stream.connection)
    %{stream | open: false}
  end
end
