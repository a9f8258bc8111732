defmodule SnakeBridge.Runtime.Request do
  @moduledoc """
  A request to whichever runtime client is in use: its payload and options, values on their way to clients that take only tagged ones, and errors that say
  where they came from. What may be asked for is in `SnakeBridge.Runtime`.
  """
  alias SnakeBridge.{
    CallbackRegistry,
    Error,
    Payload,
    Ref,
    Retry,
    RuntimeClient,
    SessionContext,
    StreamRef,
    Telemetry,
    Types
  }

  @default_timeout 120_000

  @typedoc "The Elixir call: module or ref, function, arguments."
  @type origin :: {term(), atom() | String.t(), [term()]}

  @doc "Makes a request; `origin` is the Elixir call that it comes from, for telemetry and errors."
  @spec request(String.t(), String.t() | nil, map(), keyword(), origin()) :: {:ok, term()} | {:error, term()}
  def request(tool, kind, fields, runtime, {module, function, args} = origin) do
    metadata = %{library: fields["library"], module: module, function: function, arity: length(args)}

    Telemetry.span(metadata, fn ->
      client = RuntimeClient.current()
      payload = payload(client, kind, fields, runtime)

      case decoded(client, client.execute(tool, payload, options(runtime))) do
        {:error, error} -> {:error, enrich(error, origin)}
        result -> result
      end
    end)
  rescue
    # The tagged codec raises: its value cannot travel.
    error in Error -> {:error, enrich(error, {module, function, args})}
  end

  @doc "The payload of a call as this client takes it. Raises an Error for what the tagged codec cannot send."
  @spec payload(module(), String.t() | nil, map(), keyword()) :: map()
  def payload(client, kind, fields, runtime) do
    fields = if runtime[:result] == :ref, do: Map.put(fields, "result", "ref"), else: fields

    tagged(client, Payload.call(kind, session(runtime), fields), [
      "args",
      "kwargs",
      "calls",
      "instance",
      "stream_ref",
      "spec",
      "options",
      "on_progress"
    ])
  end

  @doc "A payload whose values under these keys are encoded, for a client that does not take Elixir terms as they are."
  @spec tagged(module(), map(), [String.t()]) :: map()
  def tagged(client, payload, keys) do
    if RuntimeClient.native?(client) do
      payload
    else
      encode = fn -> {:ok, Enum.reduce(keys, payload, &encode_at/2)} end
      # What cannot be encoded raises, and its functions are forgotten.
      {:ok, payload, functions} = CallbackRegistry.sending(nil, self(), encode)

      if functions != [] and RuntimeClient.has?(client, :offer_functions, 1),
        do: client.offer_functions(payload["session_id"])

      payload
    end
  end

  defp encode_at(key, payload) do
    case payload do
      %{^key => value} -> Map.put(payload, key, encoded(value, payload["protocol_version"]))
      _ -> payload
    end
  end

  defp encoded(value, version),
    do: Types.encode(value, callback: &CallbackRegistry.register/1, schema: if(version == 2, do: 2, else: 1))

  @doc "The answer of a client as Elixir terms."
  @spec decoded(module(), result) :: result when result: {:ok, term()} | {:error, term()}
  def decoded(client, {:ok, value}) do
    {:ok, if(RuntimeClient.native?(client), do: value, else: Types.decode(value))}
  end

  def decoded(_, result), do: result

  defp session(runtime) do
    runtime[:session_id] || runtime[:ref_session] || SessionContext.current()
  end

  @doc "The options of a call that uses a ref: in the ref's own session and pool, unless the call names others."
  @spec of(term(), keyword()) :: keyword()
  def of(%kind{}, runtime) when kind not in [Ref, StreamRef], do: runtime
  def of(value, runtime) when not is_struct(value), do: runtime

  def of(ref, runtime) do
    runtime = Keyword.put(runtime, :ref_session, ref.session_id)
    if ref.pool != nil and runtime[:pool] == nil, do: Keyword.put(runtime, :pool, ref.pool), else: runtime
  end

  @doc "What a runtime client is told besides the payload: the defaults of the session, and what the call says."
  @spec options(keyword()) :: keyword()
  def options(runtime) do
    session = session(runtime)
    {options, defaults} = SessionContext.options(session)

    opts =
      defaults
      |> Keyword.merge(Keyword.drop(runtime, [:ref_session, :pool_name, :stream_timeout]), &chosen/3)
      |> Keyword.put_new(:timeout, Application.get_env(:snakebridge, :timeout, @default_timeout))
      |> Keyword.put(:session_id, session)

    if options == %{}, do: opts, else: Keyword.put(opts, :session_options, options)
  end

  # A call's policy says what differs from that of its session.
  defp chosen(:retry, base, given), do: Retry.new(given, Retry.new(base))
  defp chosen(_, _, given), do: given

  @doc "An error that says which Elixir call it came from."
  @spec enrich(term(), origin()) :: term()
  def enrich(%Error{} = error, {module, function, args}) do
    added = %{elixir_module: module, elixir_function: function, elixir_arity: length(args)}
    %{error | context: Map.merge(error.context || %{}, added)}
  end

  def enrich(error, _), do: error

  @doc "A function for the items of a stream as a client gives them, which hands them on as Elixir terms."
  @spec receiving(module(), (term() -> term())) :: (term() -> term())
  def receiving(client, callback) do
    if RuntimeClient.native?(client), do: callback, else: &callback.(&1 |> unwrap() |> Types.decode())
  end

  # Snakepit wraps items in a map.
  defp unwrap(%{"data" => data}), do: data
  defp unwrap(item), do: item
end
