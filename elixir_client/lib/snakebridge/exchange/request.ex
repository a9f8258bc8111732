defmodule SnakeBridge.Exchange.Request do
  @moduledoc """
  What goes to Python: the body of a request, the functions that are in it, and the codec options for it and its answer. Functions are
  registered while the body is built, so whoever cannot send it whole lets go of them here.
  """
  alias SnakeBridge.{CallbackRegistry, Error, Lane, Pool, SessionManager, Shared, Telemetry}
  alias SnakeBridge.Codec.Options
  alias SnakeBridge.Exchange.Nesting
  alias SnakeBridge.Lane.Connection
  alias SnakeBridge.Pool.{Connections, Slots}

  # The executor interrupts a call at its deadline and answers; only if it cannot does the client give up by itself.
  @slack 300
  @credit 512

  @typedoc "The ids of the functions in a body."
  @type functions :: [String.t()]

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

  @doc "In a fixed order, because it is the key under which the options are kept."
  @spec form(keyword()) :: keyword()
  def form(opts) do
    for key <- [:bytes, :maps, :tensors, :frames],
        value = Keyword.get(opts, key) || Application.get_env(:snakebridge, key),
        do: {key, value}
  end

  @doc "Items that a stream may send before it is given more credit."
  @spec credit() :: pos_integer()
  def credit, do: @credit

  @spec id() :: pos_integer()
  def id, do: :erlang.unique_integer([:positive])

  @doc "The body of a request, the functions in it, and whether it holds refs to shared memory."
  @spec encode(pos_integer(), String.t(), String.t(), map(), map(), {map(), list() | nil}, Options.t()) ::
          {:ok, iodata(), functions(), boolean()} | {:error, Error.t()}
  def encode(id, method, tool, payload, context, {worker, parent}, options) do
    started = System.monotonic_time()
    params = %{"tool" => tool, "payload" => payload, "timeout_ms" => timeout_ms(context.deadline)}
    params = if method == "stream", do: Map.put(params, "credit", @credit), else: params
    params = with %{skip: skip} <- context, do: Map.put(params, "skip", skip), else: (_ -> params)
    params = if parent, do: Map.put(params, "parent", parent), else: params
    params = if worker.output == :worker, do: params, else: Map.put(params, "caller", SessionManager.number())
    session_options = session_options(worker, Keyword.get(context.opts, :session_options))
    params = if session_options, do: Map.put(params, "session_options", session_options), else: params
    params = if context.opts[:preserve_identity] == true, do: Map.put(params, "identity", true), else: params

    params =
      case context do
        # What is recorded must be all there.
        %{key: key} when key != nil -> Map.put(params, "key", key)
        _ when method == "call" -> sharing(params, worker, context.opts)
        _ -> params
      end

    encode = fn -> Lane.request(id, method, params, options) end
    {result, shares?} = Shared.noting(fn -> CallbackRegistry.sending(Nesting.key(worker), self(), encode) end)
    Telemetry.note_encode(System.monotonic_time() - started)
    with {:ok, body, functions} <- result, do: {:ok, body, functions, shares?}
  end

  # How many calls of a session may wait for their turn is the pool's to say, where the session does not.
  defp session_options(%{session_queue: nil}, options), do: options
  defp session_options(%{session_queue: most}, options), do: Map.put_new(options || %{}, "max_queue", most)

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

  defp timeout_ms(:infinity), do: nil
  defp timeout_ms(deadline), do: Pool.left(deadline)

  @doc "The options for the answer: who passes refs gets refs."
  @spec receiving(Options.t(), boolean(), String.t(), map()) :: Options.t()
  def receiving(options, shares?, session, %{opts: opts, pool: pool}) do
    mode = if shares? or opts[:shared] == true, do: :refs, else: :read
    %{options | segments: &Shared.receive_segment(mode, session, pool, &1)}
  end

  @doc "Who wants a connection for a request; `parent` is the call on whose behalf, if there is one."
  @spec claim(Slots.holder(), pos_integer(), String.t(), list() | nil, map()) :: Slots.claim()
  def claim(holder, id, session, parent, context) do
    nested = if parent, do: :here, else: if(Nesting.nested?(), do: :elsewhere)
    # What ends work is let in wherever new work is refused.
    ends = Map.get(context, :ends, false)
    %{holder: holder, request: id, session: 1 + :erlang.phash2(session), nested: nested, ends: ends}
  end

  @doc "A connection for a request."
  @spec checkout(map(), Slots.claim(), map(), functions()) :: {:ok, Connection.t()} | {:error, Error.t()}
  def checkout(worker, claim, context, functions) do
    with {:error, error} <- Connections.checkout(worker, claim, context.deadline) do
      CallbackRegistry.release(functions)
      {:error, error}
    end
  end

  @doc "Sends a body. What is not sent whole brings no function to Python."
  @spec send_with(functions(), Connection.t(), iodata()) ::
          :ok | {:refused, Error.t()} | {:broken, :not_started, term()}
  def send_with(functions, connection, body) do
    with {:error, reason} <- Connection.send(connection, body) do
      CallbackRegistry.release(functions)
      if is_struct(reason, Error), do: {:refused, reason}, else: {:broken, :not_started, reason}
    end
  end

  @doc "Lets go of functions whose worker has died: its end forgot those that were registered before it."
  @spec forget_with(map(), functions()) :: :ok | nil
  def forget_with(worker, functions),
    do: unless(Slots.alive?(worker.slots), do: CallbackRegistry.release(functions))

  @doc "How long to wait for what comes next."
  @spec patience(integer() | :infinity) :: timeout()
  def patience(:infinity), do: :infinity
  def patience(deadline), do: Pool.left(deadline) + @slack

  @doc "The error of a request that even its interruption did not end."
  @spec timeout_error() :: Error.t()
  def timeout_error do
    Error.new(
      :timeout,
      "the call did not finish within its timeout and did not react to its interruption; its worker is killed if it goes on",
      %{outcome: :unknown}
    )
  end
end
