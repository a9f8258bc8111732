defmodule SnakeBridge.Exchange do
  @moduledoc """
  One request and its answer, in the process that makes it. While it waits it runs the functions that Python calls back, here, and what those
  call in turn goes over the same connection: a callback inside a call inside a callback needs one worker and one connection.
  """
  alias SnakeBridge.{CallbackRegistry, Error, Lane, Messages, Output, Pool, SessionManager, Shared}
  alias SnakeBridge.Codec.Options
  alias SnakeBridge.Lane.Connection
  alias SnakeBridge.Pool.{Slots, Worker}

  # {:callback, process} => the calls in whose callbacks it is
  @in_use :snakebridge_in_use
  @stack :snakebridge_stack
  @parent :snakebridge_parent
  @session :snakebridge_session
  # The executor interrupts a call at its deadline and answers; only if it cannot does the client give up by itself.
  @slack 300
  @credit 512
  @halt_timeout 2_000

  defmodule Stream do
    @moduledoc "An open stream: a connection that is busy with it until it ends or is halted."
    # value: what the generator returned, once it has ended
    defstruct [:worker, :connection, :id, :deadline, :options, :value, functions: [], owed: 0, open: true]
  end

  @doc false
  def table, do: @in_use

  @doc "Codec options of a pool's messages; `form` says what results become (`:bytes`, `:maps`, `:tensors`, `:frames`)."
  @spec options(atom(), keyword()) :: Options.t()
  def options(pool, form \\ []) do
    key = {__MODULE__, pool, form}

    case :persistent_term.get(key, nil) do
      nil ->
        limits = Application.get_env(:snakebridge, :limits, [])
        # A pid that went to one pool does not come back from another.
        ours = [ref_defaults: %{pool: pool}, opaque_scope: inspect(pool), callback: &callback/1]
        options = Lane.options(ours ++ form ++ limits)
        :persistent_term.put(key, options)
        options

      options ->
        options
    end
  end

  # Functions become records on the way out, records become functions again on the way in.
  defp callback(function) when is_function(function), do: CallbackRegistry.register(function)
  defp callback(record), do: CallbackRegistry.restore(record)

  # --- calls ---

  @doc "Makes a request and waits for its answer."
  @spec call(map(), String.t(), String.t(), map(), map()) :: {:ok, term()} | {:error, Error.t()}
  def call(worker, session, tool, payload, context) do
    case enclosing(worker) do
      nil -> alone(worker, session, tool, payload, context)
      frame -> nested(worker, frame, session, tool, payload, context)
    end
  end

  defp alone(worker, session, tool, payload, context) do
    holder = SessionManager.track()
    options = options(context.pool, form(context.opts))
    id = id()

    with {:ok, body, functions, shares?} <-
           encode(id, "call", tool, payload, context, {worker, parent(worker)}, options),
         {:ok, connection} <- checkout(worker, holder, id, context, functions) do
      options = receiving(options, shares?, session, context)

      try do
        exchange(worker, connection, id, {body, functions}, context, options)
      catch
        # A type of the user that cannot be built from what came, for example.
        kind, reason ->
          Worker.cancel(worker, connection.id, id, "cancelled")
          Worker.discard(worker, connection)
          :erlang.raise(kind, reason, __STACKTRACE__)
      else
        outcome -> settle(outcome, worker, connection, id)
      end
    end
  end

  defp checkout(worker, holder, id, context, functions) do
    with {:error, error} <- Worker.checkout(worker, holder, id, context.deadline) do
      CallbackRegistry.release(functions)
      {:error, error}
    end
  end

  defp settle({:answer, result}, worker, connection, _) do
    Worker.checkin(worker, connection)
    result
  end

  defp settle({:refused, error}, worker, connection, _) do
    Worker.checkin(worker, connection)
    {:error, error}
  end

  defp settle({:broken, outcome, reason}, worker, connection, _) do
    Worker.discard(worker, connection)
    {:error, Worker.crash(worker, outcome, "the connection to it broke: #{inspect(reason)}")}
  end

  # What came is no message: nothing after it can be trusted.
  defp settle({:garbage, error}, worker, connection, id) do
    Worker.cancel(worker, connection.id, id, "cancelled")
    Worker.discard(worker, connection)
    {:error, error}
  end

  defp settle(:late, worker, connection, id) do
    Worker.cancel(worker, connection.id, id, "deadline")
    Worker.discard(worker, connection)
    {:error, timeout_error()}
  end

  # The connection belongs to the enclosing call: it cannot be given up, so the answer is awaited even when it is late.
  defp nested(worker, %{connection: connection}, session, tool, payload, context) do
    options = options(context.pool, form(context.opts))
    id = id()

    with {:ok, body, functions, shares?} <-
           encode(id, "call", tool, payload, context, {worker, nil}, options) do
      options = receiving(options, shares?, session, context)

      case exchange(worker, connection, id, {body, functions}, context, options) do
        {:answer, result} ->
          result

        {unsent_or_unread, error} when unsent_or_unread in [:refused, :garbage] ->
          {:error, error}

        {:broken, outcome, reason} ->
          {:error, Worker.crash(worker, outcome, "the connection to it broke: #{inspect(reason)}")}

        :late ->
          Worker.cancel(worker, connection.id, id, "deadline")

          case await(worker, connection, id, :infinity, options) do
            {:answer, result} -> result
            _ -> {:error, timeout_error()}
          end
      end
    end
  end

  defp exchange(worker, connection, id, {body, functions}, context, options) do
    with :ok <- send_with(functions, connection, body) do
      outer = Process.get(@stack, [])
      Process.put(@stack, [%{worker: key(worker), connection: connection, id: id} | outer])

      try do
        outcome = await(worker, connection, id, context.deadline, options)
        with {:broken, _, _} <- outcome, do: forget_with(worker, functions)
        outcome
      after
        Process.put(@stack, outer)
      end
    end
  end

  # What is not sent whole brings no function to Python.
  defp send_with(functions, connection, body) do
    with {:error, reason} <- Connection.send(connection, body) do
      CallbackRegistry.release(functions)
      if is_struct(reason, Error), do: {:refused, reason}, else: {:broken, :not_started, reason}
    end
  end

  # A worker's end forgets the functions it held: those that were registered before it.
  defp forget_with(worker, functions),
    do: unless(Slots.alive?(worker.slots), do: CallbackRegistry.release(functions))

  defp await(worker, connection, id, deadline, options) do
    case Connection.receive(connection, patience(deadline)) do
      {:ok, body} ->
        case parse(body, options) do
          {:ok, {:response, ^id, nil, result}} ->
            {:answer, {:ok, result}}

          {:ok, {:response, ^id, error, _}} ->
            {:answer, {:error, Error.from_wire(error)}}

          {:ok, other} ->
            serve(other, connection, worker)
            await(worker, connection, id, deadline, options)

          {:error, error} ->
            case Lane.peek(body) do
              # The answer came, but is not for this side: the connection is in order.
              {:response, ^id} ->
                {:answer, {:error, error}}

              :garbage ->
                {:garbage, error}

              other ->
                unreadable(other, error, connection)
                await(worker, connection, id, deadline, options)
            end
        end

      {:error, :timeout} ->
        :late

      {:error, reason} ->
        {:broken, :unknown, reason}
    end
  end

  defp parse(body, options) do
    started = System.monotonic_time()
    message = Lane.parse(body, options)
    SnakeBridge.Telemetry.note_decode(System.monotonic_time() - started)
    message
  end

  defp serve({:request, id, "callback", params}, connection, worker),
    do: answer(id, params, connection, worker)

  defp serve({:request, id, method, _}, connection, _),
    do: Connection.send(connection, Lane.refusal(id, "protocol_error", "a client has no method #{method}"))

  defp serve({:notification, "released", ids}, _, _), do: CallbackRegistry.release(ids)
  defp serve({:notification, "output", said}, _, worker), do: Output.deliver(said, worker.output)
  defp serve({:notification, "message", [to, message]}, _, _), do: Messages.deliver(to, message)
  defp serve(_, _, _), do: :ok

  @doc "What cannot be read costs nobody but the one who sent it: a request is refused, a notification told, another call's answer let go."
  @spec unreadable({atom(), term()}, Error.t(), Connection.t()) :: :ok | {:error, term()}
  def unreadable({:request, id}, %Error{message: message}, connection) do
    text = "the arguments for the Elixir function cannot be read: #{message}"
    Connection.send(connection, Lane.refusal(id, "decode_error", text))
  end

  def unreadable({:notification, _}, error, _), do: Messages.unreadable(error)
  def unreadable({:response, _}, _, _), do: :ok

  defp patience(:infinity), do: :infinity
  defp patience(deadline), do: Pool.left(deadline) + @slack

  # --- callbacks ---

  @doc "Runs the function of a `callback` request, and answers over the connection on which it came."
  @spec answer(non_neg_integer(), map(), Connection.t(), map()) :: :ok | {:error, term()}
  def answer(id, %{"callback" => name} = params, connection, worker) do
    options = options(worker.pool)
    marker = {{:callback, self()}, key(worker), params["call"]}
    :ets.insert(@in_use, marker)

    outcome =
      try do
        call_back(name, params)
      after
        :ets.delete_object(@in_use, marker)
      end

    with {:ok, result, owner} <- outcome,
         {:ok, body, functions} <- pack_result(id, result, {key(worker), owner}, options),
         :ok <- send_with(functions, connection, body) do
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

  defp pack_result(id, result, {holder, owner}, options) do
    CallbackRegistry.sending(holder, owner, fn -> Lane.response(id, nil, result, options) end)
  catch
    # Encoders of the user run here.
    kind, reason -> {:error, Error.new(:encode_error, Exception.format_banner(kind, reason))}
  end

  # Functions in the result belong to whoever owns the function: a process that only runs it may end with it.
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

  @doc "Makes the calling process act for the call that a `callback` request belongs to."
  @spec on_behalf(map(), map()) :: :ok
  def on_behalf(worker, params) do
    if params["call"], do: Process.put(@parent, {key(worker), params["call"]})
    if params["session"] not in [nil, ""], do: Process.put(@session, params["session"])
    Output.as_caller(params["caller"])
    :ok
  end

  # The innermost call of this process on that worker that waits in a callback.
  defp enclosing(worker) do
    case Process.get(@stack) do
      stack when stack in [nil, []] -> nil
      stack -> Enum.find(stack, &(&1.worker == key(worker)))
    end
  end

  # For work on another connection: the call whose callback it is done in, by this process or by the one that started this task.
  defp parent(worker) do
    key = key(worker)

    case {Process.get(@parent), enclosing(worker)} do
      {{^key, call}, _} -> call
      {_, %{connection: connection, id: id}} -> [connection.id, id]
      _ -> Enum.find_value(Process.get(:"$callers", []), &calling_back(&1, key))
    end
  end

  defp calling_back(pid, key) do
    Enum.find_value(:ets.lookup(@in_use, {:callback, pid}), fn {_, of, call} -> if of == key, do: call end)
  end

  # --- streams ---

  @doc "Opens a stream. It must be read to its end, or halted."
  @spec open_stream(map(), String.t(), String.t(), map(), map()) :: {:ok, Stream.t()} | {:error, Error.t()}
  def open_stream(worker, _session, tool, payload, context) do
    holder = SessionManager.track()
    options = options(context.pool, form(context.opts))
    id = id()

    with {:ok, body, functions, _} <-
           encode(id, "stream", tool, payload, context, {worker, parent(worker)}, options),
         {:ok, connection} <- checkout(worker, holder, id, context, functions) do
      case send_with(functions, connection, body) do
        :ok ->
          {:ok,
           %Stream{
             worker: worker,
             connection: connection,
             id: id,
             deadline: context.deadline,
             functions: functions,
             options: options
           }}

        unsent ->
          settle(unsent, worker, connection, id)
      end
    end
  end

  @doc "The next items of a stream, as many as have come."
  @spec next(Stream.t()) ::
          {:items, [term()], Stream.t()} | {:done, Stream.t()} | {:error, Error.t(), Stream.t()}
  def next(%Stream{open: false} = stream), do: {:done, stream}

  def next(%Stream{connection: connection, id: id} = stream) do
    stream = give_credit(stream)

    case Connection.receive(connection, patience(stream.deadline)) do
      {:ok, body} ->
        case Lane.parse(body, stream.options) do
          {:ok, {:notification, "items", [^id, items]}} ->
            {:items, items, %{stream | owed: stream.owed + length(items)}}

          {:ok, {:response, ^id, nil, result}} ->
            {:done, %{finish(stream) | value: result["value"]}}

          {:ok, {:response, ^id, error, _}} ->
            {:error, Error.from_wire(error), finish(stream)}

          {:ok, other} ->
            nested_serve(stream, other)
            next(stream)

          {:error, error} ->
            unread(Lane.peek(body), error, stream)
        end

      {:error, :timeout} ->
        Worker.cancel(stream.worker, connection.id, id, "deadline")
        {:error, timeout_error(), drop(stream)}

      {:error, reason} ->
        stream = drop(stream)
        forget_with(stream.worker, stream.functions)
        {:error, Worker.crash(stream.worker, :unknown, inspect(reason)), stream}
    end
  end

  defp unread({:notification, "items"}, error, stream), do: {:error, error, halt(stream)}
  defp unread({:response, id}, error, %Stream{id: id} = stream), do: {:error, error, finish(stream)}

  defp unread(:garbage, error, stream) do
    Worker.cancel(stream.worker, stream.connection.id, stream.id, "cancelled")
    {:error, error, drop(stream)}
  end

  defp unread(other, error, stream) do
    unreadable(other, error, stream.connection)
    next(stream)
  end

  # A function that the generator calls runs here, and may call on over this connection.
  defp nested_serve(stream, message) do
    outer = Process.get(@stack, [])
    Process.put(@stack, [%{worker: key(stream.worker), connection: stream.connection, id: stream.id} | outer])

    try do
      serve(message, stream.connection, stream.worker)
    after
      Process.put(@stack, outer)
    end
  end

  defp give_credit(%Stream{owed: owed} = stream) when owed * 2 < @credit, do: stream

  defp give_credit(stream) do
    Connection.send(stream.connection, Lane.notification("credit", [stream.id, stream.owed]))
    %{stream | owed: 0}
  end

  @doc "Ends a stream early: the generator is closed, and its `finally` has run when this returns."
  @spec halt(Stream.t()) :: Stream.t()
  def halt(%Stream{open: false} = stream), do: stream

  def halt(%Stream{connection: connection, id: id, worker: worker} = stream) do
    # Whichever the executor sees first: it may be waiting for credit, or running the generator.
    Connection.send(connection, Lane.notification("cancel", [id, "halted"]))
    Worker.cancel(worker, connection.id, id, "halted")
    drain(stream, System.monotonic_time(:millisecond) + @halt_timeout)
  end

  defp drain(%Stream{connection: connection, id: id} = stream, until) do
    with {:ok, body} <- Connection.receive(connection, Pool.left(until)) do
      case Lane.parse(body, stream.options) do
        {:ok, {:response, ^id, _, _}} ->
          finish(stream)

        {:ok, other} ->
          nested_serve(stream, other)
          drain(stream, until)

        {:error, error} ->
          drain_unread(Lane.peek(body), error, stream, until)
      end
    else
      _ -> drop(stream)
    end
  end

  defp drain_unread({:response, id}, _, %Stream{id: id} = stream, _), do: finish(stream)
  defp drain_unread(:garbage, _, stream, _), do: drop(stream)

  # Nobody wants the items any more.
  defp drain_unread(other, error, stream, until) do
    unless other == {:notification, "items"}, do: unreadable(other, error, stream.connection)
    drain(stream, until)
  end

  @doc """
  Hands the items of a stream to a function: `{:ok, what the generator returned}`, or `:ok` when it was halted. `:halt` or `{:halt, reason}` from the
  function ends it.
  """
  @spec each(Stream.t(), (term() -> term())) :: :ok | {:ok, term()} | {:error, term()}
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
    Worker.checkin(stream.worker, stream.connection)
    %{stream | open: false}
  end

  defp drop(stream) do
    Worker.discard(stream.worker, stream.connection)
    %{stream | open: false}
  end

  # --- a caller that died ---

  @doc "Cancels what a dead process had in flight, and closes its connections."
  @spec abandon(pid(), Slots.holder()) :: :ok
  def abandon(pid, holder) do
    Worker.abandon(holder)
    :ets.delete(@in_use, {:callback, pid})
    :ok
  end

  # --- parts ---

  # The body, the ids of the functions in it, and whether it holds refs to shared memory.
  defp encode(id, method, tool, payload, context, {worker, parent}, options) do
    started = System.monotonic_time()
    params = %{"tool" => tool, "payload" => payload, "timeout_ms" => timeout_ms(context.deadline)}
    params = if method == "stream", do: Map.put(params, "credit", @credit), else: params
    params = if parent, do: Map.put(params, "parent", parent), else: params
    params = if worker.output == :worker, do: params, else: Map.put(params, "caller", SessionManager.number())
    session_options = Keyword.get(context.opts, :session_options)
    params = if session_options, do: Map.put(params, "session_options", session_options), else: params
    params = if context.opts[:preserve_identity] == true, do: Map.put(params, "identity", true), else: params
    params = if method == "call", do: sharing(params, worker, context.opts), else: params
    encode = fn -> Lane.request(id, method, params, options) end
    {result, shares?} = Shared.noting(fn -> CallbackRegistry.sending(key(worker), self(), encode) end)
    SnakeBridge.Telemetry.note_encode(System.monotonic_time() - started)
    with {:ok, body, functions} <- result, do: {:ok, body, functions, shares?}
  end

  # How much of the answer may go through shared memory: bytes in all, and the size from which on a value does.
  defp sharing(params, %{shared: shared}, opts) do
    if shared == false or opts[:shared] == false,
      do: params,
      else:
        Map.put(params, "shared", [
          Shared.room(),
          opts[:shared_threshold] || threshold(shared),
          opts[:shared] == true
        ])
  end

  defp threshold(true), do: Shared.threshold()
  defp threshold(options), do: Keyword.get(options, :threshold) || Shared.threshold()

  # Who passes refs gets refs.
  defp receiving(options, shares?, session, %{opts: opts, pool: pool}) do
    mode = if shares? or opts[:shared] == true, do: :refs, else: :read
    %{options | segments: &Shared.receive_segment(mode, session, pool, &1)}
  end

  defp timeout_ms(:infinity), do: nil
  defp timeout_ms(deadline), do: Pool.left(deadline)

  # In a fixed order, because it is the key under which the options are kept.
  defp form(opts) do
    for key <- [:bytes, :maps, :tensors, :frames],
        value = Keyword.get(opts, key) || Application.get_env(:snakebridge, key),
        do: {key, value}
  end

  defp key(worker), do: {worker.pool, worker.index, worker.generation}

  defp id, do: :erlang.unique_integer([:positive])

  defp timeout_error do
    Error.new(
      :timeout,
      "the call did not finish within its timeout and did not react to its interruption; its worker is killed if it goes on"
    )
  end
end
