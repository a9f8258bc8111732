defmodule SnakeBridge.Exchange do
  @moduledoc """
  One request and its answer, in the process that makes it. While it waits it runs the functions that Python calls back, here, and what those
  call in turn goes over the same connection: a callback inside a call inside a callback needs one worker and one connection.
  """
  alias SnakeBridge.{Breaker, Error, Lane, SessionManager, Telemetry}
  alias SnakeBridge.Codec.Options
  alias SnakeBridge.Exchange.{Nesting, Request, Serving}
  alias SnakeBridge.Lane.Connection
  alias SnakeBridge.Pool.{Connections, Slots, WorkerClient}

  @typedoc """
  What became of a request: its answer; not sent, because it is too large; not sent or not answered, because the connection broke; answered
  with what is no message; not answered in time.
  """
  @type outcome ::
          {:answer, {:ok, term()} | {:error, Error.t()}}
          | {:refused, Error.t()}
          | {:broken, :unknown | :not_started, term()}
          | {:garbage, Error.t()}
          | :late

  @outcome :snakebridge_outcome

  @doc "How the last answer to a call with a key came about: `attempts`, `replayed`."
  @spec take_outcome() :: map() | nil
  def take_outcome, do: Process.delete(@outcome)

  @doc "Makes a request and waits for its answer."
  @spec call(map(), String.t(), String.t(), map(), map()) :: {:ok, term()} | {:error, Error.t()}
  def call(worker, session, tool, payload, context) do
    case Nesting.enclosing(worker) do
      nil -> alone(worker, session, tool, payload, context)
      frame -> nested(worker, frame, session, tool, payload, context)
    end
  end

  defp alone(worker, session, tool, payload, context) do
    holder = SessionManager.track()
    options = Request.options(context.pool, Request.form(context.opts))
    id = Request.id()
    {_, parent} = from = {worker, Nesting.parent(worker)}
    claim = Request.claim(holder, id, session, parent, context)

    with {:ok, body, functions, shares?} <-
           Request.encode(id, "call", tool, payload, context, from, options),
         {:ok, connection} <- Request.checkout(worker, claim, context, functions) do
      options = Request.receiving(options, shares?, session, context)

      try do
        exchange(worker, connection, id, {body, functions}, context, options)
      catch
        # Whatever it was: what the connection brings next is not for the next call.
        kind, reason ->
          WorkerClient.cancel(worker, connection.id, id, "cancelled")
          Connections.discard(worker, connection)
          :erlang.raise(kind, reason, __STACKTRACE__)
      else
        outcome -> settle(outcome, worker, connection, id, context[:circuit])
      end
    end
  end

  @doc "The result of a request, and what becomes of the connection that it had for itself."
  @spec settle(outcome(), map(), Connection.t(), pos_integer(), Breaker.key() | nil) ::
          {:ok, term()} | {:error, Error.t()}
  def settle(outcome, worker, connection, id, circuit)

  def settle({:answer, result}, worker, connection, _, _) do
    Connections.checkin(worker, connection)
    result
  end

  def settle({:refused, error}, worker, connection, _, _) do
    Connections.checkin(worker, connection)
    {:error, error}
  end

  def settle({:broken, outcome, reason}, worker, connection, _, circuit) do
    Connections.discard(worker, connection)
    {:error, broken(worker, outcome, reason, circuit)}
  end

  # What came is no message: nothing after it can be trusted.
  def settle({:garbage, error}, worker, connection, id, _) do
    WorkerClient.cancel(worker, connection.id, id, "cancelled")
    Connections.discard(worker, connection)
    {:error, error}
  end

  def settle(:late, worker, connection, id, circuit) do
    WorkerClient.cancel(worker, connection.id, id, "deadline", circuit)
    Connections.discard(worker, connection)
    {:error, Request.timeout_error()}
  end

  # The connection belongs to the enclosing call: it cannot be given up, so the answer is awaited even when it is late.
  defp nested(worker, %{connection: connection}, session, tool, payload, context) do
    options = Request.options(context.pool, Request.form(context.opts))
    id = Request.id()

    with {:ok, body, functions, shares?} <-
           Request.encode(id, "call", tool, payload, context, {worker, nil}, options) do
      options = Request.receiving(options, shares?, session, context)

      case exchange(worker, connection, id, {body, functions}, context, options) do
        {:answer, result} ->
          result

        {unsent_or_unread, error} when unsent_or_unread in [:refused, :garbage] ->
          {:error, error}

        {:broken, outcome, reason} ->
          {:error, broken(worker, outcome, reason, context[:circuit])}

        :late ->
          WorkerClient.cancel(worker, connection.id, id, "deadline", context[:circuit])

          case await(worker, connection, id, :infinity, options) do
            {:answer, result} -> result
            _ -> {:error, Request.timeout_error()}
          end
      end
    end
  end

  defp broken(worker, outcome, reason, circuit) do
    begun = if outcome == :unknown, do: circuit
    WorkerClient.crash(worker, outcome, "the connection to it broke: #{inspect(reason)}", begun)
  end

  defp exchange(worker, connection, id, {body, functions}, context, options) do
    with :ok <- Request.send_with(functions, connection, body) do
      Nesting.within(worker, connection, id, fn ->
        outcome = await(worker, connection, id, context.deadline, options)
        with {:broken, _, _} <- outcome, do: Request.forget_with(worker, functions)
        outcome
      end)
    end
  end

  defp await(worker, connection, id, deadline, options) do
    case Connection.receive(connection, Request.patience(deadline)) do
      {:ok, body} ->
        case parse(body, options) do
          {:ok, {:response, ^id, nil, result}} ->
            {:answer, {:ok, result}}

          {:ok, {:response, ^id, error, _}} ->
            {:answer, {:error, Error.from_wire(error)}}

          {:ok, {:response, ^id, nil, result, [attempts, replayed]}} ->
            Process.put(@outcome, %{attempts: attempts, replayed: replayed})
            {:answer, {:ok, result}}

          {:ok, other} ->
            Serving.serve(other, connection, worker)
            await(worker, connection, id, deadline, options)

          {:error, error} ->
            unread(Lane.peek(body), error, worker, connection, id, deadline, options)
        end

      {:error, :timeout} ->
        :late

      {:error, reason} ->
        {:broken, :unknown, reason}
    end
  end

  # The answer came, but is not for this side: the connection is in order.
  defp unread({:response, id}, error, _, _, id, _, _), do: {:answer, {:error, error}}
  defp unread(:garbage, error, _, _, _, _, _), do: {:garbage, error}

  defp unread(other, error, worker, connection, id, deadline, options) do
    Serving.unreadable(other, error, connection)
    await(worker, connection, id, deadline, options)
  end

  @spec parse(binary(), Options.t()) :: {:ok, Lane.message()} | {:error, Error.t()}
  defp parse(body, options) do
    started = System.monotonic_time()
    message = Lane.parse(body, options)
    Telemetry.note_decode(System.monotonic_time() - started)
    message
  end

  @doc "Cancels what a dead process had in flight, and closes its connections."
  @spec abandon(pid(), Slots.holder()) :: :ok
  def abandon(pid, holder) do
    Connections.abandon(holder)
    Nesting.forget(pid)
    :ok
  end
end
