defmodule SnakeBridge.Runtime do
  @moduledoc """
  What generated wrappers call: builds the payload, asks the runtime client, enriches errors with the Elixir call they came from.

  `module` is a wrapper module that exports `__snakebridge_python_name__/0` (and `__snakebridge_python_class__/0` for classes), or the name of a Python
  module. Keyword `opts` become Python keyword arguments, except:

    * `:idempotent` - true: the call may be repeated after a crash of its worker
    * `:idempotency_key` - a text that names this very call, like the id of a job: it is idempotent, runs once at a time, and its answer is
      given again to whoever calls with that key later (docs/reliability.md). `__runtime__: [report: fun]` calls `fun` with
      `%{attempts: count, replayed: boolean}` of a call that was answered
    * `:retry` - a keyword list or a `SnakeBridge.Retry`: how often the call is made when workers die under it (docs/retries.md)
    * `:mutates` - false: the call only reads, and changes nothing in Python; it is idempotent, and in a session that is recovered it
      is not recorded (docs/recovery.md)
    * `:pool` - the pool to use, an atom
    * `:__args__` - further positional arguments
    * `:__runtime__` - `[timeout: ms, session_id: id, pool_name: name, stream_timeout: ms]`; a timeout may be `:infinity`. A call may take
      120 s, a stream with its consumer 30 minutes (`config :snakebridge, timeout: ms, stream_timeout: ms`). In what form results come
      (`:result`, `:bytes`, `:maps`, `:tensors`, `:frames`, `:preserve_identity`) is told in docs/types.md,
      and what goes through shared memory (`:shared`) in docs/sharing.md
  """
  import SnakeBridge.Payload.Fields
  import SnakeBridge.Runtime.Request

  alias SnakeBridge.{
    Error,
    Payload,
    PulledStream,
    Ref,
    RuntimeClient,
    SessionContext,
    Shared,
    StreamRef
  }

  @type target :: module() | String.t()
  @type result :: {:ok, term()} | {:error, Error.t() | term()}

  # A stream lasts as long as its consumer takes.
  @default_stream_timeout 1_800_000

  # --- calls ---

  @doc "Calls a function of a module."
  @spec call(target(), atom() | String.t(), [term()], keyword() | map()) :: result()
  def call(module, function, args \\ [], opts \\ []) do
    {fields, runtime} = split(opts, args)
    # A plain module name is what today's wire calls a dynamic call.
    kind = if is_binary(module), do: "dynamic"
    fields = Map.merge(fields, names(module)) |> Map.put("function", to_string(function))
    request("snakebridge.call", kind, fields, runtime, {module, function, args})
  end

  @doc "Calls a function by the names of its module and itself."
  @spec call_dynamic(String.t(), atom() | String.t(), [term()], keyword() | map()) :: result()
  def call_dynamic(module_path, function, args \\ [], opts \\ []) when is_binary(module_path),
    do: call(module_path, function, args, opts)

  @doc "Makes an instance of a class; the answer is a ref, or a value where Python's is one."
  @spec call_class(target(), atom() | String.t(), [term()], keyword() | map()) :: result()
  def call_class(module, function \\ :__init__, args \\ [], opts \\ []) do
    {fields, runtime} = split(opts, args)

    fields =
      fields
      |> Map.merge(names(module))
      |> Map.merge(%{"function" => to_string(function), "class" => class(module)})

    request("snakebridge.call", "class", fields, runtime, {module, function, args})
  end

  @doc "Calls a method of an object: of one that a ref names, or of a value (an array, a path, a decimal), which Python makes for this call."
  @spec call_method(Ref.t() | StreamRef.t() | term(), atom() | String.t(), [term()], keyword() | map()) ::
          result()
  def call_method(ref, method, args \\ [], opts \\ []) do
    {fields, runtime} = split(opts, args)
    fields = fields |> Map.merge(instance(ref)) |> Map.put("function", to_string(method))
    request("snakebridge.call", "method", fields, of(ref, runtime), {ref, method, args})
  end

  @doc "An attribute of a module."
  @spec get_module_attr(target(), atom() | String.t(), keyword() | map()) :: result()
  def get_module_attr(module, attr, opts \\ []) do
    {fields, runtime} = split(opts, [])

    fields =
      fields
      |> Map.merge(names(module))
      |> Map.merge(%{"attr" => to_string(attr), "function" => to_string(attr)})

    request("snakebridge.call", "module_attr", fields, runtime, {module, attr, []})
  end

  @doc "An attribute of an object, or of a value."
  @spec get_attr(Ref.t() | StreamRef.t() | term(), atom() | String.t(), keyword() | map()) :: result()
  def get_attr(ref, attr, opts \\ []) do
    {fields, runtime} = split(opts, [])

    fields =
      fields
      |> Map.merge(instance(ref))
      |> Map.merge(%{"attr" => to_string(attr), "function" => to_string(attr)})

    request("snakebridge.call", "get_attr", fields, of(ref, runtime), {ref, attr, []})
  end

  @doc "Sets an attribute of an object."
  @spec set_attr(Ref.t() | StreamRef.t(), atom() | String.t(), term(), keyword() | map()) ::
          :ok | {:error, term()}
  def set_attr(ref, attr, value, opts \\ []) do
    {fields, runtime} = split(opts, [value])

    fields =
      fields
      |> Map.merge(instance(ref))
      |> Map.merge(%{"attr" => to_string(attr), "function" => to_string(attr)})

    with {:ok, _} <- request("snakebridge.call", "set_attr", fields, of(ref, runtime), {ref, attr, [value]}),
         do: :ok
  end

  @doc "Calls a helper: a Python function of the project's own (docs/elixir.md)."
  @spec call_helper(String.t(), [term()], keyword() | map()) :: result()
  def call_helper(name, args \\ [], opts \\ []) do
    {fields, runtime} = split(opts, args)
    config = Application.get_env(:snakebridge, :helpers, %{})
    library = name |> String.split(".") |> hd()

    fields =
      Map.merge(fields, %{
        "helper" => name,
        "function" => name,
        "library" => library,
        "helper_config" => stringify(config)
      })

    request("snakebridge.call", "helper", fields, runtime, {"helper", name, args})
  end

  @doc """
  Makes many calls of one function, or of one method of a ref, as one (docs/sessions.md, "Batching"): one result for each list of arguments in `calls`.

  Options: `:args` and `:kwargs` of every call, `:join` (positions of the arguments that are joined along axis 0), `:pad_to` (`:powers_of_two`, or sizes),
  `:runtime` (what is under `:__runtime__` elsewhere).
  """
  @spec call_batch(target() | Ref.t(), atom() | String.t(), [[term()]], keyword()) ::
          {:ok, [result()]} | {:error, term()}
  def call_batch(target, function, calls, opts \\ []) do
    {fields, runtime} =
      split(
        [__runtime__: Keyword.get(opts, :runtime, [])] ++ Keyword.get(opts, :kwargs, []),
        Keyword.get(opts, :args, [])
      )

    pad_to = with :powers_of_two <- opts[:pad_to], do: "powers_of_two"

    fields =
      Map.merge(fields, %{
        "function" => to_string(function),
        "calls" => calls,
        "join" => Keyword.get(opts, :join, [0]),
        "pad_to" => pad_to
      })

    {kind, fields, runtime} =
      if is_struct(target, Ref),
        do: {"method", Map.merge(fields, instance(target)), of(target, runtime)},
        else: {"dynamic", Map.merge(fields, names(target)), runtime}

    origin = {target, function, fields["args"] ++ List.first(calls, [])}

    with {:ok, outcomes} <- request("snakebridge.batch", kind, fields, runtime, origin) do
      {:ok,
       for [fine?, outcome] <- outcomes do
         if fine?, do: {:ok, outcome}, else: {:error, outcome |> Error.from_wire() |> enrich(origin)}
       end}
    end
  end

  @doc "Asks for a tool by its name, as the flow runtime has them; `fields` are its parameters, `runtime` what is under `:__runtime__` elsewhere."
  @spec tool(String.t(), map(), keyword()) :: result()
  def tool(name, fields, runtime \\ []) do
    request(name, nil, Map.merge(tool_fields(name), fields), runtime, {__MODULE__, name, []})
  end

  # A breaker counts by the name of a function. What runs again by itself is nothing for a session to repeat. A worker that has such tools speaks
  # version 2, by which arrays travel as values with every client.
  defp tool_fields(name), do: %{"function" => name, "mutates" => false, "protocol_version" => 2}

  # --- streams ---

  @doc """
  Streams the result of a function to `callback`, item by item. Returns `:ok`, or `{:error, reason}`. `:halt` or `{:halt, reason}` from the callback
  ends the stream.
  """
  @spec stream(target() | Ref.t(), atom() | String.t(), [term()], (term() -> term()), keyword() | map()) ::
          :ok | {:error, term()}
  def stream(target, function, args, callback, opts \\ []) when is_function(callback, 1),
    do: with({:ok, _} <- stream_to_end(target, function, args, callback, opts), do: :ok)

  @doc "As `stream/5`, but `{:ok, value}`: what the generator returned, nil when that is nothing, or the stream was halted, or the client does not tell."
  @spec stream_to_end(
          target() | Ref.t(),
          atom() | String.t(),
          [term()],
          (term() -> term()),
          keyword() | map()
        ) ::
          {:ok, term()} | {:error, term()}
  def stream_to_end(target, function, args, callback, opts) do
    {kind, fields, runtime} = stream_fields(target, function, args, opts)
    client = RuntimeClient.current()

    with {:ok, payload} <- sendable(client, kind, fields, runtime),
         :ok <-
           client.execute_stream(
             "snakebridge.stream",
             payload,
             receiving(client, callback),
             options(runtime)
           ) do
      {:ok, nil}
    else
      {:ok, value} -> {:ok, value}
      {:error, error} -> {:error, enrich(error, {target, function, args})}
    end
  end

  # What the consumer of the items raises is not ours to catch, so only this is done here.
  defp sendable(client, kind, fields, runtime) do
    {:ok, payload(client, kind, fields, runtime)}
  rescue
    # The tagged codec raises: its value cannot travel.
    error in Error -> {:error, error}
  end

  @doc "The items of a function's result as a lazy enumerable: opened when it is first asked, closed when it is left. Errors are raised."
  @spec lazy_stream(target() | Ref.t(), atom() | String.t(), [term()], keyword() | map()) :: Enumerable.t()
  def lazy_stream(target, function, args, opts) do
    {kind, fields, runtime} = stream_fields(target, function, args, opts)
    lazily("snakebridge.stream", kind, fields, runtime, {target, function, args})
  end

  @doc "What a tool streams, as a lazy enumerable; `fields` and `runtime` as in `tool/3`. Errors are raised."
  @spec tool_stream(String.t(), map(), keyword()) :: Enumerable.t()
  def tool_stream(name, fields, runtime \\ []) do
    runtime = Keyword.put(runtime, :timeout, stream_timeout(runtime))
    fields = Map.merge(tool_fields(name), Map.put(fields, "streaming", true))
    lazily(name, nil, fields, runtime, {__MODULE__, name, []})
  end

  defp lazily(tool, kind, fields, runtime, origin) do
    Stream.resource(
      fn -> open(tool, kind, fields, runtime, origin) end,
      fn
        {:failed, error, _} ->
          raise error

        stream ->
          case next(stream) do
            {:items, items, stream} -> {items, stream}
            {:done, stream} -> {:halt, stream}
            # Raised at the next step: the accumulator of a step that raises is the one before it, a stream that still looks open.
            {:error, error, stream} -> {[], {:failed, enrich(error, origin), stream}}
          end
      end,
      fn
        {:failed, _, stream} -> halt(stream)
        stream -> halt(stream)
      end
    )
  end

  defp open(tool, kind, fields, runtime, origin) do
    # The session is looked up when the stream is opened: it is the consumer's.
    client = RuntimeClient.current()
    payload = payload(client, kind, fields, runtime)
    opts = options(runtime)

    if client == SnakeBridge.Pool do
      case SnakeBridge.Pool.open_stream(tool, payload, opts) do
        {:ok, stream} -> stream
        {:error, error} -> raise enrich(error, origin)
      end
    else
      if RuntimeClient.has?(client, :track, 1), do: client.track(payload)

      PulledStream.open(fn hand_over ->
        client.execute_stream(tool, payload, receiving(client, hand_over), opts)
      end)
    end
  end

  defp next(%PulledStream{} = stream), do: PulledStream.next(stream)
  defp next(stream), do: SnakeBridge.Exchange.Stream.next(stream)

  defp halt(%PulledStream{} = stream), do: PulledStream.halt(stream)
  defp halt(stream), do: SnakeBridge.Exchange.Stream.halt(stream)

  defp stream_fields(target, function, args, opts) do
    {fields, runtime} = split(opts, args)

    if fields["idempotency_key"],
      do: raise(ArgumentError, "a stream has no idempotency_key: what it has sent is not recorded")

    runtime = Keyword.put(runtime, :timeout, stream_timeout(runtime))
    fields = Map.merge(fields, %{"function" => to_string(function), "streaming" => true})

    case target do
      %kind{} = ref when kind in [Ref, StreamRef] ->
        {"method", Map.merge(fields, instance(ref)), of(ref, runtime)}

      module when is_binary(module) ->
        {"dynamic", Map.merge(fields, names(module)), runtime}

      module ->
        {nil, Map.merge(fields, names(module)), runtime}
    end
  end

  defp stream_timeout(runtime) do
    runtime[:stream_timeout] || runtime[:timeout] ||
      Application.get_env(:snakebridge, :stream_timeout, @default_stream_timeout)
  end

  @doc "The next item of a held stream: `{:ok, item}` or `:done`."
  @spec stream_next(StreamRef.t() | Ref.t(), keyword()) :: {:ok, term()} | :done | {:error, term()}
  def stream_next(ref, opts \\ []) do
    case step(ref, %{}, opts) do
      {:ok, %{"__type__" => "stop_iteration"}} -> :done
      result -> result
    end
  end

  @doc "Up to `count` items of a held stream: `{:ok, items, done?}`."
  @spec stream_batch(StreamRef.t() | Ref.t(), pos_integer(), keyword()) ::
          {:ok, [term()], boolean()} | {:error, term()}
  def stream_batch(ref, count, opts \\ []) do
    with {:ok, %{"items" => items, "done" => done}} <- step(ref, %{"batch" => count}, opts),
         do: {:ok, items, done}
  end

  @doc "Gives the last `count` items of the last batch back, so that whoever reads next gets them."
  @spec stream_unread(StreamRef.t() | Ref.t(), non_neg_integer(), keyword()) :: :ok | {:error, term()}
  def stream_unread(_, count, opts \\ [])
  def stream_unread(_, 0, _), do: :ok
  def stream_unread(ref, count, opts), do: with({:ok, _} <- step(ref, %{"unread" => count}, opts), do: :ok)

  defp step(ref, extra, opts) do
    {_, runtime} = split(opts, [])
    # Python knows which items a crash has lost on their way, and gives them again.
    again = if SessionContext.recovered?(ref.session_id), do: %{"idempotent" => true}, else: %{}
    fields = %{"stream_ref" => ref, "library" => ref.library} |> Map.merge(extra) |> Map.merge(again)
    request("snakebridge.call", "stream_next", fields, of(ref, runtime), {ref, :stream_next, []})
  end

  # --- sessions and refs ---

  @doc "Releases a ref; whether it was still there."
  @spec release_ref(Ref.t() | StreamRef.t()) :: {:ok, boolean()} | {:error, term()}
  def release_ref(ref) do
    client = RuntimeClient.current()
    payload = tagged(client, Payload.release_ref(ref), ["ref"])
    decoded(client, client.execute("snakebridge.release_ref", payload, options(of(ref, []))))
  end

  @doc "Ends a session."
  @spec release_session(String.t()) :: :ok | {:error, term()}
  def release_session(session) do
    Shared.release_session(session)

    case RuntimeClient.current() do
      SnakeBridge.Pool ->
        SnakeBridge.Pool.release_session(session)

      client ->
        with {:ok, _} <-
               client.execute("snakebridge.release_session", Payload.release_session(session),
                 session_id: session
               ),
             do: :ok
    end
  end
end
