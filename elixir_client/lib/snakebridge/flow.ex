defmodule SnakeBridge.Flow do
  @moduledoc """
  Minimises energies on the accelerator (docs/flow/elixir.md).

      import SnakeBridge.Flow, only: [spec: 1, slot: 1, term: 3, op: 2]

      spec =
        spec(
          slots: [x: slot(shape: {512, 512}), y: slot(value: photograph, role: :data)],
          terms: [
            term(:quadratic, :x, op: op(:gaussian_blur, sigma: 2.0), target: :y),
            term(:wavelet_l1, :x, weight: 0.01, params: [wavelet: :db4, levels: 3])
          ]
        )

      {:ok, result} = SnakeBridge.Flow.run(spec, iterations: 500)
      result.state["x"]

      {:ok, result} = SnakeBridge.Flow.run(spec, certified: [gap_dial: [sigma: 0.01]])
      {result.phase, result.card["passed"]}

  A spec is plain data: maps, keyword lists and structs will do wherever one is wanted, and atoms stand for texts. Python checks it, and names the
  place of a mistake (`terms[1].op.sigma`). Arrays are `SnakeBridge.Tensor`s, Nx tensors, values in shared memory, or lists.
  """
  import SnakeBridge.Wrapper, only: [bang: 1]

  alias SnakeBridge.{Error, Runtime, RuntimeClient, SessionContext, SessionManager}
  alias SnakeBridge.Flow.{Live, Plain, Result, Run, Verdict, Workers}

  @compiling [:solver, :tol, :alpha, :sigma, :damping, :temperature, :seed, :validation]
  @running [:iterations, :block, :save_every, :certified, :redact]
  @ours [:on_progress, :run_id, :record, :idempotent, :idempotency_key, :retry, :pool, :timeout, :session_id]
  @default_timeout 1_800_000

  @type description :: map() | keyword() | struct()
  @type progress :: (map() -> :cont | :cancel | term())
  @type failure :: {:error, Error.t() | term()}

  # --- descriptions ---

  @doc """
  An energy: `slots:` by name, `terms:`, and what `FlowSpec` of the flow runtime has besides (`name:`, `dtype:`, `operators:`, `pairs:`,
  `couplings:`, `normalise:`, `allow_nonconvex:`).
  """
  @spec spec(description()) :: map()
  def spec(fields), do: described(fields, "a spec")

  @doc "A named array: `shape:` or `value:`, `role:` (`:variable`, `:data`, `:parameter`, `:momentum`), `manifold:` (`:sphere`, `{:sphere, radius: 2.0}`), `units:`."
  @spec slot(description()) :: map()
  def slot(fields), do: described(fields, "a slot")

  @doc "A term: an atom of the library, the slot or slots that it is about, and `op:`, `target:`, `weight:`, `params:`, `name:`, `group:`, `units:`."
  @spec term(atom() | String.t(), atom() | String.t() | [atom() | String.t()], description()) :: map()
  def term(type, variable, fields \\ []),
    do:
      fields
      |> described("a term")
      |> Map.merge(%{"type" => Plain.plain(type, ["type"]), "variable" => Plain.plain(variable, ["variable"])})

  @doc "An operator: its kind and its parameters, which may be operators again."
  @spec op(atom() | String.t(), description()) :: map()
  def op(kind, params \\ []), do: params |> described("an operator") |> Map.put("kind", Plain.plain(kind))

  defp described([], _), do: %{}

  defp described(fields, what) do
    case Plain.plain(fields) do
      %{__struct__: _} -> not_described(fields, what)
      %{} = map -> map
      _ -> not_described(fields, what)
    end
  end

  @spec not_described(term(), String.t()) :: no_return()
  defp not_described(fields, what),
    do: raise(ArgumentError, "#{what} is a keyword list or a map, not #{inspect(fields, limit: 5)}")

  # --- runs ---

  @doc """
  What the compiler makes of a spec: `%{"solver" => ..., "reason" => ..., "alpha" => ..., "warnings" => ...}`. Options: `solver:`, `tol:`,
  `alpha:`, `sigma:`, `damping:`, `temperature:`, `seed:`, `validation:`; `pool:`, `timeout:`.
  """
  @spec compile(description(), keyword()) :: {:ok, map()} | failure()
  def compile(spec, opts \\ []) do
    opts = checked(opts, @compiling ++ [:pool, :timeout, :session_id])
    Runtime.tool("flow.compile", fields(spec, opts), runtime(opts))
  end

  @doc """
  What can be certified of a spec before it moves. Options: `profile:` (`:strict`, `:convex`, or the fields of a profile), and those of `compile/2`.

      {:ok, verdict} = SnakeBridge.Flow.certify(spec, profile: [eta_max: 0.5])
      {verdict.phase, verdict.told}
  """
  @spec certify(description(), keyword()) :: {:ok, Verdict.t()} | failure()
  def certify(spec, opts \\ []) do
    opts = checked(opts, @compiling ++ [:profile, :pool, :timeout, :session_id])

    with {:ok, answer} <- Runtime.tool("flow.certify", fields(spec, opts), runtime(opts)),
         do: {:ok, Verdict.from_wire(answer)}
  end

  @doc """
  Minimises the energy of a spec, and waits for the result.

  Options of the run: `iterations:` (1000), `tol:` (of the relative residual, 1.0e-6), those of `compile/2`, `block:` (steps between two
  reports; default: about a fifth of a second's worth), `redact:`, `save_every:` (seconds between checkpoints, 5.0). And:

    * `certified:` - true, or what a certified run is asked for, as a keyword list: `profile:` (`:strict`, `:convex`, or its fields), `policy:`
      (`:basic`, `:accelerated`, `:preconditioned`, or its fields), `multiscale:`, `gap_dial:`, `sparsity:`, `config:` (their fields, as docs/flow/elixir.md
      has them)
    * `on_progress:` - called in this process after each block, with `%{"iteration" => ..., "energy" => ..., "residual" => ...}`, of a certified run also
      `"phase"`; `:cancel` ends the run
    * `run_id:` - a name, under which it is recorded in the runs directory of the worker. Who runs it again gets its answer, or goes on with it
      where it was cut off
    * `record:` - true: under a name that is made up (`result.run_id`); false: not even with a name
    * `idempotent: true` - when its worker dies, the next one goes on from the last checkpoint; bit for bit the same result
    * `idempotency_key:` - a text that names this very run: it is idempotent, and who runs with that key later gets the answer again
    * `retry:` (docs/retries.md), `pool:`, `timeout:` (ms, 30 minutes), `session_id:`
  """
  @spec run(description(), keyword()) :: {:ok, Result.t()} | failure()
  def run(spec, opts \\ []) do
    opts = opts |> checked(@compiling ++ @running ++ @ours) |> with_id()
    Live.within(opts[:run_id], opts[:pool], &started(spec, opts, &1))
  end

  @doc "As `run/2`; raises."
  @spec run!(description(), keyword()) :: Result.t()
  def run!(spec, opts \\ []), do: bang(run(spec, opts))

  @doc """
  A run as a lazy enumerable: `{:progress, info}` after each block of steps, and `{:result, result}` at its end. It begins when it is first asked, and
  whoever leaves it early ends the run, which is then saved where it stands, if it is recorded. Errors are raised.

      spec
      |> SnakeBridge.Flow.stream(iterations: 100_000)
      |> Enum.find_value(fn
        {:progress, info} -> info["residual"] < 1.0e-3
        {:result, _} -> true
      end)

  Python waits for a reader that is 256 items behind. Options of `run/2` but `on_progress:` and `idempotency_key:`. One that is `idempotent:` goes on after
  the death of its worker with the reports of the blocks after the last checkpoint.
  """
  @spec stream(description(), keyword()) :: Enumerable.t()
  def stream(spec, opts \\ []) do
    opts = checked(opts, @compiling ++ @running ++ (@ours -- [:on_progress, :idempotency_key]))
    fields = fields(spec, opts)

    # Each time that it is enumerated it is a run of its own, unless it has a name.
    Stream.flat_map([fields], fn fields ->
      opts = with_id(opts)

      Live.during(opts[:run_id], opts[:pool], fn call ->
        fields = fields |> Map.merge(identity(opts)) |> Map.put("call", call)
        "flow.run" |> Runtime.tool_stream(fields, runtime(opts)) |> Stream.map(&told/1)
      end)
    end)
  end

  defp told(%{"event" => "result"} = item), do: {:result, Result.from_wire(item)}
  defp told(%{"event" => "progress"} = item), do: {:progress, Map.delete(item, "event")}

  @doc "Starts a run in a task that is linked to this process, with the options of `run/2`. `on_progress:` is called in that task."
  @spec start(description(), keyword()) :: Run.t()
  def start(spec, opts \\ []) do
    opts = opts |> checked(@compiling ++ @running ++ @ours) |> with_id()
    client = RuntimeClient.current()
    # With the task its own session ends, and what that holds in shared memory.
    holder = opts[:session_id] || SessionContext.current()
    if Process.whereis(SessionManager), do: SessionManager.track()

    work = fn call ->
      with {:ok, result} <- RuntimeClient.with_client(client, fn -> started(spec, opts, call) end),
           do: {:ok, Result.held_by(result, holder)}
    end

    %Run{run_id: opts[:run_id], task: Live.start(opts[:run_id], opts[:pool], work), pool: opts[:pool]}
  end

  @doc """
  The result of a run that this process has started. Exits like `Task.await/2` when it takes longer than `timeout` milliseconds; who catches that may
  cancel the run and await it again. The result is given once: awaited again, it raises ArgumentError.
  """
  @spec await(Run.t(), timeout()) :: {:ok, Result.t()} | failure()
  def await(%Run{task: task} = run, timeout \\ :infinity) do
    # Not Task.await: after its timeout nobody gets the answer any more, and who waits again waits for ever.
    case Live.yield(task, timeout) do
      {:ok, answer} ->
        answer

      :taken ->
        raise ArgumentError,
              "the result of the run #{inspect(run.run_id)} was awaited already; keep what await gave"

      {:exit, reason} ->
        exit({reason, {__MODULE__, :await, [run, timeout]}})

      nil ->
        exit({:timeout, {__MODULE__, :await, [run, timeout]}})
    end
  end

  @doc """
  Ends a run, whoever started it, after the block that it is in: its result says `:cancelled`, and, if it is recorded, it can be resumed. The answer
  tells whether there was such a run. Of a run that a process of this node waits for it is remembered until the run is over: one that has not reached its
  worker yet, or moves to another because its worker has died, ends after the first block that it makes there. Option: `pool:`; by default all pools
  are asked.
  """
  @spec cancel(Run.t() | String.t() | atom(), keyword()) :: {:ok, boolean()} | failure()
  def cancel(run, opts \\ [])
  def cancel(%Run{run_id: run_id, pool: pool}, opts), do: cancel(run_id, Keyword.put_new(opts, :pool, pool))

  def cancel(run_id, opts) do
    opts = checked(opts, [:pool])

    Live.cancel(name!(run_id), opts[:pool])
  end

  @doc """
  Goes on with a recorded run from its last checkpoint, whatever ended it. The spec is the one that it ran with: a capsule does not hold its arrays.
  Options of `run/2`; `iterations:` counts from the start of the run, and is by default what it was to have.
  """
  @spec resume(Run.t() | String.t() | atom(), description(), keyword()) :: {:ok, Result.t()} | failure()
  def resume(run, spec, opts \\ [])
  def resume(%Run{run_id: run_id}, spec, opts), do: resume(run_id, spec, opts)

  def resume(run_id, spec, opts) do
    opts =
      checked(opts, @compiling ++ (@running -- [:redact]) ++ (@ours -- [:run_id, :record, :idempotency_key]))

    fields = spec |> fields(opts) |> Map.put("run_id", name!(run_id))

    Live.within(fields["run_id"], opts[:pool], &asked("flow.resume", fields, opts, &1))
  end

  @doc """
  The runs that go on in the workers of a pool, and those recorded in their runs directory, the latest first: maps with `run_id`, `status`
  (`:running`, `:interrupted` when its process has died, else how it ended), `flow_name`, `iterations`, `energy`, `solver`, `started_at`,
  `ended_at`, `capsule`. Option: `pool:` (`:default`).
  """
  @spec list(keyword()) :: {:ok, [map()]} | failure()
  def list(opts \\ []) do
    pool = opts |> checked([:pool]) |> Keyword.get(:pool, :default)

    with {:ok, recorded} <-
           Runtime.tool("flow.list", %{"idempotent" => true}, pool: pool, session_id: "snakebridge.flow"),
         {:ok, live} <- Workers.ask(pool, "flow.list", %{"recorded" => false}) do
      live = Map.new(List.flatten(live), &{&1["run_id"], &1})

      known =
        for entry <- recorded,
            do: Map.merge(entry, Map.take(live[entry["run_id"]] || %{}, ~w(status iterations energy)))

      new = live |> Map.drop(Enum.map(recorded, & &1["run_id"])) |> Map.values()
      {:ok, Enum.map(new ++ known, &entry/1)}
    end
  end

  @entry [:run_id, :status, :flow_name, :iterations, :energy, :solver, :started_at, :ended_at, :capsule]

  defp entry(told) do
    entry = Map.new(@entry, &{&1, told[Atom.to_string(&1)]})
    %{entry | status: Result.status(entry.status)}
  end

  # --- the request ---

  defp started(spec, opts, call),
    do: asked("flow.run", Map.merge(fields(spec, opts), identity(opts)), opts, call)

  defp asked(tool, fields, opts, call) do
    with {:ok, answer} <- Runtime.tool(tool, Map.put(fields, "call", call), runtime(opts)),
         do: {:ok, Result.from_wire(answer)}
  end

  defp identity(opts),
    do: %{"run_id" => opts[:run_id], "record" => opts[:record], "idempotent" => opts[:idempotent]}

  # Every run has a name from here on, by which it can be cancelled; what is to survive a worker is recorded under it.
  defp with_id(opts) do
    named = if is_nil(opts[:run_id]), do: keyed(opts[:idempotency_key]), else: name!(opts[:run_id])
    idempotent? = opts[:idempotent] == true or opts[:idempotency_key] != nil
    record? = if is_nil(opts[:record]), do: named != nil or idempotent?, else: opts[:record]

    Keyword.merge(opts, run_id: named || random(), record: record?, idempotent: idempotent?)
  end

  # What a run may be called, the runs directory says.
  defp name!(run_id) when is_binary(run_id), do: run_id
  defp name!(run_id) when is_atom(run_id) and run_id not in [nil, true, false], do: Atom.to_string(run_id)

  defp name!(other),
    do: raise(ArgumentError, "a run is known by its name, a text, not by #{inspect(other, limit: 5)}")

  defp keyed(nil), do: nil

  defp keyed(key) do
    digest = :crypto.hash(:sha256, SnakeBridge.Pool.Journal.check!(key))
    "key-" <> Base.encode16(digest, case: :lower)
  end

  defp random, do: "run-" <> Base.encode16(:crypto.strong_rand_bytes(8), case: :lower)

  defp fields(spec, opts) do
    %{
      "spec" => described(spec, "a spec"),
      "options" => opts |> Keyword.take(@compiling ++ @running ++ [:profile]) |> described("the options"),
      "on_progress" => opts[:on_progress],
      "idempotent" => opts[:idempotent] == true
    }
  end

  defp runtime(opts) do
    timeout = opts[:timeout] || Application.get_env(:snakebridge, :stream_timeout, @default_timeout)
    opts |> Keyword.take([:pool, :retry, :session_id]) |> Keyword.put(:timeout, timeout)
  end

  defp checked(opts, known) do
    unless Keyword.keyword?(opts),
      do: raise(ArgumentError, "options are a keyword list, not #{inspect(opts, limit: 5)}")

    case Enum.uniq(Keyword.keys(opts)) -- known do
      [] ->
        once(Keyword.keys(opts))
        progress(opts[:on_progress])
        for name <- [:idempotent, :record], do: flag(name, opts[name])
        opts

      [unknown | _] ->
        raise ArgumentError,
              "there is no option #{inspect(unknown)}; the options are #{Enum.map_join(known, ", ", &inspect/1)}"
    end
  end

  defp once(names) do
    with [twice | _] <- names -- Enum.uniq(names),
         do: raise(ArgumentError, "the option #{inspect(twice)} is said twice; say it once")
  end

  # Taken for false, a wrong one would be missed only when a worker has died.
  defp flag(_, value) when value in [nil, true, false], do: :ok

  defp flag(name, other),
    do: raise(ArgumentError, "#{name}: is true or false, not #{inspect(other, limit: 5)}")

  defp progress(nil), do: :ok
  defp progress(function) when is_function(function, 1), do: :ok

  defp progress(other),
    do: raise(ArgumentError, "on_progress: is a function of one argument, not #{inspect(other)}")
end
