defmodule SnakeBridge.SnakepitClient do
  @moduledoc """
  Calls Python through Snakepit's pool: the runtime client for teams whose workers Snakepit starts (docs/snakepit.md).

      config :snakebridge, runtime_client: Snakepit

  What Snakepit answers becomes what the embedded pool answers: the same values, and errors that are `SnakeBridge.Error`. Elixir functions among
  the arguments are offered to Python as the tool `snakebridge.callback` of the call's session. The automatic session of a process is released
  when the process ends. Options of Snakepit (`affinity:`, `checkout_timeout:`, ...) go under `:__runtime__`.

  Snakepit is no dependency: it is called when it is there.
  """
  @behaviour SnakeBridge.RuntimeClient

  alias SnakeBridge.{CallbackRegistry, Error, Payload, SessionContext, SessionManager, Types}

  @tool "snakebridge.callback"
  @registry :"Elixir.Snakepit.Bridge.ToolRegistry"
  @snakepit :"Elixir.Snakepit"
  # Of ours, and of no meaning to Snakepit.
  @ours [:session_options, :result, :bytes, :maps, :tensors, :frames, :preserve_identity, :shared, :retry]
  # What stands for :infinity, which gRPC has no deadline for.
  @longest_ms 7 * 24 * 60 * 60 * 1000

  @by_type %{
    "WorkerCrash" => :worker_crash,
    "LimitExceeded" => :limit_exceeded,
    "ProtocolError" => :protocol_error,
    "SnakeBridgeProtocolError" => :unsupported_version,
    "CallCancelled" => :cancelled
  }
  # Errors of the worker's own that have the type of a Python builtin.
  @by_text [
    {"the call did not finish within its timeout of ", :timeout},
    {"Unknown SnakeBridge reference", :unknown_ref},
    {"SnakeBridge reference session mismatch", :session_mismatch},
    {"Invalid SnakeBridge reference", :invalid_ref},
    {"SnakeBridge reference missing id", :invalid_ref}
  ]

  @impl true
  def execute(tool, payload, opts) do
    with :ok <- loaded() do
      track(payload)
      apply(@snakepit, :execute, [tool, payload, options(opts)]) |> result()
    end
  end

  @impl true
  def execute_stream(tool, payload, callback, opts) do
    with :ok <- loaded() do
      track(payload)
      apply(@snakepit, :execute_stream, [tool, payload, &chunk(&1, callback), options(opts)]) |> result()
    end
  end

  @doc "Offers the functions of this node to the Python code of a session."
  @impl true
  def offer_functions(session) do
    if Code.ensure_loaded?(@registry) and function_exported?(@registry, :register_elixir_tool, 4) do
      about = %{description: "Calls an Elixir function that Python was given.", exposed_to_python: true}
      # The second registration of a session is refused, and changes nothing.
      apply(@registry, :register_elixir_tool, [session, @tool, &call_back(session, &1), about])
      :ok
    else
      raise Error.new(
              :unavailable,
              "functions cannot be passed to Python: this Snakepit has no #{inspect(@registry)}.register_elixir_tool/4; use Snakepit 0.6 or newer",
              %{outcome: :not_started}
            )
    end
  end

  @doc false
  # The process that owned a session has ended.
  def ended(session) do
    if loaded() == :ok,
      do: execute_quietly("snakebridge.release_session", Payload.release_session(session), session),
      else: :ok
  end

  defp execute_quietly(tool, payload, session) do
    apply(@snakepit, :execute, [tool, payload, [session_id: session, timeout: 10_000]])
    :ok
  catch
    # Snakepit itself may be stopping.
    :exit, _ -> :ok
  end

  defp loaded do
    if Code.ensure_loaded?(@snakepit) and function_exported?(@snakepit, :execute, 3) do
      :ok
    else
      {:error,
       Error.new(
         :unavailable,
         "config :snakebridge, runtime_client: Snakepit needs the dependency :snakepit, which is not loaded; add it, or use the embedded " <>
           "pool (SnakeBridge.Pool)",
         %{outcome: :not_started}
       )}
    end
  end

  @doc "Notes the calling process, whose automatic session ends with it. Sessions that have a name end when they are told to."
  @impl true
  def track(payload) do
    if payload["session_id"] == SessionManager.auto_session(), do: SessionManager.track(__MODULE__)
    :ok
  end

  defp options(opts) do
    opts
    |> Keyword.drop(@ours)
    |> Keyword.update(:timeout, @longest_ms, fn
      :infinity -> @longest_ms
      milliseconds -> milliseconds
    end)
  end

  # --- functions that Python calls ---

  defp call_back(session, %{"callback_id" => id, "args" => args}) do
    with {:ok, function, owner} <- CallbackRegistry.fetch(id) do
      SessionContext.inside(session, fn -> function |> apply(Types.decode(args)) |> encoded(owner) end)
    else
      :error -> failed("the Elixir function #{id} is gone: the process that passed it has ended")
    end
  rescue
    error -> failed(Exception.message(error))
  catch
    kind, reason -> failed(Exception.format_banner(kind, reason))
  end

  # Functions in the result belong to whoever owns the function: a process that only runs it may end with it.
  defp encoded(value, owner) do
    encode = fn -> {:ok, Types.encode(value, callback: &CallbackRegistry.register/1)} end
    {:ok, encoded, _} = CallbackRegistry.sending(nil, owner, encode)
    encoded
  end

  defp failed(reason), do: %{"__type__" => "callback_error", "reason" => reason}

  # --- what comes back ---

  # Snakepit adds keys of its own, and an empty chunk at the end.
  defp chunk(%{"is_final" => true} = chunk, _) when map_size(chunk) == 1, do: :ok
  defp chunk(%{"data" => data}, callback), do: callback.(%{"data" => data})

  defp chunk(%{"raw_data_base64" => text}, callback),
    do: callback.(%{"data" => %{"__type__" => "bytes", "data" => text}})

  defp chunk(other, callback), do: callback.(%{"data" => other})

  defp result(:ok), do: :ok
  defp result({:ok, value}), do: {:ok, value}
  defp result({:error, error}), do: {:error, error(error)}

  @doc false
  # The error that one of Snakepit's describes, whatever it is wrapped in.
  @spec error(term()) :: Error.t()
  def error(%{python_type: type} = error) when is_binary(type), do: python(error)
  def error(%{details: %{reason: reason}} = error), do: wrapped(error, reason)
  def error(%{category: :timeout} = error), do: late(text(error))
  def error(%{status: _, message: text} = error) when is_binary(text), do: status(error, text)
  def error(error), do: unavailable(error, text(error))

  defp wrapped(error, %{python_type: type} = reason) when is_binary(type),
    do: put_details(python(reason), error)

  defp wrapped(_, %{status: _, message: text} = reason) when is_binary(text), do: status(reason, text)
  defp wrapped(error, reason) when reason in [:timeout, :queue_timeout], do: late(text(error))

  defp wrapped(error, reason) when reason == :internal or is_tuple(reason) do
    case reason do
      # How Snakepit tells of a worker that died under a call; what the call had done is not known.
      {:grpc_server_exited, status} -> crash("the worker ended with status #{inspect(status)}")
      :internal -> crash("the worker's answer never came (#{text(error)})")
      _ -> unavailable(error, "#{text(error)}: #{inspect(reason)}")
    end
  end

  defp wrapped(error, reason), do: unavailable(error, "#{text(error)}: #{describe(reason)}")

  defp late(message), do: Error.new(:timeout, message, %{outcome: :unknown})
  defp crash(message), do: Error.new(:worker_crash, message, %{outcome: :unknown})

  defp unavailable(error, message),
    do:
      Error.new(:unavailable, "Snakepit: #{message}", %{
        snakepit: inspect(error, limit: 20),
        outcome: :unknown
      })

  defp python(error) do
    type = error.python_type
    message = text(error)

    %Error{
      category: category(type, message),
      message: message,
      python_type: type,
      python_traceback: Map.get(error, :python_traceback),
      stacktrace: Map.get(error, :stacktrace) || [],
      context: Map.get(error, :context) || %{}
    }
  end

  defp category(type, message) do
    @by_type[type] || named(type) ||
      Enum.find_value(@by_text, :python_error, fn {text, category} ->
        if String.contains?(message, text), do: category
      end)
  end

  # An error that the worker itself makes has its category for a type.
  defp named(type), do: Enum.find(Error.categories(), &(Atom.to_string(&1) == type))

  # A stream's error is the text of its gRPC status.
  defp status(%{status: status}, text) do
    case json(text) do
      {:ok, %{"type" => type, "message" => message} = payload} when is_binary(type) and is_binary(message) ->
        python(%{
          python_type: type,
          message: message,
          python_traceback: payload["traceback"],
          stacktrace: payload["stacktrace"],
          context: payload["context"]
        })

      _ when status == 4 ->
        late(text)

      _ when status == 14 ->
        crash("the worker cannot be reached: #{text}")

      _ ->
        Error.new(:unavailable, "Snakepit: gRPC status #{inspect(status)}: #{text}", %{outcome: :unknown})
    end
  end

  defp json(text) do
    if Code.ensure_loaded?(:"Elixir.Jason"), do: apply(:"Elixir.Jason", :decode, [text]), else: :error
  end

  defp put_details(error, %{details: details}),
    do: %{error | details: Map.merge(Map.drop(details, [:reason]), error.details)}

  defp text(%{message: message}) when is_binary(message), do: message
  defp text(error) when is_exception(error), do: Exception.message(error)
  defp text(error), do: inspect(error, limit: 20)

  defp describe(reason) when is_exception(reason), do: Exception.message(reason)
  defp describe(reason) when is_binary(reason), do: reason
  defp describe(reason), do: inspect(reason, limit: 20)
end
