defmodule SnakeBridge.Exchange.Serving do
  @moduledoc """
  What Python asks and says by itself: runs the functions that it calls, and answers whatever becomes of them; delivers its messages and
  its output. Whoever waits on a connection serves what comes in on it, in its own process.
  """
  alias SnakeBridge.{CallbackRegistry, Error, Lane, Messages, Output, Telemetry}
  alias SnakeBridge.Exchange.{Nesting, Request}
  alias SnakeBridge.Lane.Connection

  @doc "Does what a message asks for that is not what the process waits for."
  @spec serve(Lane.message(), Connection.t(), map()) :: term()
  def serve({:request, id, "callback", params}, connection, worker),
    do: answer(id, params, connection, worker)

  def serve({:request, _, _, _} = request, connection, _), do: refuse(request, connection)
  def serve({:notification, "released", ids}, _, _), do: CallbackRegistry.release(ids)
  def serve({:notification, "output", said}, _, worker), do: Output.deliver(said, worker.output)
  def serve({:notification, "message", [to, message]}, _, _), do: Messages.deliver_in_call(to, message)
  def serve({:notification, "rebuilt", told}, _, worker), do: Telemetry.rebuilt(told, worker.pool)
  def serve(_, _, _), do: :ok

  @doc "Answers a request that no client knows."
  @spec refuse(Lane.message(), Connection.t()) :: :ok | {:error, term()}
  def refuse({:request, id, method, _}, connection),
    do: Connection.send(connection, Lane.refusal(id, "protocol_error", "a client has no method #{method}"))

  @doc "What cannot be read costs nobody but the one who sent it: a request is refused, a notification told, another call's answer let go."
  @spec unreadable({atom(), term()}, Error.t(), Connection.t()) :: :ok | {:error, term()}
  def unreadable({:request, id}, %Error{message: message}, connection) do
    text = "the arguments for the Elixir function cannot be read: #{message}"
    Connection.send(connection, Lane.refusal(id, "decode_error", text))
  end

  def unreadable({:notification, _}, error, _), do: Messages.unreadable(error)
  def unreadable({:response, _}, _, _), do: :ok

  @doc "Runs the function of a `callback` request, and answers over the connection on which it came."
  @spec answer(non_neg_integer(), map(), Connection.t(), map()) :: :ok | {:error, term()}
  def answer(id, %{"callback" => name} = params, connection, worker) do
    outcome = Nesting.in_callback(worker, params["call"], fn -> call_back(name, params) end)

    with {:ok, result, owner} <- outcome,
         {:ok, body, functions} <- encode(id, result, owner, worker),
         :ok <- Request.send_with(functions, connection, body) do
      :ok
    else
      {:failed, category, message, type} ->
        Connection.send(connection, Lane.refusal(id, category, message, type))

      # Python waits for an answer, whatever has become of this one.
      {failed, %Error{message: message}} when failed in [:error, :refused] ->
        text = "the function's result cannot be sent: #{message}"
        Connection.send(connection, Lane.refusal(id, "callback_error", text))

      {:broken, _, reason} ->
        {:error, reason}
    end
  end

  defp call_back(name, %{"args" => args, "kwargs" => kwargs}) do
    case CallbackRegistry.fetch(name) do
      {:ok, function, owner} ->
        {:ok, run(function, args, Lane.plain(kwargs)), owner}

      :error ->
        text = "the Elixir function #{name} is gone: the process that passed it has ended"
        {:failed, "callback_gone", text, nil}
    end
  rescue
    error -> {:failed, "callback_error", Exception.message(error), inspect(error.__struct__)}
  catch
    kind, reason -> {:failed, "callback_error", "#{kind}: #{inspect(reason, limit: 20)}", nil}
  end

  defp run(function, args, kwargs) when map_size(kwargs) == 0, do: apply(function, args)
  defp run(function, args, kwargs), do: apply(function, args ++ [kwargs])

  # Functions in the result belong to whoever owns the function: a process that only runs it may end with it.
  defp encode(id, result, owner, worker) do
    options = Request.options(worker.pool)
    CallbackRegistry.sending(Nesting.key(worker), owner, fn -> Lane.response(id, nil, result, options) end)
  catch
    # Encoders of the user run here.
    kind, reason -> {:error, Error.new(:encode_error, Exception.format_banner(kind, reason))}
  end
end
