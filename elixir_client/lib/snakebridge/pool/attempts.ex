defmodule SnakeBridge.Pool.Attempts do
  @moduledoc """
  How often a call is made, when workers die under it: asks the circuit breaker of its function, makes it, tells the breaker what came of it, and
  makes it again where the policy (`SnakeBridge.Retry`) allows that.

  Errors leave here with an honest `outcome`: once an attempt may have begun, nothing that happens to a later one makes the call `:not_started`
  again.
  """
  alias SnakeBridge.{Breaker, Error, Exchange, Pool, Retry, Telemetry}
  alias SnakeBridge.Pool.Placement

  # Errors of calls that did not end by themselves.
  @interrupted [:worker_crash, :unavailable, :worker_start, :timeout, :cancelled]
  # Those after which a call may be made again.
  @repeated [:worker_crash, :unavailable]

  @type result :: {:ok, term()} | {:error, Error.t()}
  @typedoc "What a worker made of it, or why there is none for it any more."
  @type use :: (worker :: map(), session :: String.t(), context :: map() -> result() | {:refused, Error.t()})

  @doc """
  Runs `use` with the worker of the payload's session, and what a call knows of itself; again where a dead worker allows that. Returns the result,
  and how many attempts were made.
  """
  @spec run(map(), keyword(), use()) :: {result(), non_neg_integer()}
  def run(payload, opts, use) do
    pool = Keyword.get(opts, :pool, :default)
    timeout = Keyword.get(opts, :timeout, 120_000)

    context = %{
      pool: pool,
      timeout: timeout,
      deadline: Pool.deadline(timeout),
      opts: opts,
      attempt: 1,
      circuit: Breaker.key(pool, payload)
    }

    # A policy that is none is found before anything is done.
    retry = opts[:retry]
    if retry != nil, do: Retry.new(retry)

    # begun: the last failure of an attempt that may have begun
    call = %{
      session: payload["session_id"] || "default",
      idempotent?: payload["idempotent"] == true,
      use: use,
      retry: retry,
      begun: nil
    }

    attempt(call, context)
  end

  defp attempt(call, %{circuit: circuit} = context) do
    case Breaker.permit(circuit) do
      :pass ->
        made = once(call, context)
        with {:failed, kind} <- verdict(made), do: Breaker.failed(circuit, kind, nil, incident(made))
        conclude(made, call, context)

      :watched ->
        made = once(call, context)
        tell(circuit, made)
        conclude(made, call, context)

      {:probe, token} ->
        call |> probe(context, token) |> conclude(call, context)

      {:error, error} ->
        conclude({:refused, error}, call, context)
    end
  end

  # An attempt: made, with this result, or refused because there is no worker for it.
  defp once(call, context) do
    case Placement.place(context, call.session) do
      {:ok, worker} -> made(call.use.(worker, call.session, context))
      {:error, error} -> {:refused, error}
    end
  end

  # What its pool has refused it refuses again: a pool that drains is not asked until it stops.
  defp made({:refused, error}), do: {:refused, error}
  defp made(result), do: {:made, result}

  # Whatever becomes of a probe, its place in the breaker is given back.
  defp probe(call, %{circuit: circuit} = context, token) do
    made = once(call, context)

    case verdict(made) do
      {:failed, kind} -> Breaker.failed(circuit, kind, token, incident(made))
      :succeeded -> Breaker.succeeded(circuit, token)
      :none -> Breaker.released(circuit, token)
    end

    made
  catch
    kind, reason ->
      Breaker.released(context.circuit, token)
      :erlang.raise(kind, reason, __STACKTRACE__)
  end

  # What an attempt says of the function: workers that were killed for what another call did, and calls that did not begin, say nothing. How a
  # stream ends is told by who reads it.
  defp verdict({:made, {:ok, %Exchange.Stream{}}}), do: :none
  defp verdict({:made, {:ok, _}}), do: :succeeded
  defp verdict({:made, {:error, %Error{category: :python_error}}}), do: {:failed, :python_error}
  defp verdict({:made, {:error, error}}), do: if(culpable?(error), do: {:failed, :crash}, else: :none)
  defp verdict({:refused, _}), do: :none

  defp incident({:made, {:error, %Error{details: details}}}), do: details[:worker]

  @doc "Tells a breaker how a call of its function has ended."
  @spec ended(Breaker.key() | nil, result()) :: :ok
  def ended(circuit, result), do: tell(circuit, {:made, result})

  defp tell(circuit, made) do
    case verdict(made) do
      {:failed, kind} -> Breaker.failed(circuit, kind, nil, incident(made))
      :succeeded -> Breaker.succeeded(circuit)
      :none -> :ok
    end
  end

  @doc """
  Whether a call may have been the cause of its worker's death. A lost connection alone is no death: whoever looks after a worker on another machine
  tells the breaker itself when another process answers there.
  """
  @spec culpable?(Error.t() | term()) :: boolean()
  def culpable?(%Error{details: %{cause: :connection_lost}}), do: false

  def culpable?(%Error{category: :worker_crash, outcome: :unknown, details: details}),
    do: details[:killed_for] in [nil, :missed_heartbeat]

  def culpable?(_), do: false

  # --- the end, or another attempt ---

  defp conclude({:made, {:error, %Error{category: :unknown_ref} = error}}, call, context),
    do: final(Placement.lost(context.pool, call.session, error), context.attempt, call)

  defp conclude({:made, {:error, %Error{category: category} = error}}, call, context)
       when category in @repeated do
    error = begun(error)
    policy = Retry.new(call.retry, Retry.of(context.pool))

    case Retry.decide(policy, error, context.attempt, call.idempotent?, Pool.left(context.deadline)) do
      {:again, pause} ->
        report(error, pause, context)
        Process.sleep(pause)
        begun = if error.outcome == :unknown, do: error, else: call.begun
        attempt(%{call | begun: begun}, %{context | attempt: context.attempt + 1})

      :final ->
        final(error, context.attempt, call)

      :out_of_time ->
        final(add(error, "its deadline leaves no time for another attempt"), context.attempt, call)
    end
  end

  defp conclude({:made, {:error, %Error{} = error}}, call, context), do: final(error, context.attempt, call)
  defp conclude({:made, result}, _, context), do: {result, context.attempt}

  # Its breaker opened while it was made again: what is told is why it had to be.
  defp conclude(
         {:refused, %Error{category: :circuit_open} = error},
         %{begun: %Error{} = begun} = call,
         context
       ),
       do: begun |> add("it is not made again: #{error.message}") |> final(context.attempt - 1, call)

  defp conclude({:refused, error}, call, context),
    do: error |> honest(:not_started) |> final(context.attempt - 1, call)

  defp final(error, attempts, call) do
    error = begun(error)

    error =
      if call.begun != nil and error.outcome == :not_started,
        do: add(%{error | outcome: :unknown}, "an earlier attempt may have taken effect"),
        else: error

    if attempts > 1 or call.begun != nil or error.category == :worker_crash,
      do: {{:error, %{error | details: Map.put(error.details, :attempts, attempts)}}, attempts},
      else: {{:error, error}, attempts}
  end

  @doc "The error of a call that has been sent: if it did not end by itself, nobody knows what it did, unless the worker says so."
  @spec begun(Error.t()) :: Error.t()
  def begun(error), do: honest(error, :unknown)

  defp honest(%Error{outcome: nil, category: category} = error, outcome) when category in @interrupted,
    do: %{error | outcome: outcome}

  defp honest(error, _), do: error

  defp add(error, text), do: %{error | message: "#{error.message}; #{text}"}

  defp report(error, pause, %{pool: pool, attempt: attempt, circuit: circuit}) do
    {module, function} =
      with({_, module, function} <- circuit, do: {module, function}, else: (_ -> {nil, nil}))

    metadata = %{
      pool: pool,
      module: module,
      function: function,
      attempt: attempt,
      cause: error.details[:cause]
    }

    Telemetry.execute([:snakebridge, :call, :retry], %{pause: pause}, metadata)
  end
end
